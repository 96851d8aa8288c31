//! One operation of a call: what it is for, what was decided on it, and what it gave.

use std::sync::Arc;

use super::KeyRef;
use super::job::{Job, Product};
use super::refusal::refusal;
use crate::types::attempt::Attempt;
use crate::types::audit::Receipt;
use crate::types::context::Context;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::{GrantId, KeyId};
use crate::types::key::{AuditContext, KeyType, KeyVersion};
use crate::types::time::Timestamp;

/// Which key and version an operation is for.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// The current version.
    Current(KeyRef),
    /// This version.
    Version(KeyRef, u32),
    /// Any version that is usable, the newest first.
    AnyUsable(KeyRef),
    /// This imported version, or the newest one that was imported.
    Imported(KeyRef, Option<u32>),
    /// The key and version that a ciphertext names, or why it cannot be decrypted; and the key that the caller named
    /// beside it, which must be the same.
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
    /// The type the key must have.
    pub key_type: Option<KeyType>,
    /// Of a data key: whether the caller gets its plaintext.
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

    /// Whether what is decided on one is decided on the other too.
    pub fn is_decided_like(&self, other: &Self) -> bool {
        let is_same_target = match (&self.target, &other.target) {
            (Target::Current(a), Target::Current(b)) | (Target::AnyUsable(a), Target::AnyUsable(b)) => a == b,
            (Target::Version(a, m), Target::Version(b, n)) => a == b && m == n,
            (Target::Imported(a, m), Target::Imported(b, n)) => a == b && m == n,
            (Target::Sealed(Ok(a), named), Target::Sealed(Ok(b), other)) => a == b && named == other,
            // What is wrong with each is its own matter.
            _ => false,
        };
        is_same_target
            && self.key_type == other.key_type
            && std::mem::discriminant(&self.job) == std::mem::discriminant(&other.job)
            && self.job.context() == other.job.context()
    }
}

/// What an operation gave.
pub(super) struct Done {
    pub product: Product,
    pub key: KeyId,
    pub key_type: KeyType,
    pub version: u32,
    pub receipt: Receipt,
}

/// An item with the decision on it.
pub(super) struct Decided {
    pub attempt: Attempt,
    pub version: Option<u32>,
    pub audit_context: AuditContext,
    /// What was passed beside a ciphertext does not agree with it, as far as this snapshot knows.
    pub(super) disagrees: bool,
    pub ruling: Ruling,
}

impl Decided {
    /// Why it is not even tried.
    pub fn error(&self) -> Option<Error> {
        match &self.ruling {
            Ruling::Denied(code) => Some(refusal(*code)),
            Ruling::Bad(error) => Some(error.clone()),
            Ruling::Work { .. } => None,
        }
    }

    /// From when on work with this version is void: the earliest end of a window that it relied on.
    pub fn valid_until(&self, version: u32) -> Option<Timestamp> {
        let Ruling::Work { versions, valid_until, .. } = &self.ruling else { return None };
        let window = versions.iter().find(|usable| usable.version.version == version).and_then(|usable| usable.until);
        [*valid_until, window].into_iter().flatten().min()
    }
}

/// A version that may do the work.
pub(super) struct Usable {
    pub version: KeyVersion,
    /// The end of its window, if it was looked for: `Ruling::Work` has that of a version which the attempt names.
    pub until: Option<Timestamp>,
}

/// What was decided on an item.
pub(super) enum Ruling {
    /// Do it with one of these versions: the first that fits.
    Work {
        key_type: KeyType,
        versions: Vec<Usable>,
        /// Whether a signature may be of a version beyond these.
        has_more: bool,
        grant: Option<GrantId>,
        valid_until: Option<Timestamp>,
    },
    /// Refused by policy or state.
    Denied(ErrorCode),
    /// Allowed to try, but it cannot work.
    Bad(Error),
}

/// How an item went: its product with the version that made it, or why not.
pub(super) type Worked = Result<(Product, u32)>;

/// A copy of a context that the records of a call share.
pub(super) fn share(context: &Context) -> Arc<Context> {
    Arc::new(context.clone())
}
