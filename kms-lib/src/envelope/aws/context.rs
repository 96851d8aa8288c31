//! The encryption context of a wrapping. AWS KMS binds the ciphertext to it and shows it in CloudTrail, and policies
//! can require it.

use crate::envelope::Binding;

/// The names in every encryption context of Mini KMS.
pub const NAMES: [&str; 3] = ["keyId", "version", "type"];

/// An encryption context: names and values, in the order of [`NAMES`].
pub type EncryptionContext = Vec<(String, String)>;

/// The encryption context for wrapping and unwrapping. It contains no secret.
///
/// | wrapped material | `keyId` | `version` | `type` |
/// | --- | --- | --- | --- |
/// | a version of a key | the key's id | the version's number | `AES256_GCM`, `RSA_2048` |
/// | an integrity key | the log's id | its number | `INTEGRITY_KEY` |
/// | a signing key of the log | the log's id | its number | `SIGNING_KEY` |
/// | a check value | `check-value` | `1` | `CHECK_VALUE` |
///
/// Ids are lower-case UUIDs, numbers are decimal.
pub fn encryption_context(binding: &Binding) -> EncryptionContext {
    let (key_id, version, kind) = match binding {
        Binding::Version { key, version, key_type } => (key.to_string(), *version, key_type.as_str()),
        Binding::IntegrityKey { log, number } => (log.to_string(), *number, "INTEGRITY_KEY"),
        Binding::SigningKey { log, number } => (log.to_string(), *number, "SIGNING_KEY"),
        Binding::CheckValue => ("check-value".to_owned(), 1, "CHECK_VALUE"),
    };
    NAMES.map(str::to_owned).into_iter().zip([key_id, version.to_string(), kind.to_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ids::{KeyId, LogId};
    use crate::types::key::KeyType;

    /// The contexts must never change, because material that was wrapped with another context cannot be unwrapped.
    #[test]
    fn contexts_are_those_that_are_documented() {
        let key = KeyId::from_bytes([0x11; 16]);
        let log = LogId::from_bytes([0xab; 16]);
        let text = |binding: &Binding| {
            let context = encryption_context(binding);
            context.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            text(&Binding::Version { key, version: 7, key_type: KeyType::Aes256Gcm }),
            "keyId=11111111-1111-1111-1111-111111111111 version=7 type=AES256_GCM"
        );
        assert_eq!(
            text(&Binding::Version { key, version: 4_294_967_295, key_type: KeyType::Rsa2048 }),
            "keyId=11111111-1111-1111-1111-111111111111 version=4294967295 type=RSA_2048"
        );
        assert_eq!(
            text(&Binding::IntegrityKey { log, number: 3 }),
            "keyId=abababab-abab-abab-abab-abababababab version=3 type=INTEGRITY_KEY"
        );
        assert_eq!(
            text(&Binding::SigningKey { log, number: 2 }),
            "keyId=abababab-abab-abab-abab-abababababab version=2 type=SIGNING_KEY"
        );
        assert_eq!(text(&Binding::CheckValue), "keyId=check-value version=1 type=CHECK_VALUE");
    }
}
