//! The check of the locked head: it is compared with what this process has seen and committed, before anything is
//! written.

use tokio::time::Instant;

use super::skew;
use super::submission::Submission;
use super::writer::{Begun, Writer};
use crate::audit::checkpoint;
use crate::catalog::Trust;
use crate::storage::Connection;
use crate::storage::tables::head::Locked;
use crate::storage::tables::{audit, head, secrets};
use crate::types::audit::Head;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::root_key::ServiceKeyKind;
use crate::types::time::Timestamp;

/// The head that a batch continues, and the current time.
pub(super) struct Base {
    pub head: Head,
    pub now: Timestamp,
    /// The time of the database's clock, if there is one and the skew check is on.
    pub database_now: Option<Timestamp>,
}

impl Writer {
    /// A connection with a transaction that holds the lock on the head. If the kept connection was lost in the
    /// meantime, nothing was done on it, and a new one is opened.
    pub(super) async fn begin(&mut self) -> Result<Begun> {
        self.seen_before = self.seen.state();
        if let Some(mut kept) = self.connection.take() {
            match head::begin_locked(kept.as_mut()).await {
                Ok(locked) => return Ok((kept, locked)),
                Err(error) if error.code() == ErrorCode::StoreUnavailable => {
                    tracing::debug!(%error, "reconnecting to the store");
                }
                Err(error) => {
                    self.put_back(kept).await;
                    return Err(error);
                }
            }
        }
        let mut connection = self.deps.store.writer().await?;
        match head::begin_locked(connection.as_mut()).await {
            Ok(locked) => Ok((connection, locked)),
            Err(error) => {
                self.put_back(connection).await;
                Err(error)
            }
        }
    }

    /// Rolls back and keeps the connection. A connection that cannot roll back is discarded.
    pub(super) async fn put_back(&mut self, mut connection: Box<dyn Connection>) {
        if connection.rollback().await.is_ok() {
            self.connection = Some(connection);
        }
    }

    /// Compares the head with what this process knows, and brings the catalog up to it.
    pub(super) async fn base(
        &mut self,
        connection: &mut dyn Connection,
        locked: Locked,
        batch: &[Submission],
    ) -> Result<Base> {
        let Some((head, database_now)) = locked else {
            return Err(self.stop("the head of the log is missing"));
        };
        self.check(connection, &head).await?;
        let now = self.deps.clock.now();
        let database_now = database_now.filter(|_| !self.deps.clock.is_apart());
        if let Some(theirs) = database_now {
            skew::check_database(theirs, now)?;
        }
        if !batch.iter().any(Submission::acknowledges_clock) {
            skew::check_log(head.timestamp, now)?;
        }
        Ok(Base { head, now, database_now })
    }

    async fn check(&mut self, connection: &mut dyn Connection, head: &Head) -> Result<()> {
        if head.log_id != self.known.log_id || head.seq < self.known.seq {
            return Err(
                self.stop("the log is a different one, or was rolled back to a state older than this process has seen")
            );
        }
        if head.seq == self.known.seq {
            if !head.is_at(&self.known) {
                return Err(self.stop("the head of the log was changed without a record"));
            }
            self.known = head.clone();
            return Ok(());
        }
        if self.known.seq > 0 && audit::hash_of(connection, self.known.seq).await? != Some(self.known.hash) {
            return Err(self.stop("the log no longer contains the record that this process last wrote or saw"));
        }
        // One consistent set: sessions may take over new keys at any time.
        let keys = self.deps.signer.keys();
        let is_signed = keys.check(head).is_ok();
        // The head of a replacement carries the former key's signature too, but that key must not be used any longer.
        let is_succeeded = !is_signed || checkpoint::signatures(&head.checkpoint) > 1;
        if head.revision >= self.known.revision
            && is_succeeded
            && secrets::newest(connection, ServiceKeyKind::Signing).await? != Some(keys.public().newest().number)
        {
            self.keys_behind = true;
            // The former key's material is erased, too.
            self.scrub_at = Some(Instant::now());
            return Err(Error::new(ErrorCode::Conflict, "another process has replaced the signing key of the log"));
        }
        if head.revision < self.known.revision || !is_signed {
            return Err(self.stop("the head of the log does not carry the log's signature"));
        }
        self.contended = Some(Instant::now());
        // Material that is no longer usable is dropped within a second by a background task, not here, where other
        // processes wait for the lock.
        let is_behind = head.revision > self.deps.catalog.snapshot().revision();
        if is_behind && !self.deps.catalog.refresh(connection).await? {
            self.keys_behind = true;
            self.scrub_at = Some(Instant::now());
            return Err(Error::new(ErrorCode::Conflict, "another process has replaced the integrity key"));
        }
        if self.deps.catalog.snapshot().trust() == Trust::Suspect {
            // While this process is still quarantining rows, another one may legitimately have changed others.
            if self.deps.catalog.is_quarantining() {
                let text = "rows changed while altered ones were being quarantined";
                return Err(Error::new(ErrorCode::StoreContended, text));
            }
            return Err(self.stop("rows of the store were altered"));
        }
        self.known = head.clone();
        Ok(())
    }
}
