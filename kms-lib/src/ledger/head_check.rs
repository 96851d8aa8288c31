//! The head under its lock: held against what this process has seen and committed, before anything is written.

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

/// The head that a batch continues, and what time it is.
pub(super) struct Base {
    pub head: Head,
    pub now: Timestamp,
    /// The database's clock, if it has one that counts.
    pub database_now: Option<Timestamp>,
}

impl Writer {
    /// A connection with a transaction that has the head's lock. One that was kept may have been lost meanwhile: then
    /// nothing was done on it, and a new one is as good.
    pub(super) async fn begin(&mut self) -> Result<Begun> {
        self.seen_before = self.seen.state();
        if let Some(mut kept) = self.connection.take() {
            match head::begin_locked(kept.as_mut()).await {
                Ok(locked) => return Ok((kept, locked)),
                Err(error) if error.code() == ErrorCode::StoreUnavailable => {
                    tracing::debug!(%error, "connecting to the store anew");
                }
                Err(error) => {
                    self.put_back(kept).await;
                    return Err(error);
                }
            }
        }
        let mut connection = self.store.writer().await?;
        match head::begin_locked(connection.as_mut()).await {
            Ok(locked) => Ok((connection, locked)),
            Err(error) => {
                self.put_back(connection).await;
                Err(error)
            }
        }
    }

    /// Rolls back, and keeps the connection. One that cannot even roll back is not used again.
    pub(super) async fn put_back(&mut self, mut connection: Box<dyn Connection>) {
        if connection.rollback().await.is_ok() {
            self.connection = Some(connection);
        }
    }

    /// Holds the head against what this process knows, and brings the catalog up to it.
    pub(super) async fn base(
        &mut self,
        connection: &mut dyn Connection,
        locked: Locked,
        batch: &[Submission],
    ) -> Result<Base> {
        let Some((head, database_now)) = locked else {
            return Err(self.stop("the head of the log is gone"));
        };
        self.check(connection, &head).await?;
        let now = self.clock.now();
        let database_now = database_now.filter(|_| !self.clock.is_apart());
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
            return Err(self.stop("the log is another one, or an older state of it than this process has seen"));
        }
        if head.seq == self.known.seq {
            if *head != self.known {
                return Err(self.stop("the head of the log was changed without a record"));
            }
            return Ok(());
        }
        if self.known.seq > 0 && audit::hash_of(connection, self.known.seq).await? != Some(self.known.hash) {
            return Err(self.stop("the log no longer holds the record that this process wrote or saw last"));
        }
        // Of one moment: sessions take over new keys at any time.
        let keys = self.signer.keys();
        let is_signed = keys.check(head).is_ok();
        // The state of a replacement carries the former key's signature too, which is no leave to go on with it.
        let is_succeeded = !is_signed || checkpoint::signatures(&head.checkpoint) > 1;
        if head.revision >= self.known.revision
            && is_succeeded
            && secrets::newest(connection, ServiceKeyKind::Signing).await? != Some(keys.public().newest().number)
        {
            self.keys_behind = true;
            // The former key's material is erased, too.
            self.scrub_at = Some(Instant::now());
            return Err(Error::new(ErrorCode::Conflict, "another process has replaced the key that signs the log"));
        }
        if head.revision < self.known.revision || !is_signed {
            return Err(self.stop("the head of the log does not carry the log's signature"));
        }
        self.contended = Some(Instant::now());
        // Material that is not usable any more is dropped within a second by the task in the background: not here,
        // where others wait for the lock.
        let is_behind = head.revision > self.catalog.snapshot().revision();
        if is_behind && !self.catalog.refresh(connection).await? {
            self.keys_behind = true;
            self.scrub_at = Some(Instant::now());
            return Err(Error::new(ErrorCode::Conflict, "another process has replaced the key that seals rows"));
        }
        if self.catalog.snapshot().trust() == Trust::Suspect {
            // While this process is still putting rows into quarantine, another one may simply have changed others.
            if self.catalog.is_quarantining() {
                let text = "rows changed while altered ones were being quarantined";
                return Err(Error::new(ErrorCode::StoreContended, text));
            }
            return Err(self.stop("rows of the store were altered"));
        }
        self.known = head.clone();
        Ok(())
    }
}
