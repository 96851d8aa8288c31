//! Random nonces for AES-GCM, generated many at a time, because the cost hardly depends on their number.

use super::provider::{NONCE, Provider};
use crate::types::error::{Error, ErrorCode, Result};

/// A random nonce (NIST SP 800-38D, 8.2.2). It cannot be copied, so that it is used only once.
pub(crate) struct Nonce([u8; NONCE]);

impl Nonce {
    /// The bytes of the nonce, which is consumed.
    pub fn into_bytes(self) -> [u8; NONCE] {
        self.0
    }
}

/// The nonces of one call.
pub(crate) struct Nonces<'a> {
    provider: &'a dyn Provider,
    expected: usize,
    drawn: Vec<[u8; NONCE]>,
}

impl<'a> Nonces<'a> {
    /// Nonces for a call with `expected` encryptions. None are generated before the first use.
    pub fn new(provider: &'a dyn Provider, expected: usize) -> Self {
        Self { provider, expected, drawn: Vec::new() }
    }

    /// A new nonce. More than the expected number are generated if needed.
    pub fn next(&mut self) -> Result<Nonce> {
        let expected = std::mem::take(&mut self.expected);
        if self.drawn.is_empty() && expected <= 1 {
            let mut nonce = [0; NONCE];
            self.provider.random(&mut nonce)?;
            return Ok(Nonce(nonce));
        }
        if self.drawn.is_empty() {
            let mut drawn = vec![[0; NONCE]; expected];
            self.provider.random(drawn.as_flattened_mut())?;
            self.drawn = drawn;
        }
        self.drawn.pop().map(Nonce).ok_or_else(|| Error::new(ErrorCode::Internal, "no nonce was drawn"))
    }
}

#[cfg(test)]
#[cfg(feature = "aws-lc")]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashSet;

    use super::*;
    use crate::crypto::aws_lc::AwsLc;

    #[test]
    fn none_is_given_twice() {
        let mut seen = HashSet::new();
        for expected in [0, 1, 7, 1_000] {
            let mut nonces = Nonces::new(&AwsLc, expected);
            for _ in 0..expected + 3 {
                assert!(seen.insert(nonces.next().unwrap().into_bytes()));
            }
        }
        assert!(!seen.contains(&[0; NONCE]));
    }
}
