//! Golden stores: stores and ciphertexts that a version of this software wrote and committed to `tests/golden`, which
//! every later version must read. `tests/golden/README.md` says what they have and how new ones are made.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;

#[cfg(feature = "aws-kms")]
mod aws;
mod facts;
mod inventory;
mod make;
mod read;
