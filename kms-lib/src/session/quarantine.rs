//! The quarantine: rows that do not match the log and are not used.

use serde::Serialize;

use super::Session;
use super::change::Intent;
use crate::envelope::row;
use crate::ledger::Details;
use crate::lifecycle::{Command, NewQuarantined, Released};
use crate::storage::Connection;
use crate::storage::tables::entities;
use crate::types::attempt::Operation;
use crate::types::audit::{Action, hex};
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::{KeyId, QuarantineId};
use crate::types::quarantine::{EntityRow, EntityTable, Quarantined};
use crate::types::time::Timestamp;
use crate::verification::Verifier;

/// The maximum number of rows that one command releases, in one transaction.
const RELEASED: usize = 1_000;

/// A row in quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct QuarantinedRow {
    /// The identifier of the quarantine's entry.
    pub id: QuarantineId,
    /// The table that contains the row.
    pub table: EntityTable,
    /// The row's own identifier, as a UUID.
    pub row: String,
    /// The key that cannot be used because of this row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
    /// The name of that key, if the row is the key's own row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_name: Option<String>,
    /// The time at which the row was quarantined.
    pub created_at: Timestamp,
}

impl Session {
    /// Lists the rows in quarantine, oldest first. They did not match the log when the store was opened, and are not
    /// used. For admins and auditors.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn list_quarantine(&self) -> Result<Vec<QuarantinedRow>> {
        self.permit_reading(Action::QuarantineRead, Operation::ReadQuarantine, None).await?;
        let snapshot = self.shared().catalog.snapshot();
        let mut entries: Vec<&Quarantined> = snapshot.quarantine().collect();
        entries.sort_unstable_by_key(|entry| (entry.created_at, entry.id));
        Ok(entries.into_iter().map(describe).collect())
    }

    /// Releases the quarantined rows that match the log again, for example after the operator has restored them from a
    /// backup, and returns them. The others stay in quarantine. For admins.
    ///
    /// The whole log is verified first; `IntegrityFailure` if the log itself has a fault. At most 1,000 rows are
    /// released in one call. The release is recorded.
    ///
    /// Cancellation: before the change is submitted, dropping the future does nothing; afterwards the change is made
    /// and its answer is lost.
    pub async fn release_quarantine(&self) -> Result<Vec<QuarantinedRow>> {
        self.permit_reading(Action::RowsRelease, Operation::ManageQuarantine, None).await?;
        let shared = self.shared();
        let (store, catalog, signer) = (&shared.store, &shared.catalog, &shared.signer);
        let verifier = Verifier { store, catalog, signer, workers: &shared.workers, kept: None };
        let compared = shared.turns.alone(self.actor().principal(), verifier.compare_rows()).await?;
        let compared = compared.ok_or_else(|| {
            Error::new(ErrorCode::IntegrityFailure, "the log was altered, so it cannot show which rows are genuine")
        })?;
        let entries: Vec<Quarantined> = shared.catalog.snapshot().quarantine().cloned().collect();
        let mut released = Vec::new();
        let mut connection = shared.store.reader().await?;
        for entry in entries {
            let id = row_text(&entry);
            let found = compared.restored.iter().find(|row| row.table == entry.table.as_str() && row.id == id);
            let Some(verified) = found else { continue };
            if let Some(row) = read_row(connection.as_mut(), &entry, &verified.digest).await?
                && released.len() < RELEASED
            {
                released.push(Released { entry, row });
            }
        }
        drop(connection);
        if released.is_empty() {
            return Ok(Vec::new());
        }
        let changes = self.change(self.quarantine_intent(Action::RowsRelease), Command::Release(released)).await?.0;
        let entries = changes.iter().filter_map(|change| match change {
            Change::UpdateQuarantined(entry) => Some(describe(entry)),
            _ => None,
        });
        Ok(entries.collect())
    }

    /// Quarantines rows, and records it.
    pub(crate) async fn quarantine(&self, rows: Vec<NewQuarantined>) -> Result<()> {
        self.change(self.quarantine_intent(Action::RowsQuarantine), Command::Quarantine(rows)).await.map(drop)
    }

    fn quarantine_intent(&self, action: Action) -> Intent {
        Intent {
            action,
            attempt: self.attempt(Operation::ManageQuarantine, None),
            version: None,
            details: Details::default(),
            once: None,
        }
    }
}

/// The stored row, if it is still the one that was verified.
async fn read_row(
    connection: &mut dyn Connection,
    entry: &Quarantined,
    verified_digest: &str,
) -> Result<Option<EntityRow>> {
    let stored = entities::by_id(connection, entry.table, entry.row).await?;
    let Some(Ok(found)) = stored.map(|sealed| sealed.row) else { return Ok(None) };
    let bytes = match &found {
        EntityRow::Key(key) => row::key(key),
        EntityRow::Version(version) => row::version(version),
        EntityRow::Grant(grant) => row::grant(grant)?,
        EntityRow::Credential(credential) => row::credential(credential),
    };
    Ok((hex(&row::digest(&bytes)) == verified_digest).then_some(found))
}

fn row_text(entry: &Quarantined) -> String {
    KeyId::from_bytes(entry.row).to_string()
}

fn describe(entry: &Quarantined) -> QuarantinedRow {
    QuarantinedRow {
        id: entry.id,
        table: entry.table,
        row: row_text(entry),
        key_id: entry.key,
        key_name: entry.key_name.clone(),
        created_at: entry.created_at,
    }
}
