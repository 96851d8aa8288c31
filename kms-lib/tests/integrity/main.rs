//! Tests of attacks with write access to the store, and of their detection.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod columns;
#[cfg(feature = "import")]
mod imported_log;
mod put_back;
mod repeated_rows;
mod reverify;
mod root_key_attacks;
mod signing_keys;
mod tampering;
