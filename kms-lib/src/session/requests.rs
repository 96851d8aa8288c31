//! What callers ask for: a key to be made, an edit of one, a choice of keys.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::types::key::{AuditContext, KeyPurpose, KeyState, KeyType};

/// A key to be created.
///
/// ```
/// use kms_lib::CreateKey;
/// let users = CreateKey::aes("users").rotation_period_days(90);
/// let invoices = CreateKey::rsa_signing("invoices");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateKey {
    /// Unique for ever: 1 to 128 printable characters, no outer blanks, not the shape of a UUID.
    pub name: String,
    /// Its kind.
    #[serde(rename = "type")]
    pub key_type: KeyType,
    /// Its use.
    pub purpose: KeyPurpose,
    /// Days between rotations by the scheduler; none without.
    #[serde(default)]
    pub rotation_period_days: Option<u32>,
    /// Days a former version stays usable; the service's default without.
    #[serde(default)]
    pub grace_period_days: Option<u32>,
    /// A JSON object of at most 16 KiB.
    #[serde(default)]
    pub metadata: Option<Value>,
    /// How records show contexts.
    #[serde(default)]
    pub audit_context: Option<AuditContext>,
}

impl CreateKey {
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
    /// A key of this type and purpose.
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
    /// Rotated by the scheduler every so many days.
    #[must_use]
    pub fn rotation_period_days(mut self, days: u32) -> Self {
        self.rotation_period_days = Some(days);
        self
    }
    /// Former versions stay usable for so many days.
    #[must_use]
    pub fn grace_period_days(mut self, days: u32) -> Self {
        self.grace_period_days = Some(days);
        self
    }
    /// With this metadata.
    #[must_use]
    pub fn metadata(mut self, metadata: Value) -> Self {
        self.metadata = Some(metadata);
        self
    }
    /// With contexts recorded in this form.
    #[must_use]
    pub fn audit_context(mut self, form: AuditContext) -> Self {
        self.audit_context = Some(form);
        self
    }
}

/// An edit of a key. What is none stays as it is; `Some(None)` removes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpdateKey {
    /// Days between rotations.
    pub rotation_period_days: Option<Option<u32>>,
    /// Days a former version stays usable.
    pub grace_period_days: Option<Option<u32>>,
    /// A JSON object.
    pub metadata: Option<Option<Value>>,
    /// How records show contexts.
    pub audit_context: Option<AuditContext>,
}

/// Which keys a list shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyFilter {
    /// Only in this state.
    pub state: Option<KeyState>,
    /// Only of this type.
    pub key_type: Option<KeyType>,
    /// Only with this purpose.
    pub purpose: Option<KeyPurpose>,
    /// Only whose name begins so.
    pub name_prefix: Option<String>,
}
