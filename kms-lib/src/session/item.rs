//! One operation of a call: its target, the decision on it, and its result.

use std::sync::Arc;

use super::KeyRef;
use super::job::{Job, Product};
use super::refusal::refusal;
use crate::ledger::Few;
use crate::types::attempt::Attempt;
use crate::types::audit::Receipt;
use crate::types::context::Context;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::{GrantId, KeyId};
use crate::types::key::{AuditContext, KeyType, KeyVersion};
use crate::types::time::Timestamp;

/// The key and version of an operation.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// The current version of the key.
    Current(KeyRef),
    /// The given version of the key.
    Version(KeyRef, u32),
    /// Any usable version, tried from the newest on.
    AnyUsable(KeyRef),
    /// The given imported version, or the newest imported one.
    Imported(KeyRef, Option<u32>),
    /// The key and version that a ciphertext names, or the reason why it cannot be decrypted; and the key that the
    /// caller named beside it, which must be the same.
    Sealed(Result<(KeyId, u32)>, Option<KeyRef>),
}

impl Target {
    /// The key as the caller named it.
    pub fn named(&self) -> Option<&KeyRef> {
        match self {
            Self::Current(key) | Self::Version(key, _) | Self::AnyUsable(key) | Self::Imported(key, _) => Some(key),
            Self::Sealed(_, key) => key.as_ref(),
        }
    }
}

/// One operation of a call.
#[derive(Clone)]
pub(super) struct Item<'a> {
    pub target: Target,
    pub job: Job<'a>,
    /// The type that the key must have, if any.
    pub key_type: Option<KeyType>,
    /// Whether the caller gets the plaintext; none if this is not a data key.
    pub data_key: Option<bool>,
}

impl<'a> Item<'a> {
    /// An operation with a key of any type.
    pub fn new(target: Target, job: Job<'a>) -> Self {
        Self { target, job, key_type: None, data_key: None }
    }

    /// An operation with an RSA key.
    pub fn rsa(target: Target, job: Job<'a>) -> Self {
        Self { key_type: Some(KeyType::Rsa2048), ..Self::new(target, job) }
    }

    /// Whether a decision on one item also holds for the other.
    pub fn is_decided_like(&self, other: &Self) -> bool {
        let is_same_target = match (&self.target, &other.target) {
            (Target::Current(a), Target::Current(b)) | (Target::AnyUsable(a), Target::AnyUsable(b)) => a == b,
            (Target::Version(a, m), Target::Version(b, n)) => a == b && m == n,
            (Target::Imported(a, m), Target::Imported(b, n)) => a == b && m == n,
            (Target::Sealed(Ok(a), named), Target::Sealed(Ok(b), other)) => a == b && named == other,
            // Contradictory ciphertexts are decided one by one.
            _ => false,
        };
        is_same_target
            && self.key_type == other.key_type
            && std::mem::discriminant(&self.job) == std::mem::discriminant(&other.job)
            && self.job.context() == other.job.context()
    }
}

/// The result of a successful operation.
pub(super) struct Done {
    pub product: Product,
    pub key: KeyId,
    pub key_type: KeyType,
    pub version: u32,
    pub receipt: Receipt,
}

/// The decision on an item.
pub(super) struct Decided {
    /// Shared with the record, because copying the actor counts references that other threads count too.
    pub attempt: Arc<Attempt>,
    pub version: Option<u32>,
    pub audit_context: AuditContext,
    /// The values passed beside the ciphertext contradict it, as far as this snapshot knows.
    pub(super) disagrees: bool,
    pub ruling: Ruling,
}

impl Decided {
    /// The error of an item that is not attempted.
    pub fn error(&self) -> Option<Error> {
        match &self.ruling {
            Ruling::Denied(code) => Some(refusal(*code)),
            Ruling::Bad(error) => Some(error.clone()),
            Ruling::Work { .. } => None,
        }
    }

    /// The time from which work with this version is void: the earliest end of a window on which it relied.
    pub fn valid_until(&self, version: u32) -> Option<Timestamp> {
        let Ruling::Work { versions, valid_until, .. } = &self.ruling else { return None };
        let window = versions.iter().find(|usable| usable.version.version == version).and_then(|usable| usable.until);
        [*valid_until, window].into_iter().flatten().min()
    }
}

/// A version that may do the work.
pub(super) struct Usable {
    pub version: KeyVersion,
    /// The end of the version's window, if it was looked up: `Ruling::Work` has it for a version that the attempt
    /// names.
    pub until: Option<Timestamp>,
}

/// The decision on an item.
pub(super) enum Ruling {
    /// The operation is done with one of these versions: the first that fits.
    Work {
        key_type: KeyType,
        versions: Few<Usable>,
        /// Whether a version beyond these may have made the signature.
        has_more: bool,
        grant: Option<GrantId>,
        valid_until: Option<Timestamp>,
    },
    /// The operation is refused by policy or by the key's state.
    Denied(ErrorCode),
    /// The caller may try it, but the input is invalid.
    Bad(Error),
}

/// The outcome of an item: its product with the version that made it, or the error.
pub(super) type Worked = Result<(Product, u32)>;

/// Copies a context so that the records of a call can share it.
pub(super) fn share(context: &Context) -> Arc<Context> {
    Arc::new(context.clone())
}
