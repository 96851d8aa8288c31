//! Reads the rows that changed since a revision, and checks their seals.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::material::run_blocking;
use super::snapshot::{Folded, Snapshot};
use crate::envelope::{RowSet, Seals, row};
use crate::storage::Connection;
use crate::storage::tables::entities;
use crate::storage::tables::sealed::Sealed;
use crate::storage::tables::{root_keys, secrets};
use crate::types::credential::Credential;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::grant::Grant;
use crate::types::ids::CredentialId;
use crate::types::key::{Key, KeyVersion, VersionState};
use crate::types::quarantine::Quarantined;
use crate::types::root_key::{RootKeyGeneration, ServiceKey, ServiceKeyState};

/// Number of rows per thread. Up to this number, rows are checked on the thread that reads them.
const CHUNK: usize = 2_048;

/// Rows with good seals, in pieces, so that their memory is freed while they are applied.
type Chunks<T> = Vec<Vec<Folded<T>>>;

/// The rows that changed since a revision, with good seals.
pub(super) struct Delta {
    /// Whether these are all rows.
    is_first: bool,
    quarantined: Chunks<Quarantined>,
    root_keys: Chunks<RootKeyGeneration>,
    service_keys: Chunks<ServiceKey>,
    keys: Chunks<Key>,
    versions: Chunks<KeyVersion>,
    grants: Chunks<Grant>,
    credentials: Chunks<Credential>,
}

/// Reads the rows that changed after `known`. A row without a good seal is skipped: if it replaces a genuine row, the
/// row commitment does not match; if it is an extra row, it is not used.
pub(super) async fn read(connection: &mut dyn Connection, seals: &Arc<Seals>, known: u64) -> Result<Delta> {
    // The first read is of all rows, including those with a revision that no record has.
    let known = Some(known).filter(|known| *known > 0);
    // Rows are checked on all cores while the next ones are read.
    let quarantined = entities::quarantined_since(connection, known).await?;
    let quarantined =
        Checking::start(quarantined, |row| (Ok(row::quarantined(row)), row.revision), seals, "quarantine");
    let root_keys = root_keys::since(connection, known).await?;
    let root_keys = Checking::start(root_keys, |row| (Ok(row::root_key(row)), row.revision), seals, "root_keys");
    let service_keys = secrets::since(connection, known).await?;
    let service_keys =
        Checking::start(service_keys, |row| (Ok(row::service_key(row)), row.revision), seals, "service_keys");
    let mut keys = Checking::new(|row| (Ok(row::key(row)), row.revision), seals, "keys");
    entities::each_key_since(connection, known, &mut |row| keys.push(row)).await?;
    let mut versions = Checking::new(|row| (Ok(row::version(row)), row.revision), seals, "key_versions");
    entities::each_version_since(connection, known, &mut |row| versions.push(row)).await?;
    let mut grants = Checking::new(|row| (row::grant(row), row.revision), seals, "grants");
    entities::each_grant_since(connection, known, &mut |row| grants.push(row)).await?;
    let mut credentials = Checking::new(|row| (Ok(row::credential(row)), row.revision), seals, "credentials");
    entities::each_credential_since(connection, known, &mut |row| credentials.push(row)).await?;
    Ok(Delta {
        is_first: known.is_none(),
        quarantined: quarantined.finish().await?,
        root_keys: root_keys.finish().await?,
        service_keys: service_keys.finish().await?,
        keys: keys.finish().await?,
        versions: versions.finish().await?,
        grants: grants.finish().await?,
        credentials: credentials.finish().await?,
    })
}

/// A function that returns the bytes of a row and its revision.
type Describe<T> = fn(&T) -> (Result<Vec<u8>>, u64);

/// Rows of one table whose seals are being checked.
struct Checking<T> {
    describe: Describe<T>,
    seals: Arc<Seals>,
    table: &'static str,
    waiting: Vec<Sealed<T>>,
    chunks: Vec<JoinHandle<Result<Vec<Folded<T>>>>>,
}

