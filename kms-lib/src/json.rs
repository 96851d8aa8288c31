//! JSON forms that all interfaces share and that differ from the Rust types: a key with its versions, oldest first, and
//! the report of a scheduler run.

use serde::Serialize;

use crate::kms::JobReport;
use crate::types::error::Error;
use crate::types::ids::KeyId;
use crate::types::limits::PAGE_LIMIT;
use crate::verification::Report;
use crate::{KeyDescription, VersionDescription};

/// A key with its versions, oldest first. `versionsTruncated` is true if older versions were left out.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Key {
    #[serde(flatten)]
    key: KeyDescription,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    versions_truncated: bool,
}

impl From<KeyDescription> for Key {
    fn from(mut key: KeyDescription) -> Self {
        let versions = key.versions.as_deref_mut().unwrap_or_default();
        versions.reverse();
        let is_older = |first: &VersionDescription| first.version > 1;
        let versions_truncated = versions.len() == PAGE_LIMIT && versions.first().is_some_and(is_older);
        Self { key, versions_truncated }
    }
}

/// The result of a scheduler run: rotated and destroyed keys, revoked versions, failures and the verification's report.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Jobs<'a> {
    rotated: &'a [KeyId],
    destroyed: &'a [KeyId],
    revoked: Vec<RevokedVersion>,
    failed: Vec<FailedKey<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verification: Option<&'a Report>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RevokedVersion {
    key_id: KeyId,
    version: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FailedKey<'a> {
    key_id: KeyId,
    code: &'static str,
    error: &'a str,
}

impl<'a> From<&'a JobReport> for Jobs<'a> {
    fn from(report: &'a JobReport) -> Self {
        let failed = |(key_id, error): &'a (KeyId, Error)| FailedKey {
            key_id: *key_id,
            code: error.code().as_str(),
            error: error.message(),
        };
        Self {
            rotated: &report.rotated,
            destroyed: &report.destroyed,
            revoked: report.revoked.iter().map(|&(key_id, version)| RevokedVersion { key_id, version }).collect(),
            failed: report.failed.iter().map(failed).collect(),
            verification: report.verification.as_ref(),
        }
    }
}
