//! The check of the locked head: it is compared with what this process has seen and committed, before anything is
//! written.

use super::connection::Begun;
use super::failure::Failure;
use super::known_log::{Relation, lacks_seen};
use super::skew;
use super::submission::Submission;
use super::writer::Writer;
use crate::audit::checkpoint;
use crate::catalog::Trust;
use crate::storage::Connection;
use crate::storage::tables::head::Locked;
use crate::storage::tables::secrets;
use crate::types::audit::Head;
use crate::types::error::{Error, ErrorCode};
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
    /// Compares the head with what this process knows, and brings the catalog up to it.
    pub(super) async fn base(
        &mut self,
        connection: &mut dyn Connection,
        locked: Locked,
        batch: &[Submission],
    ) -> Result<Base, Failure> {
        let Some((head, database_now)) = locked else {
            return Err(self.stop("the head of the log is missing"));
        };
        self.check(connection, &head).await?;
        let clock = &self.deps.clock;
        let now = clock.now();
        let database_now = database_now.filter(|_| !clock.is_apart());
        if let Some(theirs) = database_now {
            skew::check_database(theirs, now)?;
        }
        if !batch.iter().any(Submission::acknowledges_clock) {
            skew::check_log(head.timestamp, now)?;
        }
        Ok(Base { head, now, database_now })
    }

    /// Like [`Self::base`], for a transaction that has just begun: the head must also continue what other parts of this
    /// process had seen before it was locked.
    pub(super) async fn first_base(&mut self, begun: &mut Begun, batch: &[Submission]) -> Result<Base, Failure> {
        let known = self.log.head.seq;
        let connection = begun.connection.as_mut();
        let base = self.base(connection, begun.locked.take(), batch).await?;
        if begun.seen_before.0 > known && lacks_seen(connection, &base.head, begun.seen_before).await? {
            return Err(self.stop("the log does not continue what this process has seen: it was rolled back"));
        }
        self.log.seen.note(&base.head);
        Ok(base)
    }

    async fn check(&mut self, connection: &mut dyn Connection, head: &Head) -> Result<(), Failure> {
        match self.log.relation(connection, head).await? {
            Relation::Same => {}
            Relation::Grown => self.follow(connection, head).await?,
            Relation::Contradiction(why) => return Err(self.stop(why)),
        }
        self.log.head = head.clone();
        Ok(())
    }

    /// Checks the signature of a head that another node wrote, and reads the rows that changed up to it.
    async fn follow(&mut self, connection: &mut dyn Connection, head: &Head) -> Result<(), Failure> {
        // One consistent set: sessions may take over new keys at any time.
        let keys = self.deps.signer.keys();
        let is_signed = keys.check(head).is_ok();
        // The head of a replacement carries the former key's signature too, but that key must not be used any longer.
        let is_succeeded = !is_signed || checkpoint::signatures(&head.checkpoint) > 1;
        if head.revision >= self.log.head.revision
            && is_succeeded
            && secrets::newest(connection, ServiceKeyKind::Signing).await? != Some(keys.public().newest().number)
        {
            return Err(self.keys_behind("another process has replaced the signing key of the log"));
        }
        if head.revision < self.log.head.revision || !is_signed {
            return Err(self.stop("the head of the log does not carry the log's signature"));
        }
        self.other_nodes.note_move();
        // Material that is no longer usable is dropped within a second by a background task, not here, where other
        // processes wait for the lock.
        let catalog = &self.deps.catalog;
        let is_behind = head.revision > catalog.snapshot().revision();
        if is_behind && !catalog.refresh(connection).await? {
            return Err(self.keys_behind("another process has replaced the integrity key"));
        }
        if catalog.snapshot().trust() == Trust::Suspect {
            // While this process is still quarantining rows, another one may legitimately have changed others.
            if catalog.is_quarantining() {
                let text = "rows changed while altered ones were being quarantined";
                return Err(Failure::Contended(Error::new(ErrorCode::StoreContended, text)));
            }
            return Err(self.stop("rows of the store were altered"));
        }
        Ok(())
    }

    fn keys_behind(&mut self, why: &str) -> Failure {
        // The material of the former key is erased, too.
        self.scrubbing.request_now();
        Failure::KeysBehind(Error::new(ErrorCode::Conflict, why))
    }
}
