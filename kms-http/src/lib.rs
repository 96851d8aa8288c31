//! Mini KMS as a service. Routes translate between HTTP and [`kms_lib`], which decides.

#![forbid(unsafe_code)]

pub mod auth;
pub mod tls;
