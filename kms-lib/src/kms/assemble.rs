//! Builds the service on an opened store: verifies the service's own keys, the log and the rows, creates the parts of
//! the service, and records what the operator acknowledged on opening.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::{head, high_water, quarantine};
use crate::audit::record::{Body, record_hash};
use crate::catalog::{Catalog, LOADING, MaterialCache, PublicKeys, Trust, load_seals};
use crate::config::Config;
use crate::crypto::provider::Provider;
use crate::envelope::{Envelope, RootKeySource, Seals};
use crate::fair::Fair;
use crate::ledger::{AuditAck, Details, Ledger, LedgerDeps, Signer, Space, skew};
use crate::lifecycle::NewQuarantined;
use crate::session::{Denials, Rotations, Session, SetBacks, Shared, VerificationSettings};
use crate::storage::inspection::require_sound;
use crate::storage::tables::secrets::{self, ServiceKeyRow};
use crate::storage::tables::{self, audit, root_keys};
use crate::storage::{Connection, Store};
use crate::types::actor::Actor;
use crate::types::attempt::Operation;
use crate::types::audit::{Action, Head};
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::root_key::RootKeyGeneration;
use crate::types::time::Timestamp;
use crate::verification::Turns;
use crate::workers::{Workers, run_blocking};

/// Audit lists that may run at once. This leaves one of SQLite's long readers free for verifications.
const LISTS: usize = 3;

/// The purpose for which a store is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Work,
    /// Reading only, for example a backup. A head dated in the future, written by a clock that was ahead, is accepted.
    Reading,
}

/// Verifies the contents of the store and builds the service.
///
/// # Errors
///
/// `IntegrityFailure` for an altered head or altered keys, and for a log that lacks records that this service has seen
/// before; `ClockSkew` for a log whose time is in the future.
pub(super) async fn assemble(
    config: Config,
    sources: &[RootKeySource],
    provider: Arc<dyn Provider>,
    store: &Arc<dyn Store>,
    connection: Box<dyn Connection>,
    purpose: Purpose,
) -> Result<Arc<Shared>> {
    let notes = Notes::read(&config)?;
    let own = verify_own_keys(sources, &provider, connection).await?;
    let is_clock_acknowledged = check_clock(&config, store, &own.head, purpose).await?;
    let lost = notes.compare(&own, store).await?;
    if let Some(lost) = lost.as_ref().filter(|_| !config.acknowledge_restore) {
        return Err(lost.error());
    }
    let last = own.head.timestamp;
    let (shared, altered) = start(config, provider, store, own).await?;
    // This must come first, because no other record can be written before it.
    if is_clock_acknowledged {
        record_clock(&shared, last).await?;
    }
    if purpose == Purpose::Work && !altered.is_empty() {
        quarantine::commit(&shared, altered).await?;
    }
    record_opening(&shared, lost, purpose).await?;
    Ok(shared)
}

/// The checkpoints noted in high-water files.
struct Notes {
    own: Option<(PathBuf, String)>,
    /// Notes of other files beside the configured one; read only if the configured file does not exist.
    others: Vec<(PathBuf, String)>,
}

impl Notes {
    fn read(config: &Config) -> Result<Self> {
        let Some(path) = &config.high_water else { return Ok(Self { own: None, others: Vec::new() }) };
        Ok(match high_water::read(path)? {
            Some(note) => Self { own: Some((path.clone(), note)), others: Vec::new() },
            None => Self { own: None, others: high_water::others(path) },
        })
    }

    /// Compares the noted checkpoints with the log and returns what the log lacks, if anything.
    async fn compare(&self, own: &OwnKeys, store: &Arc<dyn Store>) -> Result<Option<high_water::Lost>> {
        let (head, signer) = (&own.head, &own.signer);
        let mut lost = match &self.own {
            Some((path, note)) => high_water::compare(path, note, head, signer, store).await?,
            None => None,
        };
        for (path, note) in self.others.iter().filter(|(_, note)| high_water::is_of(note, signer)) {
            lost = lost.max(high_water::compare(path, note, head, signer, store).await?);
        }
        Ok(lost)
    }
}

