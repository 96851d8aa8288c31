//! Comparing the tables with the log: every row must be as the record of its last change left it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use tokio::task::coop::consume_budget;

use super::wrappings::{self, Materials};
use crate::audit::recorded::REMOVED;
use crate::audit::verify::{ChangedRow, Fault, Finding};
use crate::catalog::{Catalog, stands_for};
use crate::envelope::{RowSet, Seals, row};
use crate::storage::tables::entities;
use crate::storage::tables::sealed::Sealed;
use crate::storage::tables::{head, root_keys, secrets};
use crate::storage::{Connection, Store};
use crate::types::audit::{Head, hex};
use crate::types::credential::Credential;
use crate::types::error::{ErrorCode, Result};
use crate::types::grant::Grant;
use crate::types::ids::{KeyId, VersionId};
use crate::types::key::{Key, KeyVersion};
use crate::types::quarantine::{EntityTable, Quarantined};
use crate::types::root_key::{RootKeyGeneration, ServiceKey, ServiceKeyKind};
use crate::types::view::CatalogView;

/// A row of a table, with its digest and the result of checking its seal.
struct Present {
    table: &'static str,
    id: String,
    digest: String,
    revision: u64,
    sealed: bool,
    quarantined: bool,
    /// The row's part of the row commitment.
    fold: RowSet,
}

/// How often the tables are read if the integrity key is replaced in the meantime.
const TRIES: u32 = 4;

/// The table of the quarantine's entries.
const QUARANTINE: &str = "quarantine";
/// The table of the root key's generations.
const ROOT_KEYS: &str = "root_keys";
/// The table of the service's own keys.
const SERVICE_KEYS: &str = "service_keys";

/// Whether rows of this table cannot be quarantined individually.
fn is_needed_whole(table: &str) -> bool {
    table == QUARANTINE || table == ROOT_KEYS || table == SERVICE_KEYS
}

/// The result of comparing the tables with the log.
#[derive(Default)]
pub struct Compared {
    pub faults: Vec<Fault>,
    /// The rows that must be quarantined: sealed rows that do not match the log, and missing rows.
    pub altered: Vec<AlteredRow>,
    /// Whether the quarantine itself was altered, so that it no longer says which rows are unusable; or the generations
    /// of the root key or the service's own keys, so that it is unknown which of them are valid.
    pub is_beyond_quarantine: bool,
    /// The rows in quarantine that match the log again.
    pub restored: Vec<RestoredRow>,
    /// All other rows, without those in quarantine, folded with the entries of the quarantine.
    pub good: RowSet,
    /// The revision of the tables that were compared.
    pub revision: u64,
}

/// A row in quarantine that matches the log again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredRow {
    /// The table that has the row.
    pub table: &'static str,
    /// The row's own identifier, as a UUID.
    pub id: String,
    /// The SHA-256 of the row, in hexadecimal.
    pub digest: String,
}

/// A row that does not match the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlteredRow {
    /// The table that has the row.
    pub table: EntityTable,
    /// The row's own identifier.
    pub id: [u8; 16],
    /// The key that the row belongs to according to the log, for rows of `keys` and `key_versions`.
    pub key: Option<KeyId>,
    /// The key's name according to the log, for a row of `keys`.
    pub key_name: Option<String>,
}

fn altered(table: &str, id: &str, change: Option<&ChangedRow>) -> Option<AlteredRow> {
    let id = *id.parse::<VersionId>().ok()?.as_bytes();
    let table = EntityTable::parse(table).ok()?;
    let key = match table {
        EntityTable::Keys => Some(KeyId::from_bytes(id)),
        EntityTable::KeyVersions => change.and_then(|change| change.key),
        EntityTable::Grants | EntityTable::Credentials => None,
    };
    Some(AlteredRow { table, id, key, key_name: None })
}

/// Completes altered rows of `keys` with the names that the records of their creation gave them. Names never change.
fn name_keys(altered: &mut [AlteredRow], changed: &[ChangedRow]) {
    if altered.iter().all(|row| row.table != EntityTable::Keys) {
        return;
    }
    let named = changed.iter().filter_map(|change| Some((change.key?, change.key_name.as_ref()?)));
    let names: HashMap<KeyId, &String> = named.collect();
    for row in altered.iter_mut().filter(|row| row.table == EntityTable::Keys) {
        row.key_name = row.key.and_then(|key| names.get(&key)).map(|name| (*name).clone());
    }
}