impl<T: Send + 'static> Checking<T> {
    fn new(describe: Describe<T>, seals: &Arc<Seals>, table: &'static str) -> Self {
        Self { describe, seals: Arc::clone(seals), table, waiting: Vec::new(), chunks: Vec::new() }
    }

    fn start(rows: Vec<Sealed<T>>, describe: Describe<T>, seals: &Arc<Seals>, table: &'static str) -> Self {
        let mut checking = Self::new(describe, seals, table);
        rows.into_iter().for_each(|row| checking.push(row));
        checking
    }

    fn push(&mut self, row: Sealed<T>) {
        self.waiting.push(row);
        if self.waiting.len() == CHUNK {
            let (describe, seals, table) = (self.describe, Arc::clone(&self.seals), self.table);
            let chunk = std::mem::take(&mut self.waiting);
            self.chunks.push(tokio::spawn(run_blocking(move || Ok(check(chunk, describe, &seals, table)))));
        }
    }

    /// Returns the rows with good seals, chunk by chunk.
    async fn finish(self) -> Result<Chunks<T>> {
        let mut good = Vec::with_capacity(self.chunks.len() + 1);
        for chunk in self.chunks {
            let ended = || Error::new(ErrorCode::Internal, "the check of the rows ended unexpectedly");
            good.push(chunk.await.unwrap_or_else(|_| Err(ended()))?);
        }
        good.push(check(self.waiting, self.describe, &self.seals, self.table));
        Ok(good)
    }
}

fn check<T>(rows: Vec<Sealed<T>>, describe: Describe<T>, seals: &Seals, table: &str) -> Vec<Folded<T>> {
    let folded = |row: &T, seal: &[u8]| {
        let (bytes, revision) = describe(row);
        let bytes = bytes.ok().filter(|bytes| seals.is_row_sealed(bytes, seal, revision))?;
        Some(RowSet::of(seals, &bytes))
    };
    let mut good = Vec::with_capacity(rows.len());
    for sealed in rows {
        match sealed.row.ok().and_then(|row| folded(&row, &sealed.seal).map(|fold| Folded { row, fold })) {
            Some(row) => good.push(row),
            None => {
                let id = sealed.id.map(uuid::Uuid::from_bytes);
                tracing::error!(table, ?id, "a row has no valid seal and is not used");
            }
        }
    }
    good
}

impl Delta {
    /// Whether material is erased, or wrappings are because a generation of the root key was retired or a key of the
    /// service was replaced.
    pub(super) fn has_erased(&self) -> bool {
        self.versions.iter().flatten().any(|version| version.row.state == VersionState::Destroyed)
            || self.keys.iter().flatten().any(|key| key.row.is_erased())
            || self.root_keys.iter().flatten().any(|root| !root.row.is_active())
            || self.service_keys.iter().flatten().any(|key| key.row.state == ServiceKeyState::Replaced)
    }

    /// Applies the rows to the snapshot and advances it to `revision`. The quarantine comes first, because it decides
    /// which rows are ignored.
    pub(super) fn apply(self, snapshot: &mut Snapshot, revision: u64, seals: &Seals) {
        self.quarantined.into_iter().flatten().for_each(|entry| snapshot.put_quarantined(entry.row, seals));
        self.root_keys.into_iter().flatten().for_each(|root| snapshot.put_root_key(root.row, seals));
        self.service_keys.into_iter().flatten().for_each(|key| snapshot.put_service_key(key.row, seals));
        self.keys.into_iter().flatten().for_each(|key| snapshot.put_key(key, seals));
        self.versions.into_iter().flatten().for_each(|version| snapshot.put_version(version, seals));
        self.grants.into_iter().flatten().for_each(|grant| snapshot.put_grant(grant, seals));
        let oldest = self.credentials.iter().flatten().filter(|credential| credential.row.removal.is_some());
        let oldest: Vec<CredentialId> = oldest.map(|credential| credential.row.id).collect();
        self.credentials.into_iter().flatten().for_each(|credential| snapshot.put_credential(credential, seals));
        oldest.into_iter().for_each(|id| snapshot.note_oldest(id, self.is_first, seals));
        snapshot.advance(revision);
    }
}