/// The service's own keys, unwrapped, and the head that they signed.
struct OwnKeys {
    envelope: Envelope,
    seals: Seals,
    signer: Arc<Signer>,
    head: Head,
}

/// Reads the head and unwraps the service's own keys. Fails for a head that was altered or signed by another key.
async fn verify_own_keys(
    sources: &[RootKeySource],
    provider: &Arc<dyn Provider>,
    mut connection: Box<dyn Connection>,
) -> Result<OwnKeys> {
    require_sound(connection.as_mut()).await?;
    // From one state: another process may replace these keys meanwhile, and a head that a former key signed counts as
    // altered.
    connection.begin_read().await?;
    let read = read_own_rows(connection.as_mut()).await;
    let ended = connection.rollback().await;
    let (generations, head, keys) = read?;
    ended?;
    connection.close().await?;
    let envelope = Envelope::unlock(Arc::clone(provider), sources.to_vec(), generations).await?;
    let seals = load_seals(&envelope, &keys, head.log_id).await?;
    let signer = Arc::new(Signer::load(head.log_id, &keys, envelope.clone(), Arc::clone(provider)).await?);
    signer.keys().check(&head)?;
    Ok(OwnKeys { envelope, seals, signer, head })
}

/// Compares the clock with the log. Returns true if the log's time is in the future and the operator acknowledged that.
async fn check_clock(config: &Config, store: &Arc<dyn Store>, head: &Head, purpose: Purpose) -> Result<bool> {
    let now = config.clock.now();
    if purpose == Purpose::Reading || !skew::is_to_come(head.timestamp, now) {
        return Ok(false);
    }
    match config.acknowledge_clock {
        Some(said) => {
            skew::check_said(said, now)?;
            check_time(store, head).await?;
        }
        None => skew::check_log(head.timestamp, now)?,
    }
    Ok(true)
}

/// Fails unless the head's time, which its signature does not cover, equals that of the log's last record. The signed
/// hash covers that record.
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
    let text = "the time of the log's head is not that of its last record: the head was altered";
    Err(Error::new(ErrorCode::IntegrityFailure, text))
}

/// Loads the catalog and creates the parts of the service. Also returns the altered rows that were found and set aside.
async fn start(
    config: Config,
    provider: Arc<dyn Provider>,
    store: &Arc<dyn Store>,
    own: OwnKeys,
) -> Result<(Arc<Shared>, Vec<NewQuarantined>)> {
    let OwnKeys { envelope, seals, signer, head } = own;
    let catalog = Arc::new(Catalog::new(Arc::clone(store), seals, envelope.clone()));
    load(&catalog, store).await?;
    let is_suspect = catalog.snapshot().trust() == Trust::Suspect;
    let altered = if is_suspect { quarantine::set_aside(store, &catalog, &signer).await? } else { Vec::new() };
    let (workers, loading) = (Workers::default(), Fair::new(LOADING.0, LOADING.1));
    let materials = Arc::new(MaterialCache::new(
        Arc::clone(store),
        Arc::clone(&provider),
        envelope.clone(),
        (workers.clone(), loading.clone()),
        (config.cache_size, config.cache_ttl),
    ));
    let loaders = (workers.clone(), loading);
    let public_keys = PublicKeys::new(Arc::clone(store), Arc::clone(&provider), loaders, config.cache_size);
    let space = Arc::new(Space::new(Arc::clone(store), config.space));
    space.judge();
    let deps = LedgerDeps {
        store: Arc::clone(store),
        space: Arc::clone(&space),
        catalog: Arc::clone(&catalog),
        materials: Arc::clone(&materials),
        signer: Arc::clone(&signer),
        default_grace_days: config.grace_days,
        versions_max: config.versions_max,
        clock: config.clock.clone(),
    };
    let ledger = Ledger::start(deps, head, config.limits, config.audit_ack)?;
    let shared = Shared {
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
        clock: config.clock.clone(),
        denials: Denials::default(),
        rotations: Rotations::default(),
        reads: Fair::new(store.readers(), store.readers() - 1),
        lists: Fair::new(LISTS, LISTS - 1),
        full_keys: Mutex::default(),
        set_backs: SetBacks::default(),
        turns: Turns::default(),
        deletion_wait_days: config.deletion_wait_days,
        deletion_wait_min_days: config.deletion_wait_min_days,
        verification: VerificationSettings {
            high_water: config.high_water.clone(),
            reverify_days: config.reverify_days,
        },
        config,
    };
    Ok((Arc::new(shared), altered))
}

