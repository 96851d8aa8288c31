//! The service: opening it, closing it, and its work in between.

mod assemble;
mod background;
mod backup;
mod claim;
mod comparison;
mod create;
mod files;
mod head;
pub(crate) mod jobs;
mod lease;
mod memory;
pub(crate) mod open;
#[cfg(all(test, feature = "sqlite"))]
mod opening_tests;
mod quarantine;
mod schedule;
mod steady;

pub(crate) use crate::verification::high_water;
pub use backup::{BackupOptions, BackupReport};
pub use comparison::{BackupComparison, LostVersion};
pub use jobs::JobReport;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::Config;
use crate::ops::{self, Ready, Telemetry};
use crate::session::{Session, Shared, write_last};
use crate::types::actor::Actor;
use crate::types::error::{Error, ErrorCode, Result};
use crate::workers::run_blocking;

/// The time that closing waits for the store to take pending submissions: longer than one commit whose outcome is
/// unclear.
const CLOSE_LEDGER: Duration = Duration::from_secs(30);
/// The time limit of each other step of closing.
const CLOSE_STEP: Duration = Duration::from_secs(5);

/// The key management service on one store. Cheap to clone; all clones are the same service.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), kms_lib::Error> {
/// # let folder = tempfile::tempdir().map_err(|e| kms_lib::Error::invalid(e.to_string()))?;
/// # let file = folder.path().join("kms.db");
/// use kms_lib::{Actor, Config, Context, NewKey, Kms, Role};
///
/// let config = Config::new(format!("sqlite:{}", file.display())).root_key_bytes([7; 32]);
/// let kms = Kms::open(config).await?;
/// let alice = kms.session(Actor::new("alice", Role::Admin)?);
/// alice.create_key(NewKey::aes("users")).await?;
///
/// let context = Context::from([("table", "users")]);
/// let sealed = alice.encrypt("users", b"4111 1111 1111 1111", &context).await?;
/// let opened = alice.decrypt(&sealed.ciphertext, &context).await?;
/// assert_eq!(opened.plaintext.as_slice(), b"4111 1111 1111 1111");
/// assert!(alice.verify_audit().await?.ok);
/// kms.close().await
/// # }
/// ```
#[derive(Clone)]
pub struct Kms {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    config: Config,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Kms {
    /// Opens the store, and creates it if none exists. Needs a tokio runtime with time enabled and at least one thread;
    /// see [`crate::blocking`] for callers without one. The service belongs to the runtime on which it was opened;
    /// after that runtime has ended, calls return `Closed`. A SQLite file is read and brought up to date on a thread
    /// of the runtime, which blocks on the disk meanwhile.
    ///
    /// Fails with `InvalidRootKey` or `WrongRootKey`, `StoreCorrupt` (not a database), `SchemaTooNew`,
    /// `StoreReadOnly`, `StoreInUse`, `StoreUnavailable`, `IntegrityFailure`, `ClockSkew`, `InvalidConfiguration`,
    /// `Overloaded` (the operating system starts too few threads).
    ///
    /// Cancellation: dropping the future abandons the opened store; what opening created or recorded stays.
    pub async fn open(config: Config) -> Result<Self> {
        config.check()?;
        if config.lock_memory {
            memory::lock();
        }
        // A separate task: dropping the caller's future must not leave a half-open store.
        let opening = tokio::spawn(open::open(config.clone()));
        let shared =
            opening.await.map_err(|_| Error::new(ErrorCode::Internal, "opening the store ended unexpectedly"))??;
        let (stop, stopped) = watch::channel(false);
        let tasks = background::start(&shared, &config, &stopped)?;
        Ok(Self { inner: Arc::new(Inner { shared, config, stop, tasks: Mutex::new(tasks) }) })
    }

    /// Opens a SQLite store for reading, also on a read-only medium. Nothing is written to the store or to the
    /// high-water file, which is only compared with the log. Listing, describing and verifying work; a verification is
    /// not recorded, and every operation that must be recorded fails with `StoreReadOnly`.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn open_read_only(config: Config) -> Result<Self> {
        config.check()?;
        let shared = open::open_read_only(&config).await?;
        let (stop, _) = watch::channel(false);
        let config = config.no_high_water();
        Ok(Self { inner: Arc::new(Inner { shared, config, stop, tasks: Mutex::default() }) })
    }

    /// A session that acts as this actor. Mini KMS does not authenticate here: the embedding program decides who is
    /// acting.
    pub fn session(&self, actor: Actor) -> Session {
        Session::new(Arc::clone(&self.inner.shared), actor)
    }

