//! The file systems on which a store may be. SQLite's write-ahead log needs memory shared by all processes, and
//! reliable locks. Network file systems provide neither (<https://www.sqlite.org/wal.html>), and two machines would
//! damage the store.

use std::path::Path;

use crate::types::error::{Error, ErrorCode, Result};

/// The kind of storage behind a file system, as far as its type reveals it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A local disk, or memory.
    Local,
    /// Other machines, by this protocol.
    Network(&'static str),
    /// A program (FUSE), which may keep files anywhere.
    Program,
}

/// The kind for a type that `statfs` returns (linux/magic.h, and the sources of types that are not in it).
fn kind(magic: u32) -> Kind {
    match magic {
        0x6969 => Kind::Network("NFS"),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => Kind::Network("SMB"),
        0x564c => Kind::Network("NCP"),
        0x0102_1997 => Kind::Network("9P"),
        0x6b41_4653 | 0x5346_414f => Kind::Network("AFS"),
        0x7375_7245 => Kind::Network("Coda"),
        0x00c3_6400 => Kind::Network("Ceph"),
        0x0116_1970 => Kind::Network("GFS2"),
        0x7461_636f => Kind::Network("OCFS2"),
        0x0bd0_0bd0 => Kind::Network("Lustre"),
        0x4750_4653 => Kind::Network("GPFS"),
        0x2003_0528 => Kind::Network("OrangeFS"),
        0x1983_0326 => Kind::Network("BeeGFS"),
        0x6573_5546 => Kind::Program,
        _ => Kind::Local,
    }
}

/// Refuses a store on a network file system, whether or not the file exists yet.
pub(super) fn check(store: &Path) -> Result<()> {
    match magic(store).map_or(Kind::Local, kind) {
        Kind::Local => Ok(()),
        Kind::Network(name) => Err(refused(store, name)),
        Kind::Program => {
            tracing::warn!(
                "the store {} is on a FUSE file system; if that stores its files on other machines, put the store \
                 on a local disk",
                store.display()
            );
            Ok(())
        }
    }
}

fn refused(store: &Path, name: &str) -> Error {
    Error::new(
        ErrorCode::InvalidConfiguration,
        format!(
            "the store {} is on a network file system ({name}), where SQLite can lose or damage data; put it on a \
             local disk, or use a database server (store_url = mysql://... or postgres://...)",
            store.display()
        ),
    )
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn magic(store: &Path) -> Option<u32> {
    let folder = store.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // If neither can be queried, opening the file will report why.
    let stat = rustix::fs::statfs(store).or_else(|_| rustix::fs::statfs(folder)).ok()?;
    // The field's width depends on the architecture; the types have 32 bits.
    Some(stat.f_type as u32)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn magic(_: &Path) -> Option<u32> {
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn network_file_systems_are_known_by_their_type() {
        for (magic, name) in [(0x6969, "NFS"), (0xff53_4d42, "SMB"), (0xfe53_4d42, "SMB"), (0x0102_1997, "9P")] {
            assert_eq!(kind(magic), Kind::Network(name));
        }
        assert_eq!(kind(0x6573_5546), Kind::Program);
        // ext4, XFS, Btrfs, ZFS, tmpfs, overlayfs, F2FS.
        for magic in [0xef53, 0x5846_5342, 0x9123_683e, 0x2fc1_2fc1, 0x0102_1994, 0x794c_7630, 0xf2f5_2010] {
            assert_eq!(kind(magic), Kind::Local);
        }
    }

    #[test]
    fn the_refusal_says_what_to_do() {
        let error = refused(Path::new("/mnt/kms.db"), "NFS");
        assert_eq!(error.code(), ErrorCode::InvalidConfiguration);
        for part in ["/mnt/kms.db", "NFS", "local disk", "postgres://"] {
            assert!(error.message().contains(part), "{error}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_place_is_asked_before_the_file_is_there() {
        // The kernel's own file system, whose type is 0x9fa0.
        assert_eq!(magic(Path::new("/proc/no-such-file")), Some(0x9fa0));
        assert_eq!(magic(Path::new("/proc/version")), Some(0x9fa0));
        check(Path::new("no-such-file")).unwrap();
    }
}
