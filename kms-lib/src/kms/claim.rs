//! The lock that decides whether other processes may open the store too.

use std::sync::Arc;
use std::time::Duration;

use crate::storage::Store;
use crate::types::error::{ErrorCode, Result};

/// The number of attempts to take a lock that another process holds, and the pause between them.
const TRIES: usize = 10;
const PAUSE: Duration = Duration::from_millis(50);

/// Takes the lock. A process just forked by another thread of the previous owner still holds it until it executes its
/// program, so a lock that is held is tried again for half a second.
pub(super) async fn claim(store: &Arc<dyn Store>, is_exclusive: bool) -> Result<()> {
    for _ in 0..TRIES {
        match store.claim(is_exclusive) {
            Err(error) if error.code() == ErrorCode::StoreInUse => tokio::time::sleep(PAUSE).await,
            done => return done,
        }
    }
    store.claim(is_exclusive)
}
