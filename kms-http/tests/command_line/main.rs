//! Tests of the command line. They run the program `kms-http`.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail by a panic, and says what it skips")]

#[path = "../common/mod.rs"]
mod common;
mod configuration;
mod secrets;
mod store;

use std::process::Output;

use serde_json::Value;

#[track_caller]
fn out(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn parsed(output: &Output) -> Value {
    serde_json::from_str(&out(output)).unwrap()
}
