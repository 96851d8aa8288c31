//! The service: opening it, closing it, and what it does in between.

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

use crate::catalog::run_blocking;
use crate::config::Config;
use crate::ops::{self, Ready, Telemetry};
use crate::session::{Session, Shared, write_counted};
use crate::types::actor::Actor;
use crate::types::error::{Error, ErrorCode, Result};

/// How long closing waits for the store to take what is under way: longer than for one commit whose outcome is unclear.
const CLOSE_LEDGER: Duration = Duration::from_secs(30);
/// How long each other step of closing may take.
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
    /// Opens the store, and makes it if there is none. Needs a tokio runtime with time and at least one thread; see
    /// [`crate::blocking`] for callers without one. The service belongs to the runtime it was opened on: once that has
    /// ended, calls answer `Closed`. A SQLite file is read and brought up to date on the thread that opens it, for as
    /// long as the disk takes.
    ///
    /// Fails with `InvalidRootKey` or `WrongRootKey`, `StoreCorrupt` (not a database), `SchemaTooNew`,
    /// `StoreReadOnly`, `StoreInUse`, `StoreUnavailable`, `IntegrityFailure`, `ClockSkew`, `InvalidConfiguration`.
    ///
    /// Cancellation: dropping the future abandons the opened store; what opening created or recorded stays.
    pub async fn open(config: Config) -> Result<Self> {
        config.check()?;
        if config.lock_memory {
            memory::lock();
        }
        // In a task of its own: dropping the caller's future must not leave a half-open store.
        let opening = tokio::spawn(open::open(config.clone()));
        let shared = opening.await.map_err(|_| Error::new(ErrorCode::Internal, "opening ended unexpectedly"))??;
        let (stop, stopped) = watch::channel(false);
        let tasks = background::start(&shared, &config, &stopped)?;
        Ok(Self { inner: Arc::new(Inner { shared, config, stop, tasks: Mutex::new(tasks) }) })
    }

    /// Opens a SQLite store to look at it, also on a read-only medium. Nothing is written: neither to the store nor to
    /// the high-water file, which it is held against. Listing, describing and verifying work; a verification is not
    /// recorded, and whatever has to be in the log fails with `StoreReadOnly`.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn open_read_only(config: Config) -> Result<Self> {
        config.check()?;
        let shared = open::open_read_only(&config).await?;
        let (stop, _) = watch::channel(false);
        let config = config.no_high_water();
        Ok(Self { inner: Arc::new(Inner { shared, config, stop, tasks: Mutex::default() }) })
    }

    /// What this actor may do. Mini KMS does not authenticate: whoever embeds it says who is acting.
    pub fn session(&self, actor: Actor) -> Session {
        Session::new(Arc::clone(&self.inner.shared), actor)
    }

    /// Who shows this token: an actor known by its credential, which is looked at again before anything is committed.
    /// `NotAuthenticated` if the token is malformed, unknown, withdrawn or expired; nothing is recorded, so that
    /// nobody fills the log from outside.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn authenticate(&self, token: &str) -> Result<Actor> {
        crate::session::authenticate(&self.inner.shared, token).await
    }

    /// Whether operations can be expected to succeed, and why not. It asks the store for its lock: a look every few
    /// seconds is meant. It makes no call to a root key, and says whether the last ones failed.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn ready(&self) -> Result<Ready> {
        // In a task of its own: a transaction that was begun must be ended, whoever goes away.
        let shared = Arc::clone(&self.inner.shared);
        let looking = tokio::spawn(async move { ops::ready(&shared).await });
        looking.await.map_err(|_| Error::new(ErrorCode::Internal, "a look at the store ended unexpectedly"))?
    }

    /// Whether the service is alive, for a supervisor that restarts it otherwise: false once the ledger has stopped for
    /// good, because the log was altered or by a fault of this software. It asks nothing of the store.
    pub fn is_alive(&self) -> bool {
        !self.inner.shared.ledger.has_failed()
    }

    /// Counters since opening, and how things stand, for a scraper. It names no key and no caller, and is not recorded.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn telemetry(&self) -> Result<Telemetry> {
        ops::telemetry(&self.inner.shared).await
    }

    /// Does the scheduler's jobs now, whether or not it is their time.
    ///
    /// Cancellation: dropping the future ends the run between two jobs or within one; jobs that were submitted are
    /// done.
    pub async fn run_scheduler(&self) -> Result<JobReport> {
        let session = Session::new(Arc::clone(&self.inner.shared), Actor::internal("scheduler"));
        jobs::run(&session, &self.inner.config.scheduler).await
    }

    /// Verifies a backup without restoring it. `config` gives the root key; `WrongRootKey` if it is another store's.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn verify_backup(config: &Config, backup: impl AsRef<Path>) -> Result<BackupReport> {
        Self::verify_backup_with(config, backup, &BackupOptions::new()).await
    }

    /// Verifies a backup as the options say.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn verify_backup_with(
        config: &Config,
        backup: impl AsRef<Path>,
        options: &BackupOptions,
    ) -> Result<BackupReport> {
        Ok(backup::inspect(config, backup.as_ref(), options).await?.0)
    }

    /// Verifies a backup, and puts it at the place that `config` names, where there must be nothing yet. Opening it
    /// with the high-water file of the old store then fails with `RestoreDetected` until that is acknowledged.
    ///
    /// [`Session::backup`] makes backups, [`Session::compare_backup`] says what restoring one would change.
    ///
    /// Cancellation: dropping the future removes what was copied.
    pub async fn restore(config: &Config, backup: impl AsRef<Path>) -> Result<BackupReport> {
        Self::restore_with(config, backup, &BackupOptions::new()).await
    }

    /// Restores a backup as the options say.
    ///
    /// Cancellation: dropping the future removes what was copied.
    pub async fn restore_with(
        config: &Config,
        backup: impl AsRef<Path>,
        options: &BackupOptions,
    ) -> Result<BackupReport> {
        backup::restore(config, backup.as_ref(), options).await
    }

    /// Gives up verifications of the log, those of backups included, and begins none any more: they fail with `Closed`.
    /// Everything else goes on. For the time before [`close`](Self::close), in which callers still get their answers
    /// but nobody should wait for minutes.
    pub fn stop_verifying(&self) {
        self.inner.shared.turns.close();
    }

    /// Closes the service: nothing new is let in, what is under way is committed, key material is dropped. Jobs of the
    /// scheduler and verifications are given up. Sessions that are still held answer `Closed`. Closing twice changes
    /// nothing.
    ///
    /// It takes no longer than a minute, and seconds if the store answers. Whatever fails, it is closed then:
    /// `StoreUnavailable` if the store did not take what was under way, whose callers are told `OutcomeUnknown`. With
    /// `audit.ack = "queued"` it fails if there are results that were released and could not be written to the log
    /// since, with the code of the reason.
    ///
    /// Cancellation: dropping the future leaves the service closing; call it again to wait for the rest.
    pub async fn close(&self) -> Result<()> {
        let shared = &self.inner.shared;
        shared.ledger.shut();
        let _ = self.inner.stop.send(true);
        self.stop_verifying();
        self.end_tasks().await;
        let _ = timeout(CLOSE_STEP, write_counted(shared, shared.clock.now().plus_seconds(2))).await;
        let written = shared.ledger.close(CLOSE_LEDGER).await;
        shared.workers.close();
        let noted = timeout(CLOSE_STEP, self.note_head()).await.unwrap_or(Ok(()));
        // Whatever failed before: no key stays in memory, no file open.
        shared.materials.clear().await;
        let closed = timeout(CLOSE_STEP, shared.store.close()).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorCode::StoreUnavailable,
                "connections to the store are still in use after it was closed",
            ))
        });
        written.and(closed).and(noted)
    }

    /// Waits for the tasks in the background, which were told to stop; not for ever.
    async fn end_tasks(&self) {
        let mut tasks = self.inner.tasks.lock().await;
        let deadline = Instant::now() + CLOSE_STEP;
        // Each stays there until it has ended: who gives up waiting does not leave the next one without.
        while let Some(task) = tasks.last_mut() {
            match timeout_at(deadline, &mut *task).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => tracing::warn!("a background task ended unexpectedly"),
                Err(_) => {
                    tracing::warn!("a background task did not end in time and is given up");
                    task.abort();
                }
            }
            tasks.pop();
        }
    }

    async fn note_head(&self) -> Result<()> {
        let Some(path) = &self.inner.config.high_water else { return Ok(()) };
        // If the store cannot be read, what was seen before is what there is to note.
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
