//! The length of the log's rows, compared with the messages that the store's database server accepts.

use super::run::Run;
use super::source::RECORD_BYTES;
use crate::audit::legacy::StoredRow;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::limits::PAGE_LIMIT;

/// The bytes of a message in addition to the stored row: the statement, the name of the source, headers.
const STATEMENT: u64 = 1_024;
/// The bytes of a stored row in addition to the texts of its source: names, numbers and quotes.
const FIELDS: u64 = 512;
/// The maximum number of bytes that one byte takes in JSON: a control character becomes `\u001f`.
const ESCAPED: u64 = 6;

impl Run<'_> {
    /// Refuses a log with a row that the store's server would not accept, before anything is written.
    pub(super) async fn check_row_lengths(&mut self) -> Result<()> {
        let Some(limit) = self.message_limit().await? else { return Ok(()) };
        let mut after: Option<String> = None;
        loop {
            let page = self.source.audit_rows(after.as_deref(), PAGE_LIMIT).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.row.id.clone());
            for row in page {
                if row.bytes > RECORD_BYTES || row.bytes * ESCAPED + FIELDS + STATEMENT <= limit {
                    continue;
                }
                let stored = StoredRow { row: row.row, format: None };
                let bytes = stored.body().len() as u64;
                check_length(&stored.row.id, bytes, limit, "nothing was written")?;
            }
        }
    }

    /// The largest message that the store's server accepts, if it is too small for some rows.
    pub(super) async fn message_limit(&self) -> Result<Option<u64>> {
        let mut connection = self.session.shared().store.reader().await?;
        Ok(connection.message_limit().await?.filter(|limit| *limit < RECORD_BYTES + STATEMENT))
    }
}

/// Refuses a row of this stored length if the server accepts only shorter messages. Longer ones than are imported at
/// all pass, because they are left out.
pub(super) fn check_length(id: &str, bytes: u64, limit: u64, done: &str) -> Result<()> {
    let needed = bytes + STATEMENT;
    if bytes > RECORD_BYTES || needed <= limit {
        return Ok(());
    }
    let text = format!(
        "row {id:?} of the source's log takes {bytes} bytes here, but the database server of this store accepts \
         messages of {limit} bytes only; set max_allowed_packet to {needed} or more there, restart this service, and \
         import again; {done}"
    );
    Err(Error::new(ErrorCode::InvalidConfiguration, text))
}
