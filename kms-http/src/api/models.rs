//! What is sent back and forth, for `/openapi.json`. Types that only describe what the library serializes itself are
//! never made here; the tests hold the answers of a running service against them.

#![allow(dead_code, reason = "several types only describe what the library serializes itself")]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// The body of every answer that is an error.
#[derive(ToSchema)]
#[schema(as = Error)]
#[serde(rename_all = "camelCase")]
pub struct ErrorModel {
    /// For a person.
    error: String,
    /// What programs rely on.
    code: String,
    /// Names the request in logs.
    request_id: String,
}

/// What kind of key it is.
#[derive(ToSchema)]
pub enum KeyType {
    /// AES with 256 bits in Galois/Counter Mode.
    #[serde(rename = "AES256_GCM")]
    Aes256Gcm,
    /// RSA with 2048 bits.
    #[serde(rename = "RSA_2048")]
    Rsa2048,
}

/// What a key may be used for. An `AES256_GCM` key cannot sign.
#[derive(ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum KeyPurpose {
    /// Encrypting, decrypting and data keys.
    Encryption,
    /// Signing and verifying.
    Signing,
}

/// Where a key stands in its life.
#[derive(ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum KeyState {
    /// In use.
    Enabled,
    /// Out of use.
    Disabled,
    /// Revoked with all its versions, for ever.
    Revoked,
    /// Waiting for its deletion.
    PendingDeletion,
    /// Its material is erased.
    Destroyed,
}

/// Where a version stands in its life.
#[derive(ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum VersionState {
    /// The current version.
    Enabled,
    /// A former version, or one disabled by hand.
    Disabled,
    /// Revoked for ever.
    Revoked,
    /// Its material is erased.
    Destroyed,
}

/// How records show the contexts of a key.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuditContext {
    /// As they are.
    Clear,
    /// As an HMAC.
    Hmac,
}

/// A key.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Key {
    #[schema(format = "uuid")]
    id: String,
    name: String,
    r#type: KeyType,
    purpose: KeyPurpose,
    state: KeyState,
    /// Why it is disabled.
    #[schema(nullable = false)]
    disabled_reason: Option<String>,
    /// Days between rotations.
    #[schema(nullable = false)]
    rotation_period_days: Option<u32>,
    /// Days a former version stays usable.
    #[schema(nullable = false)]
    grace_period_days: Option<u32>,
    /// When the scheduler rotates it next.
    #[schema(nullable = false, format = "date-time")]
    rotate_at: Option<String>,
    /// When its material is erased.
    #[schema(nullable = false, format = "date-time")]
    delete_at: Option<String>,
    audit_context: AuditContext,
    #[schema(nullable = false, required = false, value_type = Object)]
    metadata: Option<Value>,
    #[schema(format = "date-time")]
    created_at: String,
    current_version: u32,
    /// The sequence number of the record of the last change of the key itself.
    revision: u64,
    /// Oldest first, at most the newest 1,000; not in lists.
    #[schema(nullable = false)]
    versions: Option<Vec<Version>>,
    /// There are older versions than `versions` has.
    #[schema(nullable = false)]
    versions_truncated: Option<bool>,
}

/// A version of a key. Its material is never sent.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    #[schema(format = "uuid")]
    id: String,
    #[schema(format = "uuid")]
    key_id: String,
    version: u32,
    state: VersionState,
    #[schema(format = "date-time")]
    created_at: String,
    #[schema(nullable = false, format = "date-time")]
    not_before: Option<String>,
    /// Until when it decrypts and verifies once it is a former one.
    #[schema(nullable = false, format = "date-time")]
    not_after: Option<String>,
    /// Its public half, for RSA (SubjectPublicKeyInfo, PEM).
    #[schema(nullable = false)]
    public_key_pem: Option<String>,
    #[schema(nullable = false)]
    grace_period_days: Option<u32>,
    /// `GENERATED` or `IMPORTED`.
    origin: String,
    /// Messages encrypted under it. Absent from the answer to a change if the store could not be read after the commit.
    #[schema(nullable = false)]
    encryptions: Option<u64>,
    #[schema(nullable = false, format = "date-time")]
    last_used_at: Option<String>,
}

/// What a grant can allow.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    Create,
    Read,
    Encrypt,
    Decrypt,
    Sign,
    Verify,
    Rotate,
    Revoke,
    Manage,
    Delete,
    Grant,
}

/// What a caller is by role.
#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// May do everything.
    Admin,
    /// May read keys, grants, metrics and the log, and verify it.
    Auditor,
    /// May do what its grants allow.
    App,
}

impl From<Role> for kms_lib::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Admin => Self::Admin,
            Role::Auditor => Self::Auditor,
            Role::App => Self::App,
        }
    }
}

/// Conditions of a grant. All that are set must hold.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Conditions {
    #[schema(format = "date-time")]
    not_before: Option<String>,
    #[schema(format = "date-time")]
    not_after: Option<String>,
    /// Networks (CIDR).
    source_ip: Option<Vec<String>>,
    encryption_context_equals: Option<BTreeMap<String, String>>,
    encryption_context_subset: Option<BTreeMap<String, String>>,
}

/// A grant.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    #[schema(format = "uuid")]
    id: String,
    principal: String,
    role: Role,
    /// A key's id, or `*`.
    key_id: String,
    allowed_ops: Vec<Permission>,
    #[schema(nullable = false)]
    conditions: Option<Conditions>,
    #[schema(format = "date-time")]
    created_at: String,
    /// The principal that made it; `system` for what the creator of a key gets.
    granted_by: String,
    /// The grants that it was passed on through, if an app made it.
    #[schema(nullable = false)]
    granted_through: Option<Vec<String>>,
}

/// A token's description; the token itself is not kept.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Credential {
    #[schema(format = "uuid")]
    id: String,
    principal: String,
    role: Role,
    #[schema(nullable = false)]
    label: Option<String>,
    #[schema(format = "date-time")]
    created_at: String,
    #[schema(nullable = false, format = "date-time")]
    expires_at: Option<String>,
}

/// What a verification of the log found.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// Whether everything is as it should be.
    ok: bool,
    /// Records of the log.
    size: u64,
    /// Where the verification began.
    from: u64,
    /// The first sequence number that is wrong.
    #[schema(nullable = false)]
    broken_at: Option<u64>,
    /// Records verified earlier that were read again: behind the first number, up to the second.
    #[schema(nullable = false)]
    reread: Option<[u64; 2]>,
    /// What is wrong.
    #[schema(value_type = Vec<Object>)]
    faults: Vec<Value>,
    /// What is not wrong but worth a look, such as foreign objects in the database. Absent if there is nothing.
    #[schema(nullable = false)]
    warnings: Option<Vec<String>>,
}

/// What people who run the service want to see.
#[derive(ToSchema)]
pub struct Metrics {
    #[schema(value_type = Object)]
    keys: Value,
    #[schema(value_type = Object)]
    audit: Value,
    #[schema(value_type = Object)]
    usage: Value,
    #[schema(value_type = Object)]
    storage: Value,
}
