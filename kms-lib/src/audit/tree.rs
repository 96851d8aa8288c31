//! The Merkle tree over the records' hashes (RFC 6962, 2.1).

use sha2::{Digest, Sha256};

use crate::types::error::{Error, ErrorCode, Result};

/// The hash of an inner node of the tree.
pub fn node(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([1]);
    hash.update(left);
    hash.update(right);
    hash.finalize().into()
}

/// The right edge of a tree: the roots of its perfect subtrees, largest first, one for each bit set in its size. It is
/// enough to add leaves and to compute the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    roots: Vec<[u8; 32]>,
}

impl Frontier {
    /// A tree without leaves.
    pub fn new() -> Self {
        Self::default()
    }
    /// A tree of this size with these subtree roots.
    pub fn from_parts(size: u64, roots: Vec<[u8; 32]>) -> Result<Self> {
        if roots.len() == size.count_ones() as usize {
            Ok(Self { size, roots })
        } else {
            Err(Error::new(ErrorCode::StoreCorrupt, "the number of subtree roots does not match the size of the tree"))
        }
    }
    /// Adds a leaf at the right end of the tree.
    pub fn push(&mut self, leaf: [u8; 32]) {
        self.merge(leaf, 0);
    }
    /// Adds a perfect subtree of 2^level leaves. The current size must be a multiple of that number.
    pub fn push_subtree(&mut self, level: u32, root: [u8; 32]) -> Result<()> {
        if level >= u64::BITS || !self.size.is_multiple_of(1 << level) {
            return Err(Error::new(ErrorCode::Internal, "a subtree does not begin here"));
        }
        self.merge(root, level);
        Ok(())
    }
    fn merge(&mut self, mut root: [u8; 32], level: u32) {
        let mut rest = self.size >> level;
        while rest & 1 == 1 {
            if let Some(left) = self.roots.pop() {
                root = node(&left, &root);
            }
            rest >>= 1;
        }
        self.roots.push(root);
        self.size += 1 << level;
    }
    /// The number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }
    /// The subtree roots, largest first.
    pub fn roots(&self) -> &[[u8; 32]] {
        &self.roots
    }
    /// The root of the tree; for the empty tree, the SHA-256 of the empty string.
    pub fn root(&self) -> [u8; 32] {
        let mut roots = self.roots.iter().rev();
        match roots.next() {
            None => Sha256::digest([]).into(),
            Some(last) => roots.fold(*last, |right, left| node(left, &right)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::audit::hex;

    /// The leaves and roots of the reference implementation (google/certificate-transparency, merkletree tests).
    #[test]
    fn has_the_reference_roots() {
        let leaves: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut tree = Frontier::new();
        assert_eq!(hex(&tree.root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        for (leaf, root) in leaves.iter().zip(roots) {
            let mut hash = Sha256::new();
            hash.update([0]);
            hash.update(leaf);
            tree.push(hash.finalize().into());
            assert_eq!(hex(&tree.root()), root);
        }
    }

    #[test]
    fn subtrees_equal_their_leaves() {
        let leaf = |i: u64| -> [u8; 32] { Sha256::digest(i.to_be_bytes()).into() };
        for before in [0u64, 8, 16, 40] {
            let mut one_by_one = Frontier::new();
            (0..before).for_each(|i| one_by_one.push(leaf(i)));
            let mut at_once = one_by_one.clone();
            let mut part = Frontier::new();
            for i in before..before + 8 {
                one_by_one.push(leaf(i));
                part.push(leaf(i));
            }
            at_once.push_subtree(3, part.root()).unwrap();
            assert_eq!(one_by_one, at_once);
        }
        let mut odd = Frontier::new();
        odd.push(leaf(0));
        assert!(odd.push_subtree(1, leaf(1)).is_err());
        assert!(Frontier::from_parts(5, vec![[0; 32]]).is_err());
    }
}
