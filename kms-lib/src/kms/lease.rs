//! The lease that decides which of several nodes runs the scheduler's jobs of a period: the first that asks. The other
//! nodes stand by, and one of them takes over if the lease is no longer renewed.
//!
//! The lease is a small value in the store, taken under the head's lock. It is not sealed: an attacker with write
//! access to the database can prevent the jobs, just as they can delete keys. The lease grants no rights.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::session::Shared;
use crate::storage::Connection;
use crate::storage::tables::{head, usage};
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::RecordId;
use crate::types::time::Timestamp;

/// The name of the lease's value in the store.
const NAME: &str = "scheduler.lease";
/// The time for which the lease holds unless it is renewed, in seconds: longer than the allowed difference between
/// clocks.
const SECONDS: u32 = 90;
/// The interval at which the lease is renewed.
pub(super) const RENEW: Duration = Duration::from_secs(20);
/// A lease dated further ahead than this, in seconds, was written by a clock that was ahead and is ignored.
const SKEW_SECONDS: u32 = 60;

/// A node that can hold the lease.
#[derive(Clone)]
pub(super) struct Node {
    shared: Arc<Shared>,
    id: String,
}

/// The result of asking for the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// This node holds the lease and runs the jobs.
    Ours,
    /// Another node holds an unexpired lease.
    Theirs,
    /// The jobs of the period are done.
    Done,
}

/// The lease as stored.
#[derive(Serialize, Deserialize)]
struct Lease {
    node: String,
    period: Timestamp,
    until: Timestamp,
    done: bool,
}

/// A node's request concerning the lease.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    Take,
    Renew,
    Release,
    End,
}

impl Node {
    /// The node of this process. Its identifier is valid for the lifetime of the process.
    pub fn new(shared: &Arc<Shared>, id: RecordId) -> Self {
        Self { shared: Arc::clone(shared), id: id.to_string() }
    }

    /// Asks to run the jobs of a period, which is identified by its due time.
    pub async fn take(&self, period: Timestamp) -> Result<Turn> {
        self.ask(period, Wish::Take).await
    }

    /// Renews the lease while the jobs are running.
    pub async fn renew(&self, period: Timestamp) -> Result<Turn> {
        self.ask(period, Wish::Renew).await
    }

    /// Releases the lease, so that a node on standby continues the jobs at once.
    pub async fn release(&self, period: Timestamp) -> Result<Turn> {
        self.ask(period, Wish::Release).await
    }

    /// Marks the jobs of the period as done.
    pub async fn end(&self, period: Timestamp) -> Result<Turn> {
        self.ask(period, Wish::End).await
    }

    async fn ask(&self, period: Timestamp, wish: Wish) -> Result<Turn> {
        // A separate task: a transaction must be ended even if the caller drops its future.
        let node = self.clone();
        let asking = tokio::spawn(async move {
            let mut connection = node.shared.store.writer().await?;
            let asked = node.ask_on(connection.as_mut(), period, wish).await;
            if asked.is_err() {
                // The first error is returned, whether or not the rollback succeeds.
                let _ = connection.rollback().await;
            }
            connection.close().await?;
            asked
        });
        asking
            .await
            .map_err(|_| Error::new(ErrorCode::Internal, "the request for the scheduler's lease ended unexpectedly"))?
    }

    async fn ask_on(&self, connection: &mut dyn Connection, period: Timestamp, wish: Wish) -> Result<Turn> {
        head::begin_locked(connection).await?;
        let now = self.shared.clock.now();
        let kept = usage::meta(connection, NAME).await?;
        // An unreadable value counts as no lease.
        let kept = kept.and_then(|kept| serde_json::from_str::<Lease>(&kept).ok());
        let turn = turn(kept.as_ref(), &self.id, period, now);
        if turn == Turn::Ours {
            let until = if wish == Wish::Release { now } else { now.plus_seconds(SECONDS) };
            let lease = Lease { node: self.id.clone(), period, until, done: wish == Wish::End };
            let text = serde_json::to_string(&lease)
                .map_err(|e| Error::new(ErrorCode::Internal, format!("a lease does not serialize: {e}")))?;
            usage::set_meta(connection, NAME, &text).await?;
            connection.commit().await?;
        } else {
            connection.rollback().await?;
        }
        Ok(turn)
    }
}

