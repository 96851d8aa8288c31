//! Checking that the log continues the states seen before, by this process or by the one that wrote the high-water
//! file.

use std::path::PathBuf;
use std::sync::Arc;

use super::high_water;
use crate::audit::verify::{Fault, Finding};
use crate::ledger::Signer;
use crate::storage::Store;
use crate::storage::tables::{audit, head};
use crate::types::error::{ErrorCode, Result};

/// Returns a rollback, if there was one, and what is wrong with the high-water file, if anything is.
///
/// `seen` (a size and the hash of its last record) and the text of the high-water file must be read before this call: a
/// busy service changes both.
pub(crate) async fn rolled_back(
    store: &Arc<dyn Store>,
    signer: &Signer,
    seen: (u64, [u8; 32]),
    note: Option<(PathBuf, String)>,
) -> Result<(Option<Fault>, Option<String>)> {
    let mut connection = store.long_reader().await?;
    let head = head::read(connection.as_mut()).await?;
    let hash = audit::hash_of(connection.as_mut(), seen.0).await;
    drop(connection);
    // A missing head is reported separately.
    let Some(head) = head else { return Ok((None, None)) };
    let fault = |seen| Some(Fault { seq: 0, finding: Finding::RolledBack { size: head.seq, seen } });
    // A record that cannot be read is reported separately, too.
    if head.seq < seen.0 || (seen.0 > 0 && hash.is_ok_and(|hash| hash.is_some_and(|hash| hash != seen.1))) {
        return Ok((fault(seen.0), None));
    }
    let Some((path, note)) = note else { return Ok((None, None)) };
    match high_water::compare(&path, &note, &head, signer, store).await {
        Ok(lost) => Ok((lost.and_then(|lost| fault(lost.noted)), None)),
        Err(error) if error.code() == ErrorCode::IntegrityFailure => Ok((None, Some(error.message().to_owned()))),
        Err(error) => Err(error),
    }
}
