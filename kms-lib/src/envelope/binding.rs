//! What wrapped material is bound to, so that no row's material can be put in another's place.

use super::row::Fields;
use crate::types::ids::{KeyId, LogId};
use crate::types::key::KeyType;

/// What is wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The material of a version.
    Version {
        /// The key.
        key: KeyId,
        /// The version.
        version: u32,
        /// The key's type.
        key_type: KeyType,
    },
    /// The key that seals rows.
    IntegrityKey {
        /// Of which log.
        log: LogId,
        /// Which of its integrity keys.
        number: u32,
    },
    /// A key that signs the head of the log.
    SigningKey {
        /// Of which log.
        log: LogId,
        /// Which of its signing keys.
        number: u32,
    },
    /// The check value.
    CheckValue,
}

impl Binding {
    /// The additional data under which the root key wraps; the generation is part of it.
    pub fn additional_data(&self, generation: u32) -> Vec<u8> {
        let mut fields = Fields::new(b"kms-wrap/v1\0");
        match self {
            Self::Version { key, version, key_type } => fields
                .bytes(b"version")
                .bytes(key.as_bytes())
                .number(u64::from(*version))
                .bytes(key_type.as_str().as_bytes()),
            Self::IntegrityKey { log, number } => {
                fields.bytes(b"integrity-key").bytes(log.as_bytes()).number(u64::from(*number))
            }
            Self::SigningKey { log, number } => {
                fields.bytes(b"signing-key").bytes(log.as_bytes()).number(u64::from(*number))
            }
            Self::CheckValue => fields.bytes(b"check-value"),
        };
        fields.number(u64::from(generation));
        fields.finish()
    }
}
