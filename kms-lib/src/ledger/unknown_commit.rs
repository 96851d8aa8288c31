//! A commit with an unknown outcome: the outcome is determined before anything else is written.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::plan::Plan;
use super::writer::{RETRY, Writer};
use crate::storage::tables::{audit, head};
use crate::types::error::{Error, ErrorCode, Result};

/// How long callers wait while the outcome of their commit is unknown.
const SETTLE: Duration = Duration::from_secs(10);

impl Writer {
    /// Determines, on a new connection, whether a commit that reported an error took place.
    pub(super) async fn settle(&mut self, plan: &Plan, rolled_back: bool) -> Result<bool> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let looked = timeout(SETTLE, self.look_for(plan)).await;
            let looked =
                looked.unwrap_or_else(|_| Err(Error::new(ErrorCode::StoreUnavailable, "the store does not respond")));
            match looked {
                Ok(found) => return Ok(found),
                Err(error) if Instant::now() < deadline => {
                    tracing::debug!(%error, "it is still unknown whether a commit took place");
                    sleep(RETRY).await;
                }
                // The engine confirmed the rollback, so the commit did not take place.
                Err(error) if rolled_back => return Err(error),
                Err(error) => {
                    let text = format!(
                        "the connection to the store was lost during a commit, whose outcome is unknown: {error}"
                    );
                    return Err(Error::new(ErrorCode::OutcomeUnknown, text).with_source(error));
                }
            }
        }
    }

    async fn look_for(&mut self, plan: &Plan) -> Result<bool> {
        let mut connection = self.connection.open().await?;
        // The interrupted commit may still be running on the server; once this has the lock, it has ended.
        let found = match head::begin_locked(connection.as_mut()).await {
            Ok(_) => audit::hash_of(connection.as_mut(), plan.head.seq).await,
            Err(error) => Err(error),
        };
        connection.rollback().await?;
        self.connection.keep(connection);
        Ok(found? == Some(plan.head.hash))
    }
}
