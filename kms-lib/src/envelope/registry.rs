//! The root keys of a store, by generation.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::calls::{self, CallMetrics, Calls};
use super::connect::connect;
use super::{Binding, RootKey, RootKeySource};
use crate::crypto::provider::Provider;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::RootKeyId;
use crate::types::root_key::{RootKeyGeneration, RootKeyProvider, Wrapped};
use crate::types::time::Timestamp;

/// After this time, a source that was unavailable is tried again for a generation.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// The root keys of a store: its generations, and the keys that this process has.
///
/// Cheap to clone; clones share their state. The catalog keeps the generations up to date. A new generation whose key
/// is configured becomes usable without a restart.
#[derive(Clone)]
pub struct Envelope(Arc<Inner>);

struct Inner {
    crypto: Arc<dyn Provider>,
    sources: RwLock<Vec<RootKeySource>>,
    slots: RwLock<BTreeMap<u32, Slot>>,
    /// Keys of generations that this process is adding.
    offered: Mutex<HashMap<RootKeyId, Arc<dyn RootKey>>>,
    /// Set when it is not known which generations are genuine; then nothing new is wrapped.
    distrusted: AtomicBool,
    /// Locked by the caller that tries the sources.
    connecting: tokio::sync::Mutex<()>,
}

struct Slot {
    row: RootKeyGeneration,
    key: Option<Arc<dyn RootKey>>,
    /// The reason why no source has the key. With a time if a source was unavailable then.
    missing: Option<(Option<Instant>, Error)>,
    /// Microseconds since 1970-01-01T00:00:00Z; 0 for never.
    last_used: AtomicI64,
}

impl Slot {
    fn new(row: RootKeyGeneration, key: Option<Arc<dyn RootKey>>) -> Self {
        Self { row, key, missing: None, last_used: AtomicI64::new(0) }
    }
}

/// A generation and its use by this process.
#[derive(Clone, Debug)]
pub struct KnownGeneration {
    /// The stored description of the generation.
    pub row: RootKeyGeneration,
    /// Whether this process has the generation's key.
    pub is_at_hand: bool,
    /// When this process last wrapped or unwrapped under the generation.
    pub last_used_at: Option<Timestamp>,
}

impl Envelope {
    /// An envelope with one generation and its key.
    pub fn new(crypto: Arc<dyn Provider>, row: RootKeyGeneration, key: Arc<dyn RootKey>) -> Self {
        Self::of(crypto, Vec::new(), BTreeMap::from([(row.generation, Slot::new(row, Some(key)))]))
    }

    fn of(crypto: Arc<dyn Provider>, sources: Vec<RootKeySource>, slots: BTreeMap<u32, Slot>) -> Self {
        let (sources, slots, offered) = (RwLock::new(sources), RwLock::new(slots), Mutex::default());
        let (distrusted, connecting) = (AtomicBool::new(false), tokio::sync::Mutex::default());
        Self(Arc::new(Inner { crypto, sources, slots, offered, distrusted, connecting }))
    }

    /// The envelope of a store with these stored generations. At least one source must be the key of an active one. The
    /// rows may have been altered; [`Envelope::set_generations`] corrects them once their seals are checked.
    ///
    /// Fails with `WrongRootKey` if no source is the key of an active generation, and with `RootKeyUnavailable` or
    /// `RootKeyRefused` if a source could not be tried.
    pub async fn unlock(
        crypto: Arc<dyn Provider>,
        sources: Vec<RootKeySource>,
        rows: Vec<RootKeyGeneration>,
    ) -> Result<Self> {
        let mut slots: BTreeMap<u32, Slot> = BTreeMap::new();
        let mut failures = Vec::new();
        for (n, source) in sources.iter().enumerate() {
            let mut failure = None;
            for row in rows.iter().filter(|row| row.is_active()) {
                match connect(source, row, &crypto).await {
                    Ok(key) => {
                        slots.insert(row.generation, Slot::new(row.clone(), Some(key)));
                        failure = None;
                        break;
                    }
                    // An unavailable root key is a more useful error than a wrong one.
                    Err(error) if failure.is_none() || is_passed_over(error.code()) => failure = Some(error),
                    Err(_) => {}
                }
            }
            if let Some(error) = failure {
                failures.push((n + 1, error));
            }
        }
        if slots.is_empty() {
            return Err(none_opens(failures, &rows, &sources, &crypto).await);
        }
        for (number, error) in &failures {
            tracing::warn!(number, %error, "a configured root key is not one of this store's generations");
        }
        for row in rows {
            slots.entry(row.generation).or_insert_with(|| Slot::new(row, None));
        }
        Ok(Self::of(crypto, sources, slots))
    }

