//! Opening a store: the schema, the root key, the service's own keys, the head, the catalog.

use std::sync::{Arc, Mutex};

use super::claim::claim;
use super::create::create;
use super::{high_water, quarantine};
use crate::audit::record::{Body, record_hash};
use crate::catalog::{Catalog, MaterialCache, PublicKeys, Trust, load_seals};
use crate::config::Config;
use crate::crypto::provider::Provider;
use crate::envelope::{Envelope, RootKeySource};
use crate::fair::Fair;
use crate::ledger::{AuditAck, Details, Ledger, Parts, Signer, Space, skew};
use crate::session::{Denials, Rotations, Session, Shared, VerificationSettings};
use crate::storage::inspection::require_sound;
use crate::storage::sqlite::SqliteStore;
use crate::storage::tables::{audit, head, root_keys, secrets};
use crate::storage::{Connection, Store, check_schema, is_current, migrate};
use crate::types::actor::Actor;
use crate::types::attempt::Operation;
use crate::types::audit::{Action, Head};
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::root_key::RootKeyGeneration;
use crate::verification::Turns;
use crate::workers::Workers;

/// Lists of the log that are read at once. On SQLite one long reader is left to verifications.
const LISTS: usize = 3;
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
        return assemble(config, sources, provider, store, connection, false).await;
    }
    *is_being_set_up = true;
    connection.lock_setup().await?;
    let made = set_up(&config, sources, &provider, store, connection.as_mut()).await;
    let unlocked = connection.unlock_setup().await;
    made?;
    unlocked?;
    assemble(config, sources, provider, store, connection, false).await
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
    assemble(config, &sources, provider, &store, connection, true).await
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

/// The head as it is stored now.
pub(super) async fn head(shared: &Shared) -> Result<Head> {
    let mut connection = shared.store.reader().await?;
    let head = head::read(connection.as_mut()).await?;
    head.ok_or_else(|| Error::new(ErrorCode::StoreCorrupt, "the head of the log is missing"))
}

/// Notes the head as seen, if it is signed and continues what this process has seen. That of a store which was rolled
/// back underneath is not noted: what was seen before is what tells the next process.
pub(super) async fn see_head(shared: &Shared) -> Result<()> {
    let (size, hash) = shared.ledger.seen().state();
    let head = head(shared).await?;
    if head.seq <= size || shared.signer.keys().check(&head).is_err() {
        return Ok(());
    }
    let mut connection = shared.store.reader().await?;
    if audit::hash_of(connection.as_mut(), size).await? == Some(hash) {
        shared.ledger.seen().note(&head);
    }
    Ok(())
}

