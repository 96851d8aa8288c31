//! Lists the rows of imported logs.

use serde::Serialize;

use super::Session;
use super::requests::{Page, Paging};
use crate::audit::legacy::{LegacyRow, StoredRow};
use crate::storage::corrupt;
use crate::storage::tables::legacy;
use crate::types::attempt::Operation;
use crate::types::audit::Action;
use crate::types::error::{Error, Result};

/// A row of an imported log, with its position and format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ImportedRow {
    /// The row's position in the imported log, counted from 1 in the order of the links.
    pub position: u64,
    /// The format under which the row's hash reproduces: 0 or 1. None if it does not reproduce; the row was then
    /// altered before it was imported.
    pub format: Option<u8>,
    /// The row as its source held it.
    #[serde(flatten)]
    pub row: LegacyRow,
}

impl Session {
    /// Lists the rows of an imported log in the order of their links. `source` is the name under which it was imported;
    /// an unknown name has no rows. A cursor is a position, after which the list continues.
    /// [`verify_audit`](Self::verify_audit) checks that the rows are those that were imported. For admins and auditors.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn list_imported_audit(&self, source: &str, paging: &Paging) -> Result<Page<ImportedRow>> {
        paging.check()?;
        let (limit, cursor): (usize, Option<u64>) = (paging.limit, paging.cursor_as()?);
        if cursor.is_some_and(|position| i64::try_from(position).is_err()) {
            return Err(Error::invalid("cursor: not one that this service returned"));
        }
        self.permit_reading(Action::AuditRead, Operation::ReadAudit, None).await?;
        let _admission = self.admit_list()?;
        let _turn = self.shared.lists.turn(self.actor.principal()).await;
        let mut connection = self.shared.store.long_reader().await?;
        self.shared.ledger.seen().check_writable()?;
        connection.check_schema_change().await?;
        let page = legacy::list(connection.as_mut(), source, cursor.unwrap_or_default(), limit + 1).await?;
        let legacy::LegacyRows { rows, is_cut } = page;
        let mut items = Vec::with_capacity(rows.len());
        for (position, body) in rows {
            let StoredRow { row, format } = StoredRow::read(&body)
                .ok_or_else(|| corrupt(format!("row {position} of the imported log was altered; verify the log")))?;
            items.push(ImportedRow { position, format, row });
        }
        // The rows are long, so there are fewer than the limit although more follow.
        let limit = if is_cut { items.len().min(limit) } else { limit };
        let next_cursor = items.get(limit.wrapping_sub(1)).filter(|_| is_cut).map(|last| last.position.to_string());
        let page = Page::of(items, limit, |row| row.position);
        Ok(Page { next_cursor: page.next_cursor.or(next_cursor), ..page })
    }
}
