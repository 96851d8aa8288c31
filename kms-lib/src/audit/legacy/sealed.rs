//! `LEGACY_IMPORT` records: the states of imported logs that they seal.

use serde::Deserialize;

use super::report::LegacyLog;
use crate::types::audit::{Action, AuditRecord, Status};

/// A state of an imported log that a record seals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SealedLog {
    /// The sequence number of the record.
    pub seq: u64,
    /// The name under which the log was imported.
    pub source: String,
    /// The number of rows at that time.
    pub size: u64,
    /// The Merkle root of the rows, in lower-case hexadecimal.
    pub root: String,
    /// The number of the last record with findings: this one, or that of an earlier run.
    pub findings_at: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    source: String,
    size: u64,
    root: String,
    #[serde(default)]
    findings_at: Option<u64>,
    #[serde(default)]
    log: Option<LegacyLog>,
}

fn details(record: &AuditRecord) -> Option<Details> {
    let is_import = record.action == Action::LegacyImport.as_str() && record.status == Status::Success.as_str();
    let details = record.details.as_deref().filter(|_| is_import)?;
    serde_json::from_str(details).ok()
}

/// The state that a record seals, if it is a record of an import.
pub(crate) fn sealed_log(record: &AuditRecord) -> Option<SealedLog> {
    let Details { source, size, root, findings_at, log } = details(record)?;
    let findings_at = if log.is_some() { Some(record.seq) } else { findings_at };
    Some(SealedLog { seq: record.seq, source, size, root, findings_at })
}

/// The findings in a record. The last record of each run has them.
pub(crate) fn findings(record: &AuditRecord) -> Option<LegacyLog> {
    details(record)?.log
}