/// Compares the tables with the changes recorded after record `from` up to `size`. None if these records are not enough
/// to find what is wrong.
pub(super) async fn compare(
    store: &Arc<dyn Store>,
    catalog: &Catalog,
    changed: &[ChangedRow],
    from: u64,
    size: u64,
) -> Result<Option<Compared>> {
    let mut recorded: HashMap<(&str, &str), &ChangedRow> = HashMap::new();
    for change in changed {
        recorded.insert((&change.table, &change.id), change);
        // With many rows, other tasks of this thread must not wait for all of them.
        consume_budget().await;
    }
    let Tables { present, faults, unreadable, whole, size: now, revision } = read(store, catalog).await?;
    // Without the earlier records, a row rolled back to an older state looks valid: only the row commitment reveals it.
    if from > 0 && !whole {
        return Ok(None);
    }
    let found = Compared { faults, revision, ..Compared::default() };
    let mut comparison = Comparison { recorded, repeated: repeated(&present).await, from, size, now, found };
    for row in &present {
        comparison.hold(row);
        consume_budget().await;
    }
    comparison.note_missing(catalog);
    name_keys(&mut comparison.found.altered, changed);
    comparison.note_unreadable(unreadable);
    Ok(Some(comparison.finish()))
}

/// The rows with good seals that a table has more than once, by table and id: damaged storage has a block twice, or its
/// index was bypassed.
async fn repeated(present: &[Present]) -> HashSet<(&str, &str)> {
    let (mut known, mut repeated) = (HashSet::new(), HashSet::new());
    for row in present.iter().filter(|row| row.sealed) {
        let place = (row.table, row.id.as_str());
        if !known.insert(place) {
            repeated.insert(place);
        }
        consume_budget().await;
    }
    repeated
}

/// A comparison in progress.
struct Comparison<'a> {
    /// The last recorded change of each row that was not found yet, by table and id.
    recorded: HashMap<(&'a str, &'a str), &'a ChangedRow>,
    /// The rows that exist more than once. None of them is good, since it depends on the statement which one is read.
    repeated: HashSet<(&'a str, &'a str)>,
    from: u64,
    size: u64,
    /// The number of records at the moment when the tables were read.
    now: u64,
    found: Compared,
}

impl<'a> Comparison<'a> {
    /// Compares a row with the record of its last change.
    fn hold(&mut self, row: &'a Present) {
        let change = self.recorded.remove(&(row.table, row.id.as_str()));
        // Sealed rows that changed after the verified head belong to the next verification, if the log has advanced in
        // the meantime; otherwise they come from a part of the log that was truncated.
        let is_later = row.revision > self.size && row.revision <= self.now;
        let is_repeated = self.repeated.contains(&(row.table, row.id.as_str()));
        let fault = match change {
            Some(change) if is_repeated => mismatch(row, change),
            None if is_repeated => without_record(row),
            // No record that was read confirms a row in quarantine.
            _ if row.sealed && is_later && row.quarantined => return,
            _ if row.sealed && is_later => return self.keep(row),
            Some(change) if change.digest == row.digest && row.sealed => return self.keep(row),
            Some(change) => {
                // Only the log decides whether a row in quarantine can be released: its seal may be from before the
                // integrity key was replaced.
                if change.digest == row.digest && row.quarantined {
                    self.keep(row);
                }
                mismatch(row, change)
            }
            // The row was verified earlier and has not changed since.
            None if self.from > 0 && row.sealed && row.revision <= self.from => return self.keep(row),
            None => without_record(row),
        };
        // A surplus row without a valid seal is not used anywhere.
        if row.sealed || change.is_some() {
            self.found.is_beyond_quarantine |= is_needed_whole(row.table);
            if !row.quarantined {
                self.found.altered.extend(altered(row.table, &row.id, change));
            }
        }
        self.found.faults.push(fault);
    }

    /// Notes that a row matches the log.
    fn keep(&mut self, row: &Present) {
        if row.quarantined {
            let restored = RestoredRow { table: row.table, id: row.id.clone(), digest: row.digest.clone() };
            self.found.restored.push(restored);
        } else {
            self.found.good.combine(&row.fold);
        }
    }

