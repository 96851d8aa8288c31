//! Opening a store: it is found or made and brought up to date, as often as other nodes come in between.

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
use crate::storage::sqlite::SqliteStore;
use crate::storage::tables::head;
use crate::storage::{Connection, Store, check_schema, is_current, migrate};
use crate::types::error::{Error, ErrorCode, Result};

/// With fewer free bytes than this, SQLite cannot even make what it works with.
const NO_ROOM: u64 = 256 * 1024;
/// How long opening is tried again when what others do in the store at that moment aborts it.
const CONTENTION: std::time::Duration = std::time::Duration::from_secs(60);
/// The same on a cluster, where several nodes that set the store up at once wait for each other's statements.
const CONTENTION_ON_CLUSTER: std::time::Duration = std::time::Duration::from_secs(240);
/// The pause in between.
const CONTENTION_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Opens everything that sessions share.
#[tracing::instrument(level = "debug", name = "kms.open", skip_all)]
pub(crate) async fn open(config: Config) -> Result<Arc<Shared>> {
    configured(&config)?;
    let location = config.store()?;
    if let Ok(file) = location.file()
        && std::fs::metadata(file).map_or(0, |metadata| metadata.len()) == 0
    {
        // Before a file is made, too.
        check_may_be_made(&config, &format!("at {}", file.display()))?;
    }
    let store = location.open().await?;
    open_on(config, store).await
}

/// Whether a store may be made where there is none.
fn check_may_be_made(config: &Config, place: &str) -> Result<()> {
    if !config.make_store {
        return Err(Error::new(ErrorCode::StoreUnavailable, format!("there is no store {place}")));
    }
    config.high_water.as_deref().map_or(Ok(()), high_water::check_is_new)
}

/// Opens what is in this store.
pub(crate) async fn open_on(config: Config, store: Arc<dyn Store>) -> Result<Arc<Shared>> {
    let sources = configured(&config)?;
    let provider = crate::crypto::provider(config.crypto_provider)?;
    let opened = open_contended(config, &sources, &provider, &store).await;
    if opened.is_err() {
        // The first error is the one that counts.
        let _ = store.close().await;
    }
    opened
}

/// Opens the store, again if need be: on a Galera cluster the lock for setting up is only of one database node, and
/// what another one makes aborts, or holds up, whatever is done with the same tables here. Nothing that opening does is
/// harmed by a second time.
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
            // On a full disk SQLite cannot even make what it works with; keys must still be revocable then.
            Err(error) if is_without_room(error.code(), store) && store.release_reserve() => {
                tracing::error!(%error, "the disk is full: the reserve is given up, only revocations and the like are written");
            }
            done => return done,
        }
    }
}

/// Whether a failure is one that other nodes cause by setting the store up at the same time.
fn is_passing(code: ErrorCode, store: &Arc<dyn Store>, is_being_set_up: bool) -> bool {
    let is_held_up = code == ErrorCode::StoreUnavailable && is_being_set_up && store.is_cluster();
    code == ErrorCode::StoreContended || is_held_up
}

/// Whether a failure may be due to a full disk: SQLite does not always say so.
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
        // No lock there, but time: reads wait as well for what other nodes are making.
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

/// Whether nothing has to be made: then nobody is waited for.
async fn is_set_up(connection: &mut dyn Connection) -> Result<bool> {
    Ok(is_current(connection).await? && head::read(connection).await?.is_some())
}

/// Brings the store up to date, and makes what a new one needs, under the lock for that.
async fn set_up(
    config: &Config,
    sources: &[RootKeySource],
    provider: &Arc<dyn Provider>,
    store: &Arc<dyn Store>,
    connection: &mut dyn Connection,
) -> Result<()> {
    // Without a head there is no store yet, whatever else is there.
    let is_new = match head::read(connection).await {
        Ok(head) => head.is_none(),
        Err(e) if matches!(e.code(), ErrorCode::StoreContended | ErrorCode::StoreUnavailable) => return Err(e),
        // There are no tables yet.
        Err(_) => true,
    };
    if is_new {
        check_may_be_made(config, "in the database")?;
    }
    migrate(connection).await?;
    claim(store, config.audit_ack == AuditAck::Queued).await?;
    let now = config.clock.now();
    // The first record's time is one that all nodes must agree with.
    if let Some(theirs) = head::database_now(connection).await?
        && !config.clock.is_apart()
    {
        skew::check_database(theirs, now)?;
    }
    if head::read(connection).await?.is_some() {
        return Ok(());
    }
    // The first of several root keys makes the store.
    match create(connection, &sources[0], provider, config.clock.now()).await {
        // Another database node's was first, and has arrived here with its head.
        Err(error) if error.code() == ErrorCode::Conflict => match head::read(connection).await? {
            Some(_) => Ok(()),
            None => Err(Error::new(ErrorCode::StoreCorrupt, "the store has parts of a log, but its head is missing")),
        },
        done => done,
    }
}

/// Opens what is in a store that is only to be read, such as a backup.
pub(super) async fn open_for_reading(config: &Config, store: Arc<dyn Store>) -> Result<Arc<Shared>> {
    let sources = configured(config)?;
    let provider = crate::crypto::provider(config.crypto_provider)?;
    let mut connection = store.reader().await?;
    check_schema(connection.as_mut()).await?;
    // What is older can still be read; and nothing is released or written.
    let config = Config { audit_ack: AuditAck::Durable, ..config.clone() };
    assemble(config, &sources, provider, &store, connection, Purpose::Reading).await
}

/// Opens the file of a store to read it.
pub(super) async fn open_read_only(config: &Config) -> Result<Arc<Shared>> {
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open_read_only(config.store()?.file()?).await?);
    let opened = open_for_reading(config, Arc::clone(&store)).await;
    if opened.is_err() {
        let _ = store.close().await;
    }
    opened
}

fn no_key() -> Error {
    Error::new(
        ErrorCode::InvalidRootKey,
        "no root key was given: set it in the configuration (root_key, master_key, KMS_MASTER_KEY)",
    )
}

/// The configured root keys, of which there must be one.
fn configured(config: &Config) -> Result<Vec<RootKeySource>> {
    let sources = config.root_keys();
    if sources.is_empty() { Err(no_key()) } else { Ok(sources) }
}
