//! The head of the log: as it is stored, and as this process has seen it.

use crate::session::Shared;
use crate::storage::tables::{audit, head};
use crate::types::audit::Head;
use crate::types::error::{Error, ErrorCode, Result};

/// The head as it is stored now.
pub(super) async fn stored(shared: &Shared) -> Result<Head> {
    let mut connection = shared.store.reader().await?;
    let head = head::read(connection.as_mut()).await?;
    head.ok_or_else(|| Error::new(ErrorCode::StoreCorrupt, "the head of the log is missing"))
}

/// Notes the head as seen, if it is signed and continues what this process has seen. That of a store which was rolled
/// back underneath is not noted: what was seen before is what tells the next process.
pub(super) async fn see(shared: &Shared) -> Result<()> {
    let (size, hash) = shared.ledger.seen().state();
    let head = stored(shared).await?;
    if head.seq <= size || shared.signer.keys().check(&head).is_err() {
        return Ok(());
    }
    let mut connection = shared.store.reader().await?;
    if audit::hash_of(connection.as_mut(), size).await? == Some(hash) {
        shared.ledger.seen().note(&head);
    }
    Ok(())
}