    /// Notes rows that a record created and that do not exist.
    fn note_missing(&mut self, catalog: &Catalog) {
        let snapshot = catalog.snapshot();
        for change in self.recorded.values().filter(|change| change.digest != REMOVED) {
            self.found.is_beyond_quarantine |= is_needed_whole(&change.table);
            let missing = altered(&change.table, &change.id, Some(change));
            self.found.altered.extend(missing.filter(|row| !snapshot.is_quarantined(row.table, row.id)));
            let finding = Finding::RowMissing { table: change.table.clone(), id: change.id.clone() };
            self.found.faults.push(Fault { seq: change.seq, finding });
        }
    }

    /// Notes unreadable rows: one that a record names is reported as missing, others as surplus.
    fn note_unreadable(&mut self, unreadable: BTreeMap<&'static str, u64>) {
        for (table, count) in unreadable {
            let is_missing = |change: &&&ChangedRow| change.table == table && change.digest != REMOVED;
            let missing = self.recorded.values().filter(is_missing).count() as u64;
            if let Some(count) = count.checked_sub(missing).filter(|surplus| *surplus > 0) {
                self.found.faults.push(Fault { seq: 0, finding: Finding::SurplusRows { table: table.into(), count } });
            }
        }
    }

    fn finish(mut self) -> Compared {
        let mut known = HashSet::new();
        self.found.altered.retain(|row| known.insert((row.table, row.id)));
        self.found.faults.sort_by_key(|fault| fault.seq);
        self.found
    }
}

fn mismatch(row: &Present, change: &ChangedRow) -> Fault {
    Fault { seq: change.seq, finding: Finding::RowMismatch { table: row.table.into(), id: row.id.clone() } }
}

fn without_record(row: &Present) -> Fault {
    Fault { seq: row.revision, finding: Finding::RowWithoutRecord { table: row.table.into(), id: row.id.clone() } }
}

/// The tables as they are at one moment.
struct Tables {
    present: Vec<Present>,
    /// The faults of stored material.
    faults: Vec<Fault>,
    /// The number of unreadable rows, by table.
    unreadable: BTreeMap<&'static str, u64>,
    /// Whether all rows together match the row commitment of the head of that moment.
    whole: bool,
    /// The number of records at that moment.
    size: u64,
    /// The revision at that moment.
    revision: u64,
}

/// All rows of the tables that the log covers.
struct Rows {
    keys: Vec<Sealed<Key>>,
    versions: Vec<Sealed<KeyVersion>>,
    grants: Vec<Sealed<Grant>>,
    credentials: Vec<Sealed<Credential>>,
    quarantine: Vec<Sealed<Quarantined>>,
    root_keys: Vec<Sealed<RootKeyGeneration>>,
    service_keys: Vec<Sealed<ServiceKey>>,
    materials: Materials,
    head: Option<Head>,
}

impl Rows {
    /// The number of the newest integrity key.
    fn integrity_key(&self) -> Option<u32> {
        let keys = self.service_keys.iter().filter_map(|sealed| sealed.row.as_ref().ok());
        keys.filter(|key| key.kind == ServiceKeyKind::Integrity).map(|key| key.number).max()
    }
}

async fn read_rows(connection: &mut dyn Connection) -> Result<Rows> {
    Ok(Rows {
        keys: entities::keys_since(connection, None).await?,
        versions: entities::versions_since(connection, None).await?,
        grants: entities::grants_since(connection, None).await?,
        credentials: entities::credentials_since(connection, None).await?,
        quarantine: entities::quarantined_since(connection, None).await?,
        root_keys: root_keys::since(connection, None).await?,
        service_keys: secrets::since(connection, None).await?,
        materials: wrappings::read(connection).await?,
        head: head::read(connection).await?,
    })
}

