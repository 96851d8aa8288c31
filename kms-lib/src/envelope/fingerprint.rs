//! Fingerprints, which identify key material without revealing it.

use hkdf::Hkdf;
use sha2::Sha256;

use super::row::Fields;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::{KeyId, LogId};
use crate::types::key::KeyType;
use crate::types::root_key::ServiceKeyKind;

/// The fingerprint of a version's material: HKDF-SHA256 (RFC 5869) without salt, with `kms-fingerprint/v1`, key,
/// version and type as the info. It does not reveal the material, and equal material of two versions has different
/// fingerprints.
pub fn fingerprint(key: KeyId, version: u32, key_type: KeyType, material: &[u8]) -> Result<[u8; 32]> {
    let mut info = Fields::new(b"kms-fingerprint/v1\0");
    info.bytes(key.as_bytes()).number(u64::from(version)).bytes(key_type.as_str().as_bytes());
    derive(info, material)
}

/// The fingerprint of a key of the service: HKDF-SHA256 as in [`fingerprint`], with `kms-service-fingerprint/v1`, kind,
/// log and number as the info.
pub fn service_fingerprint(kind: ServiceKeyKind, log: LogId, number: u32, material: &[u8]) -> Result<[u8; 32]> {
    let mut info = Fields::new(b"kms-service-fingerprint/v1\0");
    info.bytes(kind.as_str().as_bytes()).bytes(log.as_bytes()).number(u64::from(number));
    derive(info, material)
}

fn derive(info: Fields, material: &[u8]) -> Result<[u8; 32]> {
    let mut fingerprint = [0; 32];
    Hkdf::<Sha256>::new(None, material)
        .expand(&info.finish(), &mut fingerprint)
        .map_err(|_| Error::new(ErrorCode::Internal, "a fingerprint could not be derived"))?;
    Ok(fingerprint)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::audit::hex;

    #[test]
    fn follows_the_published_formula() {
        // Computed with Python: hmac.new(bytes(32), material, sha256) as PRK, then one block of HKDF-Expand.
        let key = KeyId::from_bytes([0x11; 16]);
        let made = fingerprint(key, 7, KeyType::Aes256Gcm, &[0x22; 32]).unwrap();
        assert_eq!(hex(&made), "40958f9154ed77af638959d3ea16b48071ce1cb16a0799ee2b0dd1129c709d1a");
    }

    #[test]
    fn depends_on_everything_it_names() {
        let key = KeyId::from_bytes([1; 16]);
        let all = [
            fingerprint(key, 1, KeyType::Aes256Gcm, &[2; 32]).unwrap(),
            fingerprint(key, 2, KeyType::Aes256Gcm, &[2; 32]).unwrap(),
            fingerprint(key, 1, KeyType::Rsa2048, &[2; 32]).unwrap(),
            fingerprint(key, 1, KeyType::Aes256Gcm, &[3; 32]).unwrap(),
            fingerprint(KeyId::from_bytes([4; 16]), 1, KeyType::Aes256Gcm, &[2; 32]).unwrap(),
        ];
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
