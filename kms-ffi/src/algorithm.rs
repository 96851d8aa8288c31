//! The signature algorithms of the header, by number.

use kms_lib::SignatureAlgorithm;

use crate::failure::{Failure, Outcome};

/// A signature algorithm: one of the constants `MKMS_SIGN_...`.
pub type mkms_signing_algorithm = i32;
/// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017, 8.2).
pub const MKMS_SIGN_RSA_PKCS1_SHA256: mkms_signing_algorithm = 1;
/// RSASSA-PSS with SHA-256, MGF1-SHA256 and a salt of 32 bytes (RFC 8017, 8.1).
pub const MKMS_SIGN_RSA_PSS_SHA256: mkms_signing_algorithm = 2;

/// The signature algorithm with this number.
pub fn read(number: mkms_signing_algorithm) -> Outcome<SignatureAlgorithm> {
    match number {
        MKMS_SIGN_RSA_PKCS1_SHA256 => Ok(SignatureAlgorithm::RsaPkcs1Sha256),
        MKMS_SIGN_RSA_PSS_SHA256 => Ok(SignatureAlgorithm::RsaPssSha256),
        _ => Err(Failure::invalid("algorithm must be one of MKMS_SIGN_RSA_PKCS1_SHA256 and MKMS_SIGN_RSA_PSS_SHA256")),
    }
}