/// Decides who runs the jobs of a period, according to the stored lease.
fn turn(kept: Option<&Lease>, node: &str, period: Timestamp, now: Timestamp) -> Turn {
    let latest = now.plus_seconds(SECONDS + SKEW_SECONDS);
    let Some(kept) = kept.filter(|kept| kept.period <= latest && kept.until <= latest) else { return Turn::Ours };
    let is_over = kept.done || kept.until <= now;
    match kept.period.cmp(&period) {
        // A later period has begun and includes this one's jobs.
        std::cmp::Ordering::Greater => Turn::Done,
        std::cmp::Ordering::Equal if kept.done => Turn::Done,
        _ if kept.node != node && !is_over => Turn::Theirs,
        _ => Turn::Ours,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(seconds: u32) -> Timestamp {
        Timestamp::from_micros(1_800_000_000_000_000).plus_seconds(seconds)
    }

    fn lease(node: &str, period: u32, until: u32, done: bool) -> Lease {
        Lease { node: node.into(), period: at(period), until: at(until), done }
    }

    #[test]
    fn one_node_does_a_period_and_another_goes_on_if_it_falls_silent() {
        let asked = |kept: Option<Lease>, period, now| turn(kept.as_ref(), "b", at(period), at(now));
        assert_eq!(asked(None, 0, 0), Turn::Ours);
        assert_eq!(asked(Some(lease("a", 0, 90, false)), 0, 1), Turn::Theirs);
        assert_eq!(asked(Some(lease("a", 0, 20, true)), 0, 1), Turn::Done);
        assert_eq!(asked(Some(lease("a", 0, 90, false)), 0, 91), Turn::Ours);
        assert_eq!(asked(Some(lease("b", 0, 90, false)), 0, 1), Turn::Ours);
        // The jobs of the previous period are still running, or done.
        assert_eq!(asked(Some(lease("a", 0, 130, false)), 60, 61), Turn::Theirs);
        assert_eq!(asked(Some(lease("a", 0, 130, true)), 60, 61), Turn::Ours);
        assert_eq!(asked(Some(lease("a", 60, 130, true)), 0, 61), Turn::Done);
    }

    #[test]
    fn a_clock_that_was_ahead_keeps_nobody_from_the_jobs() {
        for kept in [lease("a", 86_400, 86_500, true), lease("a", 0, 86_400, false)] {
            assert_eq!(turn(Some(&kept), "b", at(0), at(1)), Turn::Ours);
        }
    }

    #[tokio::test]
    async fn nodes_ask_for_the_lease_in_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("kms.db").display());
        let config = crate::Config::new(url).root_key_bytes([7; 32]);
        let (one, other) = (super::super::open::open(config.clone()), super::super::open::open(config));
        let one = Node::new(&one.await.unwrap(), RecordId::random());
        let other = Node::new(&other.await.unwrap(), RecordId::random());
        let period = one.shared.clock.now();
        assert_eq!(one.take(period).await.unwrap(), Turn::Ours);
        assert_eq!(other.take(period).await.unwrap(), Turn::Theirs);
        assert_eq!(one.renew(period).await.unwrap(), Turn::Ours);
        assert_eq!(one.release(period).await.unwrap(), Turn::Ours);
        assert_eq!(other.take(period).await.unwrap(), Turn::Ours);
        assert_eq!(one.end(period).await.unwrap(), Turn::Theirs);
        assert_eq!(other.end(period).await.unwrap(), Turn::Ours);
        assert_eq!(one.take(period).await.unwrap(), Turn::Done);
        assert_eq!(other.take(period.plus_seconds(1)).await.unwrap(), Turn::Ours);
    }
}