    fn slots(&self) -> RwLockReadGuard<'_, BTreeMap<u32, Slot>> {
        self.0.slots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<u32, Slot>> {
        self.0.slots.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the generations. Keys of other generations, and of retired ones, are dropped.
    pub fn set_generations(&self, rows: Vec<RootKeyGeneration>) {
        let mut slots = self.slots_mut();
        let mut former = std::mem::take(&mut *slots);
        let mut offered = self.0.offered.lock().unwrap_or_else(PoisonError::into_inner);
        for row in rows {
            let present = former.remove(&row.generation).filter(|slot| is_same(&slot.row, &row));
            let offer = offered.remove(&row.id);
            let mut slot = present.unwrap_or_else(|| Slot::new(row.clone(), offer));
            slot.row = row;
            if !slot.row.is_active() {
                slot.key = None;
            }
            slots.insert(slot.row.generation, slot);
        }
    }

    /// Keeps the key of a generation that is being added, so that it can be used as soon as the addition is committed.
    pub fn offer(&self, id: RootKeyId, key: Arc<dyn RootKey>, source: RootKeySource) {
        self.0.offered.lock().unwrap_or_else(PoisonError::into_inner).insert(id, key);
        let mut sources = self.0.sources.write().unwrap_or_else(PoisonError::into_inner);
        if !sources.contains(&source) {
            sources.push(source);
        }
        // The new source has not been tried for the missing generations.
        self.slots_mut().values_mut().for_each(|slot| slot.missing = None);
    }

    /// Stops wrapping, because rows were altered and it is not known which generations are genuine.
    pub fn distrust(&self) {
        self.0.distrusted.store(true, Ordering::Release);
    }

    /// The generations that new material is wrapped under, ascending; none after [`Envelope::distrust`].
    pub fn wrapping_generations(&self) -> Vec<u32> {
        if self.0.distrusted.load(Ordering::Acquire) {
            return Vec::new();
        }
        self.slots().values().filter(|slot| slot.row.wraps()).map(|slot| slot.row.generation).collect()
    }

    /// All generations, oldest first.
    pub fn generations(&self) -> Vec<KnownGeneration> {
        let describe = |slot: &Slot| {
            let used = slot.last_used.load(Ordering::Relaxed);
            KnownGeneration {
                row: slot.row.clone(),
                is_at_hand: slot.key.is_some(),
                last_used_at: (used > 0).then(|| Timestamp::from_micros(used)),
            }
        };
        self.slots().values().map(describe).collect()
    }

    /// Counters of the calls to all root keys that this process has, by provider and operation.
    pub fn call_metrics(&self) -> Vec<CallMetrics> {
        calls::by_provider(self.slots().values().filter_map(|slot| slot.key.as_deref()))
    }

    /// Whether this process lacks the key of an active generation, or the last call to one of these keys failed with
    /// `RootKeyUnavailable` or `RootKeyRefused`.
    pub fn is_degraded(&self) -> bool {
        let is_failing = |key: &Arc<dyn RootKey>| key.calls().is_some_and(Calls::is_failing);
        self.slots().values().any(|slot| slot.row.is_active() && slot.key.as_ref().is_none_or(is_failing))
    }

    /// The generation whose key this source is, including retired ones; `None` if there is none. Fails if that could
    /// not be determined for a generation.
    pub async fn identify(&self, source: &RootKeySource) -> Result<Option<u32>> {
        for KnownGeneration { row, .. } in self.generations() {
            match connect(source, &row, &self.0.crypto).await {
                Ok(_) => return Ok(Some(row.generation)),
                Err(error) if error.code() == ErrorCode::WrongRootKey => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Tries the configured sources for the active generations whose key this process does not have yet.
    pub async fn connect_missing(&self) {
        let missing: Vec<u32> = {
            let slots = self.slots();
            let is_missing = |slot: &&Slot| slot.row.is_active() && slot.key.is_none();
            slots.values().filter(is_missing).map(|slot| slot.row.generation).collect()
        };
        for generation in missing {
            if let Err(error) = self.key(generation).await {
                tracing::debug!(generation, %error, "the key of a root key generation is missing");
            }
        }
    }

    /// Wraps `plaintext` under every generation that new material is wrapped under.
    ///
    /// Fails with `RootKeyUnavailable` if this process lacks the key of one of them, which the message names.
    pub async fn wrap(&self, binding: &Binding, plaintext: &[u8]) -> Result<Vec<Wrapped>> {
        let mut wrapped = Vec::new();
        for generation in self.wrapping_generations() {
            wrapped.push(self.wrap_under(generation, binding, plaintext).await?);
        }
        if wrapped.is_empty() { Err(untrusted()) } else { Ok(wrapped) }
    }

    /// Wraps `plaintext` under one generation.
    pub async fn wrap_under(&self, generation: u32, binding: &Binding, plaintext: &[u8]) -> Result<Wrapped> {
        if self.0.distrusted.load(Ordering::Acquire) {
            return Err(untrusted());
        }
        let key = self.key(generation).await?;
        let bytes = key.wrap(binding, plaintext).await?;
        self.note_use(generation);
        Ok(Wrapped { generation, bytes })
    }

    /// Unwraps with the key of one generation, cheapest first. A generation whose key is missing or unavailable is
    /// skipped; a wrapping that does not authenticate is an error.
    pub async fn unwrap(&self, binding: &Binding, wrapped: &[Wrapped]) -> Result<Zeroizing<Vec<u8>>> {
        let mut last = None;
        for (generation, bytes) in self.in_order(wrapped) {
            match self.unwrap_under(generation, binding, bytes).await {
                // `WrongState`: the generation was retired while another one was tried.
                Err(error) if is_passed_over(error.code()) || error.code() == ErrorCode::WrongState => {
                    last = Some(error);
                }
                done => return done,
            }
        }
        Err(last.unwrap_or_else(|| {
            Error::new(
                ErrorCode::IntegrityFailure,
                "the material is wrapped under no active generation of the root key",
            )
        }))
    }

    /// Unwraps with the key of one generation.
    pub async fn unwrap_under(&self, generation: u32, binding: &Binding, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let key = self.key(generation).await?;
        let plaintext = key.unwrap(binding, bytes).await?;
        self.note_use(generation);
        Ok(plaintext)
    }

    /// The wrappings under active generations, in order of preference: those whose root key this process has come
    /// first, among them local ones, among these the newest generation.
    fn in_order<'a>(&self, wrapped: &'a [Wrapped]) -> Vec<(u32, &'a [u8])> {
        let slots = self.slots();
        let mut order: Vec<_> = wrapped
            .iter()
            .filter_map(|wrapped| {
                let slot = slots.get(&wrapped.generation).filter(|slot| slot.row.is_active())?;
                let rank = (slot.key.is_none(), slot.row.provider != RootKeyProvider::Local);
                Some((rank, std::cmp::Reverse(wrapped.generation), wrapped.bytes.as_slice()))
            })
            .collect();
        order.sort_unstable_by_key(|(rank, generation, _)| (*rank, *generation));
        order.into_iter().map(|(_, generation, bytes)| (generation.0, bytes)).collect()
    }

    fn note_use(&self, generation: u32) {
        if let Some(slot) = self.slots().get(&generation) {
            slot.last_used.store(Timestamp::now().micros(), Ordering::Relaxed);
        }
    }

    /// The key of an active generation. Tries the sources that have not been tried for it yet.
    async fn key(&self, generation: u32) -> Result<Arc<dyn RootKey>> {
        if let Some(known) = self.known_key(generation) {
            return known;
        }
        let _alone = self.0.connecting.lock().await;
        if let Some(known) = self.known_key(generation) {
            return known;
        }
        let Some(row) = self.slots().get(&generation).map(|slot| slot.row.clone()) else {
            return Err(unavailable(generation, "this store", None));
        };
        let mut failure = None;
        let sources = self.0.sources.read().unwrap_or_else(PoisonError::into_inner).clone();
        for source in &sources {
            match connect(source, &row, &self.0.crypto).await {
                Ok(key) => {
                    if let Some(slot) = self.slots_mut().get_mut(&generation).filter(|slot| is_same(&slot.row, &row)) {
                        slot.key = Some(Arc::clone(&key));
                    }
                    tracing::info!(generation, provider = %row.provider, "the key of a root key generation is ready");
                    return Ok(key);
                }
                Err(error) if is_passed_over(error.code()) => failure = Some(error),
                Err(_) => {}
            }
        }
        let error = unavailable(generation, row.provider.as_str(), failure.as_ref());
        if let Some(slot) = self.slots_mut().get_mut(&generation) {
            slot.missing = Some((failure.is_some().then(Instant::now), error.clone()));
        }
        Err(error)
    }

    /// The known key of a generation, or the known error. `None` if the sources have to be tried.
    fn known_key(&self, generation: u32) -> Option<Result<Arc<dyn RootKey>>> {
        let slots = self.slots();
        let slot = slots.get(&generation)?;
        if !slot.row.is_active() {
            let text = format!("generation {generation} of the root key is retired");
            return Some(Err(Error::new(ErrorCode::WrongState, text)));
        }
        if let Some(key) = &slot.key {
            return Some(Ok(Arc::clone(key)));
        }
        // A wrong source stays wrong, but an unavailable one may become available.
        let (since, error) = slot.missing.as_ref()?;
        since.is_none_or(|since| since.elapsed() < ASK_AGAIN).then(|| Err(error.clone()))
    }
}

impl std::fmt::Debug for Envelope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Envelope")
    }
}

/// Whether two rows describe the same key.
fn is_same(row: &RootKeyGeneration, other: &RootKeyGeneration) -> bool {
    row.id == other.id && row.check_value == other.check_value
}

/// Whether another generation may succeed after this error.
fn is_passed_over(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::RootKeyUnavailable | ErrorCode::RootKeyRefused)
}

