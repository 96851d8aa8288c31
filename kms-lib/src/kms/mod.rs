//! The service: opening it, closing it, and what it does in between.

mod background;
pub(crate) mod open;

use std::sync::Arc;

use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::scheduler::{self, JobReport, SchedulerConfig};
use crate::session::{Session, Shared};
use crate::types::actor::Actor;
use crate::types::error::{Error, ErrorCode, Result};

/// The key management service on one store. Cheap to clone; all clones are the same service.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), kms_lib::Error> {
/// # let folder = tempfile::tempdir().map_err(|e| kms_lib::Error::invalid(e.to_string()))?;
/// # let file = folder.path().join("kms.db");
/// use kms_lib::{Actor, Config, Context, CreateKey, Kms, Role};
///
/// let config = Config::new(format!("sqlite:{}", file.display())).root_key_bytes([7; 32]);
/// let kms = Kms::open(config).await?;
/// let alice = kms.session(Actor::new("alice", Role::Admin)?);
/// alice.create_key(CreateKey::aes("users")).await?;
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
    scheduler: SchedulerConfig,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Kms {
    /// Opens the store, and makes it if there is none. Needs a tokio runtime with time and at least one thread; see
    /// [`crate::blocking`] for callers without one.
    ///
    /// Fails with `InvalidRootKey` or `WrongRootKey`, `StoreCorrupt` (not a database), `SchemaTooNew`,
    /// `StoreReadOnly`, `StoreInUse`, `StoreUnavailable`, `IntegrityFailure`, `ClockSkew`, `InvalidConfiguration`.
    pub async fn open(config: Config) -> Result<Self> {
        config.check()?;
        let scheduler = config.scheduler.clone();
        // In a task of its own: dropping the caller's future must not leave a half-open store.
        let opening = tokio::spawn(open::open(config));
        let shared = opening.await.map_err(|_| Error::new(ErrorCode::Internal, "opening ended unexpectedly"))??;
        let (stop, stopped) = watch::channel(false);
        let tasks = background::start(&shared, &scheduler, &stopped)?;
        Ok(Self { inner: Arc::new(Inner { shared, scheduler, stop, tasks: Mutex::new(tasks) }) })
    }

    /// What this actor may do. Mini KMS does not authenticate: whoever embeds it says who is acting.
    pub fn session(&self, actor: Actor) -> Session {
        Session::new(Arc::clone(&self.inner.shared), actor)
    }

    /// Who shows this token: an actor known by its credential, which is looked at again before anything is committed.
    /// `NotAuthenticated` if the token is malformed, unknown, withdrawn or expired; nothing is recorded, so that
    /// nobody fills the log from outside.
    pub async fn authenticate(&self, token: &str) -> Result<Actor> {
        crate::session::authenticate(&self.inner.shared, token).await
    }

    /// Does the scheduler's jobs now, whether or not it is their time.
    pub async fn run_scheduler(&self) -> Result<JobReport> {
        let session = Session::new(Arc::clone(&self.inner.shared), Actor::internal("scheduler"));
        scheduler::run(&session, &self.inner.scheduler).await
    }

    /// Closes the service: nothing new is let in, what is under way is committed, key material is dropped. Sessions
    /// that are still held answer `Closed`. Closing twice does nothing.
    pub async fn close(&self) -> Result<()> {
        let _ = self.inner.stop.send(true);
        for task in self.inner.tasks.lock().await.drain(..) {
            if task.await.is_err() {
                tracing::warn!("a background task ended unexpectedly");
            }
        }
        self.inner.shared.ledger.close().await;
        self.inner.shared.materials.clear().await;
        self.inner.shared.store.close().await
    }
}

impl std::fmt::Debug for Kms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kms")
    }
}
