//! Opening a store: it is created if missing, brought up to date, and retried when other nodes interfere.

use std::sync::Arc;

use super::assemble::{Purpose, assemble};
use super::claim::claim;
use super::create::create;
use super::high_water;
use crate::config::Config;
use crate::crypto::provider::Provider;
use crate::envelope::RootKeySource;
use crate::ledger::{AuditAck, skew};
use crate::session::Shared;
use crate::storage::tables::head;
use crate::storage::{Connection, Store, StoreFuture, check_schema, is_current, migrate, open_file_read_only};
use crate::types::error::{Error, ErrorCode, Result};

/// With fewer free bytes than this, SQLite cannot even create its working files.
const NO_ROOM: u64 = 256 * 1024;
/// The time for which opening is retried when other nodes' changes to the store abort it.
const CONTENTION: std::time::Duration = std::time::Duration::from_secs(60);
/// The same on a cluster, where several nodes that set up the store wait for each other's statements.
const CONTENTION_ON_CLUSTER: std::time::Duration = std::time::Duration::from_secs(240);
/// The pause between two attempts.
const CONTENTION_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Opens the store and everything that sessions share.
#[tracing::instrument(level = "debug", name = "kms.open", skip_all)]
pub(crate) fn open(config: Config) -> StoreFuture<'static, Arc<Shared>> {
    Box::pin(async move {
        configured(&config)?;
        let location = config.store()?;
        if let Ok(file) = location.file()
            && std::fs::metadata(file).map_or(0, |metadata| metadata.len()) == 0
        {
            // Checked before SQLite creates a file, too.
            check_may_be_made(&config, &format!("at {}", file.display()))?;
        }
        let store = location.open().await?;
        open_on(config, store).await
    })
}

/// Fails if the configuration forbids creating a store where none exists.
fn check_may_be_made(config: &Config, place: &str) -> Result<()> {
    if !config.make_store {
        let text = format!("there is no store {place}, and the configuration forbids creating one");
        return Err(Error::new(ErrorCode::StoreUnavailable, text));
    }
    config.high_water.as_deref().map_or(Ok(()), high_water::check_is_new)
}

/// Opens the service on this store.
pub(crate) fn open_on(config: Config, store: Arc<dyn Store>) -> StoreFuture<'static, Arc<Shared>> {
    Box::pin(async move {
        let sources = configured(&config)?;
        let provider = crate::crypto::provider(config.crypto_provider)?;
        let opened = open_contended(config, &sources, &provider, &store).await;
        if opened.is_err() {
            // The first error is returned, whether or not closing succeeds.
            let _ = store.close().await;
        }
        opened
    })
}

/// Opens the store, with retries: on a Galera cluster the setup lock covers only one database node, and what another
/// node creates can abort or delay statements on the same tables here. Every step of opening can be repeated safely.
async fn open_contended(
    config: Config,
    sources: &[RootKeySource],
    provider: &Arc<dyn Provider>,
    store: &Arc<dyn Store>,
) -> Result<Arc<Shared>> {
    let begun = tokio::time::Instant::now();
    let bound = if store.is_cluster() { CONTENTION_ON_CLUSTER } else { CONTENTION };
    let mut is_being_set_up = false;
    loop {
        match open_store(config.clone(), sources, Arc::clone(provider), store, &mut is_being_set_up).await {
            Err(error) if is_passing(error.code(), store, is_being_set_up) && begun.elapsed() < bound => {
                tracing::debug!(%error, "opening the store again");
                tokio::time::sleep(CONTENTION_PAUSE).await;
            }
            // On a full disk SQLite cannot even create its working files, yet keys must stay revocable.
            Err(error) if is_without_room(error.code(), store) && store.release_reserve() => {
                tracing::error!(
                    %error,
                    "the disk is full; the disk reserve was released, and only revocations are accepted until there is \
                     room"
                );
            }
            done => return done,
        }
    }
}

/// Whether other nodes can cause this failure by setting up the store at the same time.
fn is_passing(code: ErrorCode, store: &Arc<dyn Store>, is_being_set_up: bool) -> bool {
    let is_held_up = code == ErrorCode::StoreUnavailable && is_being_set_up && store.is_cluster();
    code == ErrorCode::StoreContended || is_held_up
}

/// Whether a failure may be due to a full disk; SQLite does not always report it as such.
fn is_without_room(code: ErrorCode, store: &Arc<dyn Store>) -> bool {
    let may_be = matches!(code, ErrorCode::StoreFull | ErrorCode::StoreUnavailable);
    may_be && store.free_space().is_some_and(|free| free < NO_ROOM)
}

async fn open_store(
    config: Config,
    sources: &[RootKeySource],
    provider: Arc<dyn Provider>,
    store: &Arc<dyn Store>,
    is_being_set_up: &mut bool,
) -> Result<Arc<Shared>> {
    let mut connection = store.writer().await?;
    if store.is_cluster() {
        // This sets a longer timeout instead of a lock there, since reads also wait for what other nodes are creating.
        connection.lock_setup().await?;
    }
    if is_set_up(connection.as_mut()).await? {
        claim(store, config.audit_ack == AuditAck::Queued).await?;
        return assemble(config, sources, provider, store, connection, Purpose::Work).await;
    }
    *is_being_set_up = true;
    connection.lock_setup().await?;
    let made = set_up(&config, sources, &provider, store, connection.as_mut()).await;
    let unlocked = connection.unlock_setup().await;
    made?;
    unlocked?;
    assemble(config, sources, provider, store, connection, Purpose::Work).await
}

