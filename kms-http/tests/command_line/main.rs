//! Tests of the command line. They run the program `kms-http`.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail by a panic, and says what it skips")]

#[path = "../common/mod.rs"]
mod common;
mod configuration;
mod secrets;
mod store;
