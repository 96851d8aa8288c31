//! Requests to create and edit keys, and filters of keys.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::types::key::{AuditContext, KeyPurpose, KeyState, KeyType};

/// A request to create a key by [`Session::create_key`](crate::Session::create_key).
///
/// ```
/// use kms_lib::NewKey;
/// let users = NewKey::aes("users").rotation_period_days(90);
/// let invoices = NewKey::rsa_signing("invoices");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[non_exhaustive]
pub struct NewKey {
    /// The name, permanently unique: 1 to 128 printable characters, no leading or trailing blanks, not in the form of a
    /// UUID.
    pub name: String,
    /// The algorithm and size of the key.
    #[serde(rename = "type")]
    pub key_type: KeyType,
    /// The operations that the key allows.
    pub purpose: KeyPurpose,
    /// The number of days between rotations by the scheduler; no rotations without it.
    #[serde(default)]
    pub rotation_period_days: Option<u32>,
    /// The days for which a former version stays usable; by default the service's setting.
    #[serde(default)]
    pub grace_period_days: Option<u32>,
    /// Free-form metadata: a JSON object of at most 16 KiB.
    #[serde(default)]
    pub metadata: Option<Value>,
    /// The form in which audit records show contexts.
    #[serde(default)]
    pub audit_context: Option<AuditContext>,
}

impl NewKey {
    /// An AES-256-GCM key for encryption.
    pub fn aes(name: impl Into<String>) -> Self {
        Self::new(name, KeyType::Aes256Gcm, KeyPurpose::Encryption)
    }
    /// An RSA-2048 key for encryption.
    pub fn rsa_encryption(name: impl Into<String>) -> Self {
        Self::new(name, KeyType::Rsa2048, KeyPurpose::Encryption)
    }
    /// An RSA-2048 key for signatures.
    pub fn rsa_signing(name: impl Into<String>) -> Self {
        Self::new(name, KeyType::Rsa2048, KeyPurpose::Signing)
    }
    /// A key of this type and purpose, without optional settings.
    pub fn new(name: impl Into<String>, key_type: KeyType, purpose: KeyPurpose) -> Self {
        Self {
            name: name.into(),
            key_type,
            purpose,
            rotation_period_days: None,
            grace_period_days: None,
            metadata: None,
            audit_context: None,
        }
    }
    /// Lets the scheduler rotate the key every `days` days.
    #[must_use]
    pub fn rotation_period_days(mut self, days: u32) -> Self {
        self.rotation_period_days = Some(days);
        self
    }
    /// Keeps former versions usable for `days` days.
    #[must_use]
    pub fn grace_period_days(mut self, days: u32) -> Self {
        self.grace_period_days = Some(days);
        self
    }
    /// Sets the metadata, a JSON object.
    #[must_use]
    pub fn metadata(mut self, metadata: Value) -> Self {
        self.metadata = Some(metadata);
        self
    }
    /// Records contexts in this form.
    #[must_use]
    pub fn audit_context(mut self, form: AuditContext) -> Self {
        self.audit_context = Some(form);
        self
    }
}

/// An edit of a key for [`Session::update_key`](crate::Session::update_key). Fields that are not set stay unchanged.
///
/// ```
/// use kms_lib::KeyUpdate;
/// let monthly = KeyUpdate::new().rotation_period_days(30);
/// let never = KeyUpdate::new().rotation_period_days(None);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct KeyUpdate {
    /// The number of days between rotations by the scheduler; `Some(None)` ends them.
    pub rotation_period_days: Option<Option<u32>>,
    /// The days for which a former version stays usable; `Some(None)` selects the service's default.
    pub grace_period_days: Option<Option<u32>>,
    /// Free-form metadata: a JSON object of at most 16 KiB; `Some(None)` removes it.
    pub metadata: Option<Option<Value>>,
    /// The form in which audit records show contexts.
    pub audit_context: Option<AuditContext>,
    /// The [`revision`](crate::KeyDescription::revision) that the key must still have. If it differs, another change
    /// came first, and the update fails with `Conflict`.
    pub expected_revision: Option<u64>,
}

impl KeyUpdate {
    /// An edit that changes nothing yet.
    pub fn new() -> Self {
        Self::default()
    }
    /// Lets the scheduler rotate the key every `days` days; `None` ends the rotations.
    #[must_use]
    pub fn rotation_period_days(mut self, days: impl Into<Option<u32>>) -> Self {
        self.rotation_period_days = Some(days.into());
        self
    }
    /// Keeps former versions usable for `days` days; `None` selects the service's default.
    #[must_use]
    pub fn grace_period_days(mut self, days: impl Into<Option<u32>>) -> Self {
        self.grace_period_days = Some(days.into());
        self
    }
    /// Replaces the metadata; `None` removes it.
    #[must_use]
    pub fn metadata(mut self, metadata: impl Into<Option<Value>>) -> Self {
        self.metadata = Some(metadata.into());
        self
    }
    /// Records contexts in this form from now on.
    #[must_use]
    pub fn audit_context(mut self, form: AuditContext) -> Self {
        self.audit_context = Some(form);
        self
    }
    /// Requires that the key still has this revision.
    #[must_use]
    pub fn expected_revision(mut self, revision: u64) -> Self {
        self.expected_revision = Some(revision);
        self
    }
}

/// A filter of keys. The default is all keys that the caller may read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyFilter {
    /// Only keys in this state.
    pub state: Option<KeyState>,
    /// Only keys of this type.
    pub key_type: Option<KeyType>,
    /// Only keys with this purpose.
    pub purpose: Option<KeyPurpose>,
    /// Only keys whose name begins with this text.
    pub name_prefix: Option<String>,
}

impl KeyFilter {
    /// No filter: all keys that the caller may read.
    pub fn new() -> Self {
        Self::default()
    }
    /// Only keys in this state.
    #[must_use]
    pub fn state(mut self, state: KeyState) -> Self {
        self.state = Some(state);
        self
    }
    /// Only keys of this type.
    #[must_use]
    pub fn key_type(mut self, key_type: KeyType) -> Self {
        self.key_type = Some(key_type);
        self
    }
    /// Only keys with this purpose.
    #[must_use]
    pub fn purpose(mut self, purpose: KeyPurpose) -> Self {
        self.purpose = Some(purpose);
        self
    }
    /// Only keys whose name begins with this text.
    #[must_use]
    pub fn name_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.name_prefix = Some(prefix.into());
        self
    }
}