/// Tells the thread that loads the catalog that nobody waits for it any longer.
#[derive(Default)]
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Loads the catalog from one state of the store. Returns false if another process has replaced the integrity key.
async fn load_on(catalog: Arc<Catalog>, store: Arc<dyn Store>, given_up: Arc<AtomicBool>) -> Result<bool> {
    let mut loader = store.loader(given_up).await?;
    loader.begin_read().await?;
    let loaded = catalog.refresh(loader.as_mut()).await;
    let ended = loader.rollback().await;
    let is_loaded = loaded?;
    ended?;
    loader.close().await?;
    Ok(is_loaded)
}

/// Loads all keys, grants, credentials and other rows into the catalog.
async fn load(catalog: &Arc<Catalog>, store: &Arc<dyn Store>) -> Result<()> {
    // Set when this future ends or is dropped.
    let given_up = GivenUp::default();
    let work = load_on(Arc::clone(catalog), Arc::clone(store), Arc::clone(&given_up.0));
    let is_loaded = if store.blocks_thread() {
        let runtime = tokio::runtime::Handle::current();
        run_blocking(move || runtime.block_on(work)).await?
    } else {
        work.await?
    };
    if is_loaded {
        return Ok(());
    }
    let text = "another process replaced the integrity key while the store was being opened";
    Err(Error::new(ErrorCode::StoreContended, text))
}

/// Records that time goes back, as the operator acknowledged.
async fn record_clock(shared: &Arc<Shared>, last: Timestamp) -> Result<()> {
    let now = shared.clock.now();
    let session = Session::new(Arc::clone(shared), Actor::internal("system"));
    match session.record_event(Action::ClockAcknowledge, Operation::AcknowledgeClock, Details::default()).await {
        Ok(()) => {
            tracing::warn!(from = %last, to = %now, "the log's time goes back, as was acknowledged");
            Ok(())
        }
        // Another process may have recorded it first.
        Err(error) if skew::is_to_come(head::stored(shared).await?.timestamp, now) => Err(error),
        Err(_) => Ok(()),
    }
}

/// Records what the operator acknowledged and unusual settings, and writes the head to the high-water file.
async fn record_opening(shared: &Arc<Shared>, lost: Option<high_water::Lost>, purpose: Purpose) -> Result<()> {
    let session = Session::new(Arc::clone(shared), Actor::internal("system"));
    let is_acknowledged = lost.is_some();
    if let Some(lost) = lost {
        let mut details = Details::default();
        details.number("present", lost.present).number("noted", lost.noted);
        session.record_event(Action::RestoreAcknowledge, Operation::AcknowledgeRestore, details).await?;
    }
    if let Some(path) = shared.config.high_water.as_ref().filter(|_| purpose == Purpose::Work) {
        // The file is also written every second; a failure to write it must not prevent revocations.
        match high_water::write(path, &head::stored(shared).await?.checkpoint) {
            // Otherwise the operator would have to acknowledge the restore again.
            Err(error) if is_acknowledged => return Err(error),
            Err(error) => tracing::warn!(%error, "the high-water file is not up to date"),
            Ok(()) => {}
        }
    }
    if shared.config.audit_ack == AuditAck::Queued {
        session.record_event(Action::QueuedAckOn, Operation::VerifyAudit, Details::default()).await?;
    }
    Ok(())
}

/// The stored generations of the root key, the head, and the service's own keys; none of them is verified yet.
type OwnRows = (Vec<RootKeyGeneration>, Head, Vec<ServiceKeyRow>);

async fn read_own_rows(connection: &mut dyn Connection) -> Result<OwnRows> {
    let generations = root_keys::unchecked(connection).await?;
    let head = tables::head::require(connection).await?;
    Ok((generations, head, secrets::service_keys(connection).await?))
}
