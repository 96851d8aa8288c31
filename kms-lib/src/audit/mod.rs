//! The audit format: canonical bodies, the hash chain that is also a Merkle tree, signed checkpoints, and verification.
//!
//! [`export`] verifies an exported log against a pinned public key. All functions are pure and access no store, so that
//! an outsider can verify a log with this module alone.

pub mod canonical;
pub mod checkpoint;
pub mod export;
#[cfg_attr(not(feature = "import"), allow(dead_code, reason = "an import uses all of it"))]
pub(crate) mod legacy;
pub mod record;
pub(crate) mod recorded;
pub(crate) mod signing_keys;
pub mod tree;
pub(crate) mod verify;
