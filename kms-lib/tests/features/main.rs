//! Tests of the library's features: streams, lists, versions, invalid input, and the public API.

#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod bad_input;
mod closing;
mod documents;
mod erasure;
mod error_codes;
mod futures;
mod lists;
mod parsers;
mod scheduling;
mod streams;
mod surface;
mod versions;
mod wycheproof;
