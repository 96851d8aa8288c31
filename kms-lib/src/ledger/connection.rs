//! The ledger's connection to the store, and the transactions that hold the lock on the head.

use std::sync::Arc;

use super::seen::Seen;
use crate::storage::tables::head::{self, Locked};
use crate::storage::{Connection, Store};
use crate::types::error::{ErrorCode, Result};

/// A transaction that holds the lock on the head.
pub(super) struct Begun {
    pub connection: Box<dyn Connection>,
    pub locked: Locked,
    /// The largest state of the log that was seen before the head was locked: a cluster's members commit beside that
    /// lock, so what is seen later proves nothing about the locked head.
    pub seen_before: (u64, [u8; 32]),
}

/// The connection that the writer keeps.
pub(super) struct WriteConnection {
    store: Arc<dyn Store>,
    /// The connection, while no transaction uses it.
    idle: Option<Box<dyn Connection>>,
    /// The next transaction, or the error from beginning it, if it was begun ahead of time.
    begun: Option<Result<Begun>>,
}

impl WriteConnection {
    /// A connection to this store that is opened when it is first needed.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, idle: None, begun: None }
    }

    /// The connection, if there is one and no transaction uses it.
    pub fn idle(&mut self) -> Option<&mut Box<dyn Connection>> {
        self.idle.as_mut()
    }

    /// Keeps a connection on which no transaction is open.
    pub fn keep(&mut self, connection: Box<dyn Connection>) {
        self.idle = Some(connection);
    }

    /// Opens another connection, because the state of the former one is not known.
    pub async fn open(&self) -> Result<Box<dyn Connection>> {
        self.store.writer().await
    }

    /// Begins the next transaction ahead of time.
    pub async fn begin_ahead(&mut self, seen: &Seen) {
        self.begun = Some(self.begin(seen).await);
    }

    /// The transaction that was begun ahead of time, or else a new one. If the kept connection was lost in the
    /// meantime, nothing was done on it, and a new one is opened.
    pub async fn take(&mut self, seen: &Seen) -> Result<Begun> {
        match self.begun.take() {
            Some(begun) => begun,
            None => self.begin(seen).await,
        }
    }

    async fn begin(&mut self, seen: &Seen) -> Result<Begun> {
        let seen_before = seen.state();
        if let Some(mut connection) = self.idle.take() {
            match head::begin_locked(connection.as_mut()).await {
                Ok(locked) => return Ok(Begun { connection, locked, seen_before }),
                Err(error) if error.code() == ErrorCode::StoreUnavailable => {
                    tracing::debug!(%error, "reconnecting to the store");
                }
                Err(error) => {
                    self.put_back(connection).await;
                    return Err(error);
                }
            }
        }
        let mut connection = self.open().await?;
        match head::begin_locked(connection.as_mut()).await {
            Ok(locked) => Ok(Begun { connection, locked, seen_before }),
            Err(error) => {
                self.put_back(connection).await;
                Err(error)
            }
        }
    }

    /// Rolls back and keeps the connection. A connection that cannot roll back is discarded.
    pub async fn put_back(&mut self, mut connection: Box<dyn Connection>) {
        if connection.rollback().await.is_ok() {
            self.keep(connection);
        }
    }

    /// Ends a transaction that was begun ahead of time and is not needed.
    pub async fn end_begun(&mut self) {
        if let Some(Ok(begun)) = self.begun.take() {
            self.put_back(begun.connection).await;
        }
    }

    /// Moves the contents of the engine's own log into the database.
    pub async fn empty_log(&mut self) {
        if let Some(connection) = &mut self.idle
            && let Err(error) = connection.checkpoint().await
        {
            tracing::debug!(%error, "the store's write-ahead log cannot be moved into the database");
        }
    }

    /// Closes the connection; a failure is only logged, since nothing is uncommitted.
    pub async fn close(self) {
        if let Some(connection) = self.idle
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "the connection for writing did not close cleanly");
        }
    }
}