async fn read(store: &Arc<dyn Store>, catalog: &Catalog) -> Result<Tables> {
    let mut tries = 0;
    loop {
        let mut connection = store.long_reader().await?;
        connection.begin_read().await?;
        let read = read_rows(connection.as_mut()).await;
        connection.rollback().await?;
        drop(connection);
        let (rows, seals) = (read?, catalog.seals());
        tries += 1;
        if rows.integrity_key() == Some(seals.number()) || tries == TRIES {
            return Ok(describe(rows, &seals).await);
        }
        // Another process has replaced the integrity key; or a forged row says so, which the comparison then finds.
        match catalog.catch_up_seals().await {
            Err(error) if matches!(error.code(), ErrorCode::IntegrityFailure | ErrorCode::StoreCorrupt) => {
                return Ok(describe(rows, &seals).await);
            }
            caught_up => caught_up.map(drop)?,
        }
    }
}

/// Checks the rows against their seals.
async fn describe(rows: Rows, seals: &Seals) -> Tables {
    let Rows { keys, versions, grants, credentials, quarantine, root_keys, service_keys, materials, head } = rows;
    let faults = wrappings::faults(&materials, (&keys, &versions), &root_keys, &service_keys, seals).await;
    let quarantined = active(&quarantine, seals);
    let mut rows = Collected { seals, quarantined, present: Vec::new(), unreadable: BTreeMap::new() };
    rows.collect("keys", keys, |key| (*key.id.as_bytes(), Ok(row::key(key)), key.revision)).await;
    rows.collect("key_versions", versions, |version| {
        (*version.id.as_bytes(), Ok(row::version(version)), version.revision)
    })
    .await;
    rows.collect("grants", grants, |grant| (*grant.id.as_bytes(), row::grant(grant), grant.revision)).await;
    rows.collect("credentials", credentials, |credential| {
        (*credential.id.as_bytes(), Ok(row::credential(credential)), credential.revision)
    })
    .await;
    rows.collect(QUARANTINE, quarantine, |entry| (*entry.id.as_bytes(), Ok(row::quarantined(entry)), entry.revision))
        .await;
    rows.collect(ROOT_KEYS, root_keys, |root| (*root.id.as_bytes(), Ok(row::root_key(root)), root.revision)).await;
    rows.collect(SERVICE_KEYS, service_keys, |key| (*key.id.as_bytes(), Ok(row::service_key(key)), key.revision)).await;
    let mut all = RowSet::default();
    let used = rows.present.iter().filter(|row| row.sealed && !row.quarantined);
    used.for_each(|row| all.combine(&row.fold));
    let whole = head.as_ref().is_some_and(|head| stands_for(seals, head, &all));
    let Collected { present, unreadable, .. } = rows;
    let (size, revision) = head.map_or((0, 0), |head| (head.seq, head.revision));
    Tables { present, faults, unreadable, whole, size, revision }
}

/// The rows in quarantine, as its sealed entries say.
fn active(entries: &[Sealed<Quarantined>], seals: &Seals) -> HashSet<(&'static str, [u8; 16])> {
    let sealed = entries.iter().filter_map(|sealed| {
        let entry = sealed.row.as_ref().ok()?;
        seals.is_row_sealed(&row::quarantined(entry), &sealed.seal, entry.revision).then_some(entry)
    });
    sealed.filter(|entry| entry.is_active()).map(|entry| (entry.table.as_str(), entry.row)).collect()
}

struct Collected<'a> {
    seals: &'a Seals,
    quarantined: HashSet<(&'static str, [u8; 16])>,
    present: Vec<Present>,
    unreadable: BTreeMap<&'static str, u64>,
}

impl Collected<'_> {
    async fn collect<T>(
        &mut self,
        table: &'static str,
        rows: Vec<Sealed<T>>,
        describe: impl Fn(&T) -> ([u8; 16], Result<Vec<u8>>, u64),
    ) {
        let seals = self.seals;
        for sealed in rows {
            consume_budget().await;
            let Ok((id, Ok(bytes), revision)) = sealed.row.as_ref().map(&describe) else {
                *self.unreadable.entry(table).or_default() += 1;
                continue;
            };
            self.present.push(Present {
                table,
                id: VersionId::from_bytes(id).to_string(),
                digest: hex(&row::digest(&bytes)),
                revision,
                sealed: seals.is_row_sealed(&bytes, &sealed.seal, revision),
                quarantined: self.quarantined.contains(&(table, id)),
                fold: RowSet::of(seals, &bytes),
            });
        }
    }
}
