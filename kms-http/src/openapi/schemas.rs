//! What is sent back and forth, for `/openapi.json`. Types that only describe what the library serializes itself are
//! never made here; the tests hold the answers of a running service against them.

#![allow(dead_code, reason = "several types only describe what the library serializes itself")]

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// Declares the schemas of enumerations of the library, each with its description and names.
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
    KeyType: "What kind of key it is.", kms_lib::KeyType::ALL;
    KeyPurpose: "What a key may be used for. An `AES256_GCM` key cannot sign.", kms_lib::KeyPurpose::ALL;
    KeyState: "Where a key stands in its life.", kms_lib::KeyState::ALL;
    VersionState: "Where a version stands in its life.", kms_lib::VersionState::ALL;
    AuditContext: "How records show the contexts of a key.", kms_lib::AuditContext::ALL;
    Permission: "What a grant can allow.", kms_lib::Permission::ALL;
    SigningAlgorithm: "How a signature is made.", kms_lib::SignatureAlgorithm::ALL;
    Role: "What a caller is by role.", [kms_lib::Role::Admin, kms_lib::Role::Auditor, kms_lib::Role::App];
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
    /// The source of the import that the key came with, as long as that is not finalised and decides on the key.
    #[schema(nullable = false)]
    open_import: Option<String>,
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

/// A record of the log.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditRecord {
    #[schema(format = "uuid")]
    id: String,
    /// Its place in the log, counted from 1 without gaps.
    seq: u64,
    #[schema(format = "date-time")]
    timestamp: String,
    /// The principal that acted.
    actor: String,
    /// In which role.
    role: String,
    /// The audit action, such as `ENCRYPT`.
    action: String,
    /// How it ended: `SUCCESS` or `FAILURE`.
    status: String,
    /// The caller's id for the request; null for what the service did by itself.
    request_id: Option<String>,
    #[schema(value_type = Option<Object>, nullable = false)]
    details: Option<Value>,
    #[schema(nullable = false, format = "uuid")]
    key_id: Option<String>,
    #[schema(nullable = false)]
    key_version: Option<u32>,
    /// Hash of the record before, in hexadecimal.
    prev_hash: String,
    /// Hash of this record, in hexadecimal.
    hash: String,
    /// Format of the record: 2, or 0 and 1 of imported ones.
    format: u8,
}

/// A row of the log that was imported from Mini KMS on Node.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImportedRow {
    /// Its place in the imported log, counted from 1 in the order of the links.
    position: u64,
    /// The format under which its hash reproduces: 0 or 1; null if it was altered before it was imported.
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
    /// The hash of the row that this one links to, or `GENESIS`.
    prev_hash: String,
    hash: String,
    status: String,
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
    /// Imported logs, with what was wrong with them when they were imported. Absent if there are none.
    #[schema(value_type = Option<Vec<Object>>, nullable = false)]
    imported: Option<Vec<Value>>,
    /// The ids of imported rows that Mini KMS on Node reported as legacy, at most 10,000. Absent if there are none.
    #[schema(nullable = false)]
    legacy: Option<Vec<String>>,
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
