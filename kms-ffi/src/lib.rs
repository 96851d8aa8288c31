//! Mini KMS for C and C++: a thin, stable C ABI over [`kms_lib::blocking`].
//!
//! `include/mini_kms.h` is generated from this crate, and `README.md` states the conventions. This crate translates
//! arguments, results and errors; all rules are in `kms-lib`.
//!
//! Except for a few lines in `kms-py`, all `unsafe` code of the project is in this crate. A function of the header
//! consists of `boundary::call`, which reads the arguments with the functions of `arguments` and `handle`, and of safe
//! code.

#![allow(non_camel_case_types, reason = "the names are those of the header")]
#![allow(clippy::missing_safety_doc, reason = "the contract is the same for every function: README.md")]
#![allow(clippy::too_many_arguments, reason = "in C, a view is two arguments and a result another one")]
#![warn(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]

pub mod algorithm;
mod arguments;
pub mod audit;
pub mod batch;
mod boundary;
pub mod buffer;
pub mod config;
pub mod config_root_keys;
pub mod context;
pub mod crypto;
pub mod error;
pub mod error_info;
mod failure;
mod handle;
pub mod import;
pub mod items;
mod json;
pub mod keys;
pub mod kms;
pub mod operation;
pub mod rights;
pub mod root_keys;
pub mod service;
pub mod session;
mod shared;
pub mod status;
pub mod stream;
#[cfg(feature = "test-hooks")]
pub mod test_hooks;
pub mod version;
pub mod versions;