async fn assemble(
    config: Config,
    sources: &[RootKeySource],
    provider: Arc<dyn Provider>,
    store: &Arc<dyn Store>,
    mut connection: Box<dyn Connection>,
    is_for_reading: bool,
) -> Result<Arc<Shared>> {
    let (own, others) = match &config.high_water {
        Some(path) => match high_water::read(path)? {
            Some(note) => (Some((path.clone(), note)), Vec::new()),
            None => (None, high_water::others(path)),
        },
        None => (None, Vec::new()),
    };
    require_sound(connection.as_mut()).await?;
    let (generations, head) = read_root_keys(connection.as_mut()).await?;
    let keys = secrets::service_keys(connection.as_mut()).await?;
    connection.close().await?;

    let envelope = Envelope::unlock(Arc::clone(&provider), sources.to_vec(), generations).await?;
    let seals = load_seals(&envelope, &keys, head.log_id).await?;
    let signer = Arc::new(Signer::load(head.log_id, &keys, envelope.clone(), Arc::clone(&provider)).await?);
    // A head that was altered, or that another key signed, is not built upon.
    signer.keys().check(&head)?;
    let now = config.clock.now();
    // A backup made by a clock that was ahead can be read.
    let is_ahead = !is_for_reading && skew::is_to_come(head.timestamp, now);
    match config.acknowledge_clock.filter(|_| is_ahead) {
        Some(said) => {
            skew::check_said(said, now)?;
            check_time(store, &head).await?;
        }
        None if is_ahead => skew::check_log(head.timestamp, now)?,
        None => {}
    }

    let mut lost = match &own {
        Some((path, note)) => high_water::compare(path, note, &head, &signer, store).await?,
        None => None,
    };
    for (path, note) in others.iter().filter(|(_, note)| high_water::is_of(note, &signer)) {
        lost = lost.max(high_water::compare(path, note, &head, &signer, store).await?);
    }
    if let Some(lost) = lost.as_ref().filter(|_| !config.acknowledge_restore) {
        return Err(lost.error());
    }

    let catalog = Arc::new(Catalog::new(Arc::clone(store), seals, envelope.clone()));
    {
        let mut reader = store.reader().await?;
        reader.begin_read().await?;
        let loaded = catalog.refresh(reader.as_mut()).await;
        reader.rollback().await?;
        if !loaded? {
            let text = "another process replaced the key that seals rows while the store was opened";
            return Err(Error::new(ErrorCode::StoreContended, text));
        }
    }
    let is_suspect = catalog.image().trust() == Trust::Suspect;
    let altered = if is_suspect { quarantine::set_aside(store, &catalog, &signer).await? } else { Vec::new() };
    let workers = Workers::default();
    let materials = Arc::new(MaterialCache::new(
        Arc::clone(store),
        Arc::clone(&provider),
        envelope.clone(),
        workers.clone(),
        (config.cache_size, config.cache_ttl),
    ));
    let public_keys = PublicKeys::new(Arc::clone(store), Arc::clone(&provider), workers.clone(), config.cache_size);
    let space = Arc::new(Space::new(Arc::clone(store), config.space));
    space.judge();
    let last = head.timestamp;
    let ledger = Ledger::start(Parts {
        store: Arc::clone(store),
        space: Arc::clone(&space),
        catalog: Arc::clone(&catalog),
        materials: Arc::clone(&materials),
        signer: Arc::clone(&signer),
        default_grace_days: config.grace_days,
        versions_max: config.versions_max,
        clock: config.clock.clone(),
        head,
        limits: config.limits,
        ack: config.audit_ack,
    })?;
    let shared = Arc::new(Shared {
        config: config.clone(),
        store: Arc::clone(store),
        provider,
        envelope,
        catalog,
        materials,
        public_keys,
        workers,
        ledger,
        space,
        signer,
        clock: config.clock,
        denials: Denials::default(),
        rotations: Rotations::default(),
        lists: Fair::new(LISTS),
        full_keys: Mutex::default(),
        turns: Turns::default(),
        deletion_wait_days: config.deletion_wait_days,
        deletion_wait_min_days: config.deletion_wait_min_days,
        verification: VerificationSettings {
            high_water: config.high_water.clone(),
            reverify_days: config.reverify_days,
        },
    });
    // First: no other record can be written before.
    if is_ahead {
        let session = Session::new(Arc::clone(&shared), Actor::internal("system"));
        let recorded =
            session.record_event(Action::ClockAcknowledge, Operation::AcknowledgeClock, Details::default()).await;
        match recorded {
            Ok(()) => {
                tracing::warn!(from = %last, to = %now, "it was acknowledged that a clock was ahead: time goes back")
            }
            // Perhaps because another process was first.
            Err(error) if skew::is_to_come(self::head(&shared).await?.timestamp, now) => return Err(error),
            Err(_) => {}
        }
    }
    if !altered.is_empty() && !is_for_reading {
        quarantine::commit(&shared, altered).await?;
    }
    let is_acknowledged = lost.is_some();
    if let Some(lost) = lost {
        let session = Session::new(Arc::clone(&shared), Actor::internal("system"));
        let mut details = Details::default();
        details.number("present", lost.present).number("noted", lost.noted);
        session.record_event(Action::RestoreAcknowledge, Operation::AcknowledgeRestore, details).await?;
    }
    if let Some(path) = config.high_water.as_ref().filter(|_| !is_for_reading) {
        // As every second from now on: not being able to note it keeps nobody from revoking.
        let noted = high_water::write(path, &self::head(&shared).await?.checkpoint);
        match noted {
            // Else what was acknowledged would have to be again.
            Err(error) if is_acknowledged => return Err(error),
            Err(error) => tracing::warn!(%error, "the high-water file is not up to date"),
            Ok(()) => {}
        }
    }
    if config.audit_ack == AuditAck::Queued {
        let session = Session::new(Arc::clone(&shared), Actor::internal("system"));
        session.record_event(Action::QueuedAckOn, Operation::VerifyAudit, Details::default()).await?;
    }
    Ok(shared)
}

/// Whether the head's time, which its signature does not cover, is that of the log's last record, whose hash it signs.
async fn check_time(store: &Arc<dyn Store>, head: &Head) -> Result<()> {
    let mut connection = store.reader().await?;
    let mut is_its_time = false;
    audit::range(connection.as_mut(), head.seq, head.seq, &mut |row| {
        let hash = record_hash(head.log_id, row.seq, row.timestamp, &row.prev_hash, &Body::from(&row).digest());
        is_its_time = hash == head.hash && row.timestamp == head.timestamp;
        Ok(())
    })
    .await?;
    if is_its_time {
        return Ok(());
    }
    let text = "the time of the log's head is not that of its last record: it was altered";
    Err(Error::new(ErrorCode::IntegrityFailure, text))
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

/// The stored generations of the root key, not checked yet; and the head.
async fn read_root_keys(connection: &mut dyn Connection) -> Result<(Vec<RootKeyGeneration>, Head)> {
    let generations = root_keys::unchecked(connection).await?;
    let missing = || Error::new(ErrorCode::StoreCorrupt, "the head of the log is missing");
    Ok((generations, head::read(connection).await?.ok_or_else(missing)?))
}
