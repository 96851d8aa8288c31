//! The service as a process behind TLS, with certificates of callers, JWTs of an issuer, and on a unix socket.

#![allow(clippy::unwrap_used, reason = "a test may fail by a panic")]

#[path = "../tls/authority.rs"]
#[allow(dead_code)]
mod authority;
mod certificates;
mod client;
#[path = "../common/mod.rs"]
mod common;
mod floods;
mod frames;
#[path = "../oidc/issuer.rs"]
#[allow(dead_code)]
mod issuer;
mod jwt;
mod socket;
mod streams;
