//! The lock that says whether other processes may open the store too.

use std::sync::Arc;
use std::time::Duration;

use crate::storage::Store;
use crate::types::error::{ErrorCode, Result};

/// How often a lock that is held is tried again, and the pause in between.
const TRIES: usize = 10;
const PAUSE: Duration = Duration::from_millis(50);

/// Takes the lock. A process that another thread of the former owner has just forked holds it too, until it executes
/// its program, so a lock that is held is tried again for half a second.
pub(super) async fn claim(store: &Arc<dyn Store>, is_exclusive: bool) -> Result<()> {
    for _ in 0..TRIES {
        match store.claim(is_exclusive) {
            Err(error) if error.code() == ErrorCode::StoreInUse => tokio::time::sleep(PAUSE).await,
            done => return done,
        }
    }
    store.claim(is_exclusive)
}
