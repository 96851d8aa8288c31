//! Rows of Mini KMS on Node, as they are: nothing of them is trusted, and only checked where it is used.

use crate::types::error::{Error, Result};
use crate::types::time::Timestamp;

/// A row of `keys`.
#[derive(Clone, Debug)]
pub struct SourceKey {
    /// The key's identifier, a UUID.
    pub id: String,
    /// Unique there, without regard to case.
    pub name: String,
    /// `AES256_GCM` or `RSA_2048`.
    pub key_type: String,
    /// `ENCRYPTION` or `SIGNING`, which it does not enforce.
    pub purpose: String,
    /// `ENABLED`, `DISABLED` or `REVOKED`.
    pub state: String,
    /// Days between rotations.
    pub rotation_period_days: Option<i64>,
    /// Days a former version stays usable.
    pub grace_period_days: Option<i64>,
    /// When the key was made, in UTC.
    pub created_at: String,
    /// The metadata as JSON text.
    pub metadata: Option<String>,
    /// The number of the current version.
    pub current_version: i64,
}

/// A row of `key_versions`. Its `Debug` hides the wrapped material.
#[derive(Clone)]
pub struct SourceVersion {
    /// The version's identifier, a UUID.
    pub id: String,
    /// Counted from 1.
    pub version: i64,
    /// `ENABLED`, `DISABLED` or `REVOKED`.
    pub state: String,
    /// When the version was made, in UTC.
    pub created_at: String,
    /// The begin of its window, in UTC.
    pub not_before: Option<String>,
    /// The end of its window, in UTC.
    pub not_after: Option<String>,
    /// The wrapped material as JSON text.
    pub wrapped_material: String,
    /// SubjectPublicKeyInfo, for RSA.
    pub public_key_pem: Option<String>,
    /// The grace period that the window was made from.
    pub grace_period_days: Option<i64>,
}

impl std::fmt::Debug for SourceVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceVersion").field("id", &self.id).field("version", &self.version).finish_non_exhaustive()
    }
}

/// A row of `grants`.
#[derive(Clone, Debug)]
pub struct SourceGrant {
    /// The grant's identifier, a UUID.
    pub id: String,
    /// The principal that it is for.
    pub principal: String,
    /// `admin`, `auditor` or `app`.
    pub role: String,
    /// The id of a key, or `*`.
    pub key_id: String,
    /// JSON text: an array of permissions.
    pub allowed_ops: String,
    /// The conditions as JSON text.
    pub conditions: Option<String>,
    /// When the grant was made, in UTC.
    pub created_at: String,
}

/// A row of `audit_logs`, or a record of an older version's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// The row's identifier, a UUID.
    pub id: String,
    /// In UTC: `YYYY-MM-DD HH:MM:SS` from a database, whatever stands there from a file.
    pub timestamp: String,
    /// The principal that acted.
    pub actor: String,
    /// In which role.
    pub role: String,
    /// The action, as the original names it.
    pub action: String,
    /// The id of the request.
    pub request_id: String,
    /// JSON text; none if it is NULL or absent.
    pub details: Option<String>,
    /// The key it was about.
    pub key_id: Option<String>,
    /// The version it was about.
    pub key_version: Option<i64>,
    /// The hash of a record before, or `GENESIS`.
    pub prev_hash: String,
    /// The hash of this one.
    pub hash: String,
    /// How it ended.
    pub status: String,
}

/// A time of the source, which is in UTC and has no zone: `2026-11-23 18:26:46`.
pub fn source_time(text: &str) -> Result<Timestamp> {
    let whole = if text.ends_with('Z') { text.to_owned() } else { format!("{text}Z") };
    whole.parse().map_err(|_| Error::invalid(format!("{text:?} is not a time between 1970 and 9999")))
}