fn untrusted() -> Error {
    Error::new(ErrorCode::IntegrityFailure, "rows of the store were altered; no root key generation can be trusted")
}

fn unavailable(generation: u32, provider: &str, cause: Option<&Error>) -> Error {
    match cause {
        Some(cause) => {
            let text = format!("generation {generation} of the root key ({provider}): {}", cause.message());
            Error::new(cause.code(), text)
        }
        None => {
            let text = format!(
                "generation {generation} of the root key ({provider}) is not configured for this process; add it to \
                 its configuration"
            );
            Error::new(ErrorCode::RootKeyUnavailable, text)
        }
    }
}

/// The error if none of the sources is the key of an active generation.
async fn none_opens(
    failures: Vec<(usize, Error)>,
    rows: &[RootKeyGeneration],
    sources: &[RootKeySource],
    crypto: &Arc<dyn Provider>,
) -> Error {
    for source in sources {
        for row in rows.iter().filter(|row| !row.is_active()) {
            if connect(source, row, crypto).await.is_ok() {
                let (generation, when) = (row.generation, row.retired_at.map(|at| at.to_string()).unwrap_or_default());
                let text = format!(
                    "the given root key is generation {generation}, which was retired at {when}; configure the \
                     root key that replaced it"
                );
                return Error::new(ErrorCode::WrongRootKey, text);
            }
        }
    }
    let mut failures = failures;
    match failures.len() {
        0 => Error::new(ErrorCode::StoreCorrupt, "the store has no active generation of the root key"),
        1 => failures.remove(0).1,
        _ => {
            let passing = failures.iter().find(|(_, error)| is_passed_over(error.code()));
            let code = passing.map_or(ErrorCode::WrongRootKey, |(_, error)| error.code());
            let each: Vec<String> =
                failures.iter().map(|(number, error)| format!("root key {number}: {}", error.message())).collect();
            Error::new(code, format!("none of the given root keys opens this store; {}", each.join("; ")))
        }
    }
}