    /// Authenticates a token and returns its actor, whose credential is checked again before every commit.
    /// `NotAuthenticated` if the token is malformed, unknown, revoked or expired; such a failure is not recorded, so
    /// that an unauthenticated client cannot fill the log.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn authenticate(&self, token: &str) -> Result<Actor> {
        authenticate(self, token).await.0
    }

    /// Checks whether operations can be expected to succeed; the error says why not. The check takes the store's lock,
    /// so call it every few seconds at most. It makes no call to a root key, and reports whether the last ones failed.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn ready(&self) -> Result<Ready> {
        // A separate task: a transaction must be ended even if the caller drops its future.
        let shared = Arc::clone(&self.inner.shared);
        let looking = tokio::spawn(async move { ops::ready(&shared).await });
        looking.await.map_err(|_| Error::new(ErrorCode::Internal, "the readiness check ended unexpectedly"))?
    }

    /// Whether the service is alive, for a supervisor that restarts it otherwise. False once the ledger has stopped
    /// permanently, because the log was altered or because of a fault in this software. Does not access the store.
    pub fn is_alive(&self) -> bool {
        !self.inner.shared.ledger.has_failed()
    }

    /// Counters since opening and the current status, for a metrics scraper. Names no key and no caller, and is not
    /// recorded.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn telemetry(&self) -> Result<Telemetry> {
        ops::telemetry(&self.inner.shared).await
    }

    /// Runs the scheduler's jobs now, regardless of the schedule.
    ///
    /// Cancellation: dropping the future ends the run between two jobs or within one; jobs that were submitted are
    /// still done.
    pub async fn run_scheduler(&self) -> Result<JobReport> {
        let session = Session::new(Arc::clone(&self.inner.shared), Actor::internal("scheduler"));
        jobs::run(&session, &self.inner.config.scheduler).await
    }

    /// Verifies a backup without restoring it. `config` names the root key; `WrongRootKey` if it is that of another
    /// store.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn verify_backup(config: &Config, backup: impl AsRef<Path>) -> Result<BackupReport> {
        Self::verify_backup_with(config, backup, &BackupOptions::new()).await
    }

    /// Verifies a backup with these options.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn verify_backup_with(
        config: &Config,
        backup: impl AsRef<Path>,
        options: &BackupOptions,
    ) -> Result<BackupReport> {
        Ok(backup::inspect(config, backup.as_ref(), options).await?.0)
    }

    /// Verifies a backup and copies it to the place that `config` names, where nothing may exist yet. Opening the
    /// restored store with the old store's high-water file then fails with `RestoreDetected` until the restore is
    /// acknowledged.
    ///
    /// [`Session::backup`] makes backups; [`Session::compare_backup`] shows what restoring one would change.
    ///
    /// `StoreInUse` if `backup` is a store that this process has open, instead of a backup of it.
    ///
    /// Cancellation: dropping the future removes what was copied.
    pub async fn restore(config: &Config, backup: impl AsRef<Path>) -> Result<BackupReport> {
        Self::restore_with(config, backup, &BackupOptions::new()).await
    }

    /// Restores a backup with these options.
    ///
    /// Cancellation: dropping the future removes what was copied.
    pub async fn restore_with(
        config: &Config,
        backup: impl AsRef<Path>,
        options: &BackupOptions,
    ) -> Result<BackupReport> {
        backup::restore(config, backup.as_ref(), options).await
    }

    /// Cancels verifications of the log, including those of backups, and starts no new ones: they fail with `Closed`.
    /// Everything else continues. Call it before [`close`](Self::close), while callers still get their answers but
    /// should not wait minutes for a verification.
    pub fn stop_verifying(&self) {
        self.inner.shared.turns.close();
    }

    /// Closes the service: new calls are refused, pending submissions are committed, and key material is dropped.
    /// Scheduler jobs and verifications are cancelled. Sessions that still exist return `Closed`. Closing twice changes
    /// nothing.
    ///
    /// Closing takes at most a minute, and seconds if the store responds. The service is closed whatever fails:
    /// `StoreUnavailable` if the store did not take pending submissions, whose callers then get `OutcomeUnknown`. With
    /// `audit.ack = "queued"`, closing fails if released results could not be written to the log, with the code of the
    /// cause.
    ///
    /// Cancellation: dropping the future leaves the service closing; call it again to wait for the rest.
    pub async fn close(&self) -> Result<()> {
        let shared = &self.inner.shared;
        shared.ledger.shut();
        let _ = self.inner.stop.send(true);
        self.stop_verifying();
        self.end_tasks().await;
        match timeout(CLOSE_STEP, write_last(shared)).await {
            Ok(0) => {}
            Ok(denials) => tracing::warn!(denials, "denials were counted, but their number could not be recorded"),
            Err(_) => tracing::warn!("denials were counted, but their number was not recorded in time"),
        }
        let written = shared.ledger.close(CLOSE_LEDGER).await;
        shared.workers.close();
        let noted = timeout(CLOSE_STEP, self.note_head()).await.unwrap_or(Ok(()));
        // Even after a failure, no key stays in memory and no file stays open.
        shared.materials.clear();
        let closed = timeout(CLOSE_STEP, shared.store.close()).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorCode::StoreUnavailable,
                "connections to the store are still in use after it was closed",
            ))
        });
        written.and(closed).and(noted)
    }

    /// Waits up to 5 seconds for the background tasks to stop.
    async fn end_tasks(&self) {
        let mut tasks = self.inner.tasks.lock().await;
        let deadline = Instant::now() + CLOSE_STEP;
        // A task stays in the list until it has ended, so that a later call can wait for it if this one is dropped.
        while let Some(task) = tasks.last_mut() {
            match timeout_at(deadline, &mut *task).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => tracing::warn!("a background task ended unexpectedly"),
                Err(_) => {
                    tracing::warn!("a background task did not end in time and is aborted");
                    task.abort();
                }
            }
            tasks.pop();
        }
    }

    async fn note_head(&self) -> Result<()> {
        let Some(path) = &self.inner.config.high_water else { return Ok(()) };
        // If the store cannot be read, the head seen last is noted.
        let _ = head::see(&self.inner.shared).await;
        let (path, checkpoint) = (path.clone(), self.inner.shared.ledger.seen().checkpoint().1);
        run_blocking(move || high_water::write(&path, &checkpoint)).await
    }
}

impl std::fmt::Debug for Kms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kms")
    }
}

/// Like [`Kms::authenticate`]; also returns whether the store was read. A malformed token needs no read, nor does one
/// that is already known here.
pub async fn authenticate(kms: &Kms, token: &str) -> (Result<Actor>, bool) {
    let mut is_read = false;
    let found = crate::session::authenticate(&kms.inner.shared, token, &mut is_read).await;
    (found, is_read)
}
