//! The head of the log, as stored and as last seen by this process.

use crate::session::Shared;
use crate::storage::tables::{audit, head};
use crate::types::audit::Head;
use crate::types::error::Result;

/// Reads the stored head.
pub(super) async fn stored(shared: &Shared) -> Result<Head> {
    let mut connection = shared.store.reader().await?;
    head::require(connection.as_mut()).await
}

/// Notes the stored head as seen if it is signed and continues the last one seen. The head of a store that was rolled
/// back is not noted, so that the next process can detect the rollback from the earlier one.
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