/// Whether the store is already set up; then the setup lock is not needed.
async fn is_set_up(connection: &mut dyn Connection) -> Result<bool> {
    Ok(is_current(connection).await? && head::read(connection).await?.is_some())
}

/// Brings the store up to date, and creates the contents of a new one, under the setup lock.
async fn set_up(
    config: &Config,
    sources: &[RootKeySource],
    provider: &Arc<dyn Provider>,
    store: &Arc<dyn Store>,
    connection: &mut dyn Connection,
) -> Result<()> {
    // Without a head no store exists yet, whatever else the database contains.
    let is_new = match head::read(connection).await {
        Ok(head) => head.is_none(),
        Err(e) if matches!(e.code(), ErrorCode::StoreContended | ErrorCode::StoreUnavailable) => return Err(e),
        // The tables do not exist yet.
        Err(_) => true,
    };
    if is_new {
        check_may_be_made(config, "in the database")?;
    }
    migrate(connection).await?;
    claim(store, config.audit_ack == AuditAck::Queued).await?;
    let now = config.clock.now();
    // The first record's time must agree with the clocks of all nodes.
    if let Some(theirs) = head::database_now(connection).await?
        && !config.clock.is_apart()
    {
        skew::check_database(theirs, now)?;
    }
    if head::read(connection).await?.is_some() {
        return Ok(());
    }
    // The first of several configured root keys creates the store.
    match create(connection, &sources[0], provider, config.clock.now()).await {
        // Another database node's store came first and has been replicated here with its head.
        Err(error) if error.code() == ErrorCode::Conflict => head::require(connection).await.map(drop),
        done => done,
    }
}

/// Opens a store for reading only, such as a backup.
pub(super) fn open_for_reading<'a>(config: &'a Config, store: Arc<dyn Store>) -> StoreFuture<'a, Arc<Shared>> {
    Box::pin(async move {
        let sources = configured(config)?;
        let provider = crate::crypto::provider(config.crypto_provider)?;
        let mut connection = store.reader().await?;
        check_schema(connection.as_mut()).await?;
        // Older schemas can still be read. The setting does not matter, since nothing is released or written.
        let config = Config { audit_ack: AuditAck::Durable, ..config.clone() };
        assemble(config, &sources, provider, &store, connection, Purpose::Reading).await
    })
}

/// Opens the file of a SQLite store for reading.
pub(super) fn open_read_only<'a>(config: &'a Config) -> StoreFuture<'a, Arc<Shared>> {
    Box::pin(async move {
        let store = open_file_read_only(config.store()?.file()?).await?;
        let opened = open_for_reading(config, Arc::clone(&store)).await;
        if opened.is_err() {
            let _ = store.close().await;
        }
        opened
    })
}

fn no_key() -> Error {
    Error::new(
        ErrorCode::InvalidRootKey,
        "no root key was given: set it in the configuration (root_key, master_key, KMS_MASTER_KEY)",
    )
}

/// The configured root keys; at least one is required.
fn configured(config: &Config) -> Result<Vec<RootKeySource>> {
    let sources = config.root_keys();
    if sources.is_empty() { Err(no_key()) } else { Ok(sources) }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use tokio::runtime::Builder;

    use super::open;
    use crate::session::{NewKey, Session};
    use crate::types::actor::{Actor, Role};
    use crate::{Config, Context};

    /// Opens a store, creates keys, and opens it again after openings that were given up.
    async fn open_again(file: &std::path::Path) {
        let config = Config::new(format!("sqlite:{}", file.display())).root_key_bytes([7; 32]);
        let shared = open(config.clone()).await.unwrap();
        let session = Session::new(shared.clone(), Actor::new("alice", Role::Admin).unwrap());
        for n in 0..20 {
            session.create_key(NewKey::aes(format!("k{n}"))).await.unwrap();
        }
        shared.ledger.close(Duration::from_secs(30)).await.unwrap();
        shared.store.close().await.unwrap();
        for micros in (0..8_000).step_by(400) {
            if let Ok(opened) = tokio::time::timeout(Duration::from_micros(micros), open(config.clone())).await {
                opened.unwrap().store.close().await.unwrap();
            }
        }
        let shared = open(config).await.unwrap();
        assert_eq!(shared.catalog.snapshot().key_count(), 20);
        let session = Session::new(shared, Actor::new("alice", Role::Admin).unwrap());
        session.encrypt("k7", b"x", &Context::new()).await.unwrap();
    }

    /// A runtime with one thread for blocking work is enough to load a store: that thread reads and checks the rows.
    #[test]
    fn a_store_opens_with_one_thread_for_blocking_work() {
        let folder = tempfile::tempdir().unwrap();
        for (mut runtime, name) in
            [(Builder::new_current_thread(), "one.db"), (Builder::new_multi_thread(), "several.db")]
        {
            let runtime = runtime.worker_threads(1).max_blocking_threads(1).enable_all().build().unwrap();
            runtime.block_on(open_again(&folder.path().join(name)));
        }
    }
}
