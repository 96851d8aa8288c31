//! Which of several nodes does the scheduler's jobs of a period: the first that asks. The others stand by, and one of
//! them goes on if it falls silent.
//!
//! The lease is a small value in the store, taken under the head's lock. It is not sealed: an attacker with write
//! access to the database can keep jobs from being done, as it can by deleting keys. It gives no rights.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::session::Shared;
use crate::storage::Connection;
use crate::storage::tables::{head, usage};
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::RecordId;
use crate::types::time::Timestamp;

/// The name under which it is kept.
const NAME: &str = "scheduler.lease";
/// For so long it holds unless it is renewed, in seconds: longer than clocks may be apart.
const SECONDS: u32 = 90;
/// How often it is renewed.
pub(super) const RENEW: Duration = Duration::from_secs(20);
/// What is of a later time than this many seconds from now was written by a clock that was ahead, and does not count.
const SKEW_SECONDS: u32 = 60;

/// A node that wants to do jobs.
#[derive(Clone)]
pub(super) struct Node {
    shared: Arc<Shared>,
    id: String,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// This node holds the lease and does the jobs.
    Ours,
    /// Another node holds the lease, which has not expired.
    Theirs,
    /// Nobody's: the jobs of the period are done.
    Done,
}

/// The lease as it is kept.
#[derive(Serialize, Deserialize)]
struct Lease {
    node: String,
    period: Timestamp,
    until: Timestamp,
    done: bool,
}

/// What a node wants of the lease.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    Take,
    Renew,
    Release,
    End,
}

impl Node {
    /// The node of this process, whose identifier is its own as long as it is up.
    pub fn new(shared: &Arc<Shared>, id: RecordId) -> Self {
        Self { shared: Arc::clone(shared), id: id.to_string() }
    }

    /// Asks to do the jobs of a period, which is named by the time at which they are due.
    pub async fn take(&self, period: Timestamp) -> Result<Turn> {
        self.ask(period, Wish::Take).await
    }

    /// Says that the jobs still go on.
    pub async fn renew(&self, period: Timestamp) -> Result<Turn> {
        self.ask(period, Wish::Renew).await
    }

    /// Gives the jobs up, so that a node that stands by goes on with them at once.
    pub async fn release(&self, period: Timestamp) -> Result<Turn> {
        self.ask(period, Wish::Release).await
    }

    /// Says that they are done.
    pub async fn end(&self, period: Timestamp) -> Result<Turn> {
        self.ask(period, Wish::End).await
    }

    async fn ask(&self, period: Timestamp, wish: Wish) -> Result<Turn> {
        // In a task of its own: a transaction that was begun must be ended, whoever goes away.
        let node = self.clone();
        let asking = tokio::spawn(async move {
            let mut connection = node.shared.store.writer().await?;
            let asked = node.ask_on(connection.as_mut(), period, wish).await;
            if asked.is_err() {
                // The first error is the one that counts.
                let _ = connection.rollback().await;
            }
            connection.close().await?;
            asked
        });
        asking.await.map_err(|_| Error::new(ErrorCode::Internal, "asking for the lease of jobs ended unexpectedly"))?
    }

    async fn ask_on(&self, connection: &mut dyn Connection, period: Timestamp, wish: Wish) -> Result<Turn> {
        head::begin_locked(connection).await?;
        let now = self.shared.clock.now();
        let kept = usage::meta(connection, NAME).await?;
        // One that cannot be read is no lease.
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

/// Whose turn it is to do the jobs of a period, as the kept lease says.
fn turn(kept: Option<&Lease>, node: &str, period: Timestamp, now: Timestamp) -> Turn {
    let latest = now.plus_seconds(SECONDS + SKEW_SECONDS);
    let Some(kept) = kept.filter(|kept| kept.period <= latest && kept.until <= latest) else { return Turn::Ours };
    let is_over = kept.done || kept.until <= now;
    match kept.period.cmp(&period) {
        // A later period has begun: this one's jobs are among its own.
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
        // The jobs of the period before still go on, or are done.
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
