//! Schemas for `/openapi.json`. Types that describe what the library serializes are never constructed; tests compare
//! them with the responses of a running service.

#![allow(dead_code, reason = "several types only describe what the library serializes")]

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// Declares the schemas of enumerations of the library, each with a description and its values.
macro_rules! names {
    ($($name:ident: $about:literal, $names:expr;)+) => {$(
        #[doc = $about]
        pub struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let names: Vec<&str> = $names.iter().map(|name| name.as_str()).collect();
                ObjectBuilder::new().schema_type(Type::String).description(Some($about)).enum_values(Some(names)).into()
            }
        }

        impl ToSchema for $name {}
    )+};
}

names! {
    KeyType: "Algorithm of a key.", kms_lib::KeyType::ALL;
    KeyPurpose: "Permitted use of a key. An `AES256_GCM` key cannot sign.", kms_lib::KeyPurpose::ALL;
    KeyState: "State of a key in its lifecycle.", kms_lib::KeyState::ALL;
    VersionState: "State of a version in its lifecycle.", kms_lib::VersionState::ALL;
    AuditContext: "How audit records show the contexts of a key.", kms_lib::AuditContext::ALL;
    Permission: "Permission that a grant can contain.", kms_lib::Permission::ALL;
    SigningAlgorithm: "Signature algorithm.", kms_lib::SignatureAlgorithm::ALL;
    Role: "Role of a caller.", [kms_lib::Role::Admin, kms_lib::Role::Auditor, kms_lib::Role::App];
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
    /// Reason why the key is disabled.
    #[schema(nullable = false)]
    disabled_reason: Option<String>,
    /// Days between automatic rotations.
    #[schema(nullable = false)]
    rotation_period_days: Option<u32>,
    /// Days for which a former version still decrypts and verifies.
    #[schema(nullable = false)]
    grace_period_days: Option<u32>,
    /// Time of the next automatic rotation.
    #[schema(nullable = false, format = "date-time")]
    rotate_at: Option<String>,
    /// Time when its key material is erased.
    #[schema(nullable = false, format = "date-time")]
    delete_at: Option<String>,
    /// Name of the import that the key belongs to, until it is finalized; until then the source controls the key.
    #[schema(nullable = false)]
    open_import: Option<String>,
    audit_context: AuditContext,
    #[schema(nullable = false, required = false, value_type = Object)]
    metadata: Option<Value>,
    #[schema(format = "date-time")]
    created_at: String,
    current_version: u32,
    /// Sequence number of the audit record of the last change of the key itself.
    revision: u64,
    /// The newest 1,000 versions, oldest first; absent in lists.
    #[schema(nullable = false)]
    versions: Option<Vec<Version>>,
    /// Whether there are older versions than those in `versions`.
    #[schema(nullable = false)]
    versions_truncated: Option<bool>,
}

/// A version of a key. Its key material is never returned.
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
    /// Time until which it decrypts and verifies as a former version.
    #[schema(nullable = false, format = "date-time")]
    not_after: Option<String>,
    /// Public key, for RSA (SubjectPublicKeyInfo, PEM).
    #[schema(nullable = false)]
    public_key_pem: Option<String>,
    #[schema(nullable = false)]
    grace_period_days: Option<u32>,
    /// Origin of the key material: `GENERATED` or `IMPORTED`.
    origin: String,
    /// Number of messages encrypted under it. Absent from the response to a change if the store could not be read after
    /// the commit.
    #[schema(nullable = false)]
    encryptions: Option<u64>,
    #[schema(nullable = false, format = "date-time")]
    last_used_at: Option<String>,
}

/// Conditions of a grant. All that are set must hold.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Conditions {
    #[schema(format = "date-time")]
    not_before: Option<String>,
    #[schema(format = "date-time")]
    not_after: Option<String>,
    /// Networks (CIDR), one of which must contain the caller's address.
    source_ip: Option<Vec<String>>,
    encryption_context_equals: Option<BTreeMap<String, String>>,
    encryption_context_subset: Option<BTreeMap<String, String>>,
}

/// A grant: permissions of a principal on a key.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    #[schema(format = "uuid")]
    id: String,
    principal: String,
    role: Role,
    /// Id of the key, or `*` for all keys.
    key_id: String,
    allowed_ops: Vec<Permission>,
    #[schema(nullable = false)]
    conditions: Option<Conditions>,
    #[schema(format = "date-time")]
    created_at: String,
    /// Principal that made it; `system` for the grant that the creator of a key receives.
    granted_by: String,
    /// Ids of the grants that it was passed on through, if an app made it.
    #[schema(nullable = false)]
    granted_through: Option<Vec<String>>,
}

/// The description of an access token. The token itself is not stored.
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

/// A record of the audit log.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditRecord {
    #[schema(format = "uuid")]
    id: String,
    /// Position in the log, counted from 1 without gaps.
    seq: u64,
    #[schema(format = "date-time")]
    timestamp: String,
    /// Principal that acted.
    actor: String,
    /// Role in which the principal acted.
    role: String,
    /// Audit action, such as `ENCRYPT`.
    action: String,
    /// Result: `SUCCESS` or `FAILURE`.
    status: String,
    /// Id of the request; null for automatic actions of the service.
    request_id: Option<String>,
    #[schema(value_type = Option<Object>, nullable = false)]
    details: Option<Value>,
    #[schema(nullable = false, format = "uuid")]
    key_id: Option<String>,
    #[schema(nullable = false)]
    key_version: Option<u32>,
    /// Hash of the previous record, in hexadecimal.
    prev_hash: String,
    /// Hash of this record, in hexadecimal.
    hash: String,
    /// Format of the record: 2, or 0 or 1 for imported records.
    format: u8,
}

/// A row of an audit log that was imported from Mini KMS on Node.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImportedRow {
    /// Position in the imported log, counted from 1 in the order of the links.
    position: u64,
    /// Format in which its hash is correct: 0 or 1; null if the row was altered before the import.
    format: Option<u8>,
    id: String,
    /// RFC 3339, or `YYYY-MM-DD HH:MM:SS` in UTC.
    timestamp: String,
    actor: String,
    role: String,
    action: String,
    request_id: String,
    details: Value,
    key_id: Option<String>,
    key_version: Option<i64>,
    /// Hash of the row that this one links to, or `GENESIS`.
    prev_hash: String,
    hash: String,
    status: String,
}

/// The result of a verification of the audit log.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// Whether no fault was found.
    ok: bool,
    /// Number of records in the log.
    size: u64,
    /// Number of records before the first one that was verified; 0 for a complete verification.
    from: u64,
    /// Sequence number of the first record with a fault.
    #[schema(nullable = false)]
    broken_at: Option<u64>,
    /// Range of earlier records that were read again: after the first number, up to the second.
    #[schema(nullable = false)]
    reread: Option<[u64; 2]>,
    /// Faults that were found.
    #[schema(value_type = Vec<Object>)]
    faults: Vec<Value>,
    /// Findings that are not faults, such as foreign objects in the database. Absent if there are none.
    #[schema(nullable = false)]
    warnings: Option<Vec<String>>,
    /// Imported logs with the faults found when they were imported. Absent if there are none.
    #[schema(value_type = Option<Vec<Object>>, nullable = false)]
    imported: Option<Vec<Value>>,
    /// Ids of imported rows that Mini KMS on Node reported as legacy, at most 10,000. Absent if there are none.
    #[schema(nullable = false)]
    legacy: Option<Vec<String>>,
}

/// Metrics of keys, audit log, usage and storage.
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
