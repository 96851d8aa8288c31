//! Details of a change's record that make the change replayable.

use super::super::details::Details;
use crate::audit::recorded::REMOVED;
use crate::catalog::change_row;
use crate::envelope::row;
use crate::lifecycle::Command;
use crate::types::audit::hex;
use crate::types::change::Change;
use crate::types::error::Result;
use crate::types::ids::KeyId;
use crate::types::key::KeyVersion;
use crate::types::time::Timestamp;

/// The details that make a change replayable: the rows after the change, and the values that the service chose.
pub(super) fn replay_details(command: &Command, changes: &[Change]) -> Result<Details> {
    let mut details = Details::default();
    if changes.is_empty() {
        let changes_no_row = matches!(
            command,
            Command::AddWrappings(_)
                | Command::MarkVerified(_)
                | Command::EraseWrappings(..)
                | Command::EraseMaterial(..)
                | Command::Reseal(_)
                | Command::BeginImport(_)
                | Command::ImportRows(_)
                | Command::Record(_)
        );
        if !changes_no_row {
            details.raw("changed", "false");
        }
        return Ok(details);
    }
    details.raw("rows", changed_rows(changes)?);
    let (mut rows, mut trimmed) = (Vec::new(), Vec::new());
    let quoted = |time: Timestamp| format!("\"{time}\"");
    for change in changes {
        match (command, change) {
            (Command::Rotate(..), Change::UpdateVersion(former)) => {
                details.raw("formerNotAfter", former.not_after.map_or_else(|| "null".into(), quoted));
                if let Some(days) = former.grace_period_days {
                    details.number("graceDays", days.into());
                }
            }
            (Command::Trim(..), Change::EraseVersion(version)) => trimmed.push(version.version.to_string()),
            (Command::RevokeVersion(..), Change::UpdateVersion(KeyVersion { not_after: Some(end), .. })) => {
                details.raw("notAfter", quoted(*end));
            }
            (Command::PutGrant(_), Change::InsertGrant(grant) | Change::UpdateGrant(grant))
                if grant.withdrawn_at.is_none() && !grant.grantor.through.is_empty() =>
            {
                let through: Vec<String> = grant.grantor.through.iter().map(|id| format!("\"{id}\"")).collect();
                details.raw("through", format!("[{}]", through.join(",")));
            }
            (_, Change::InsertQuarantined(entry) | Change::UpdateQuarantined(entry)) => {
                rows.push(format!("[\"{}\",\"{}\"]", entry.table, KeyId::from_bytes(entry.row)));
            }
            _ => {}
        }
    }
    if !trimmed.is_empty() {
        details.raw("versions", format!("[{}]", trimmed.join(",")));
    }
    if !rows.is_empty() {
        details.raw("quarantine", format!("[{}]", rows.join(",")));
    }
    Ok(details)
}

/// The rows a record changes, each with the SHA-256 of the row afterwards, or nothing if it was removed, so that a
/// verification can compare the tables with the log.
pub fn changed_rows(changes: &[Change]) -> Result<String> {
    let mut json = String::from("[");
    for change in changes {
        let (table, id) = match change {
            Change::InsertKey(key) | Change::UpdateKey(key) => ("keys", key.id.to_string()),
            Change::InsertVersion(v, _) | Change::UpdateVersion(v) | Change::EraseVersion(v) => {
                ("key_versions", v.id.to_string())
            }
            Change::InsertGrant(grant) | Change::UpdateGrant(grant) => ("grants", grant.id.to_string()),
            Change::InsertCredential(c) | Change::UpdateCredential(c) | Change::RemoveCredential(c) => {
                ("credentials", c.id.to_string())
            }
            Change::InsertQuarantined(entry) | Change::UpdateQuarantined(entry) => ("quarantine", entry.id.to_string()),
            Change::InsertRootKey(root) | Change::UpdateRootKey(root) => ("root_keys", root.id.to_string()),
            Change::InsertServiceKey(key, _) | Change::UpdateServiceKey(key) => ("service_keys", key.id.to_string()),
        };
        if json.len() > 1 {
            json.push(',');
        }
        let digest = match change {
            Change::RemoveCredential(_) => REMOVED.to_owned(),
            _ => hex(&row::digest(&change_row(change)?)),
        };
        json.push_str(&format!("[\"{table}\",\"{id}\",\"{digest}\"]"));
    }
    json.push(']');
    Ok(json)
}
