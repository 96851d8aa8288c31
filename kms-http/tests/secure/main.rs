//! Tests of the service as a process with TLS, client certificates, JWTs of an issuer, and a Unix socket.

#![allow(clippy::unwrap_used, reason = "a test may fail by a panic")]

mod certificates;
mod client;
#[path = "../common/mod.rs"]
mod common;
mod floods;
mod frames;
mod jwt;
mod socket;
mod streams;
