//! The binding of wrapped material to its purpose, so that material of one row cannot be used in another.

use super::row::Fields;
use crate::types::ids::{KeyId, LogId};
use crate::types::key::KeyType;

/// The purpose of wrapped material.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The material of a version.
    Version {
        /// The id of the key.
        key: KeyId,
        /// The number of the version.
        version: u32,
        /// The type of the key.
        key_type: KeyType,
    },
    /// An integrity key, which seals rows.
    IntegrityKey {
        /// The log's id.
        log: LogId,
        /// The number of the integrity key.
        number: u32,
    },
    /// A signing key of the log.
    SigningKey {
        /// The log's id.
        log: LogId,
        /// The number of the signing key.
        number: u32,
    },
    /// The check value of a root key generation.
    CheckValue,
}

impl Binding {
    /// The additional authenticated data of the wrapping, which includes the generation.
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
