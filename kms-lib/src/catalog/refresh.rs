//! Reads the rows that changed since a revision, or all rows, and checks their seals.

use std::sync::Arc;

use super::checking::{CatalogRow, Checking};
use super::snapshot::{Folded, Snapshot};
use crate::envelope::{Seals, row};
use crate::storage::tables::{entities, root_keys, secrets};
use crate::storage::{Connection, StoreFuture};
use crate::types::credential::Credential;
use crate::types::error::Result;
use crate::types::grant::Grant;
use crate::types::ids::CredentialId;
use crate::types::key::{Key, KeyVersion, VersionState};
use crate::types::quarantine::Quarantined;
use crate::types::root_key::{RootKeyGeneration, ServiceKey, ServiceKeyState};

/// Rows of one table with good seals.
enum Rows {
    Quarantined(Vec<Folded<Quarantined>>),
    RootKeys(Vec<Folded<RootKeyGeneration>>),
    ServiceKeys(Vec<Folded<ServiceKey>>),
    Keys(Vec<Folded<Key>>),
    Versions(Vec<Folded<KeyVersion>>),
    Grants(Vec<Folded<Grant>>),
    Credentials(Vec<Folded<Credential>>),
}

/// The function that receives the rows with good seals, in the order in which they must be applied.
type EachRows<'c> = dyn FnMut(Rows) + Send + 'c;

/// The rows that changed since a revision, with good seals.
pub(super) struct Delta(Vec<Rows>);

impl Delta {
    /// Reads the rows that changed after `known`.
    pub(super) async fn read(connection: &mut dyn Connection, seals: &Arc<Seals>, known: u64) -> Result<Self> {
        let mut rows = Vec::new();
        read(connection, seals, Some(known), &mut |good| rows.push(good)).await?;
        Ok(Self(rows))
    }

    /// Whether material is erased, or wrappings are because a generation of the root key was retired or a key of the
    /// service was replaced.
    pub(super) fn has_erased(&self) -> bool {
        self.0.iter().any(Rows::has_erased)
    }

    /// Applies the rows to the snapshot and advances it to `revision`.
    pub(super) fn apply(self, snapshot: &mut Snapshot, revision: u64, seals: &Seals) {
        let mut oldest = Vec::new();
        self.0.into_iter().for_each(|rows| rows.apply(snapshot, seals, &mut oldest));
        oldest.into_iter().for_each(|id| snapshot.note_oldest(id, false, seals));
        snapshot.advance(revision);
    }
}

/// Reads all rows, including those with a revision that no record has, into a new snapshot of `revision`. Returns it
/// with the answer to [`Delta::has_erased`]. The rows are applied while the next ones are read, so that none of them is
/// in memory twice.
pub(super) async fn read_all(
    connection: &mut dyn Connection,
    seals: &Arc<Seals>,
    revision: u64,
) -> Result<(Snapshot, bool)> {
    let (mut snapshot, mut has_erased, mut oldest) = (Snapshot::default(), false, Vec::new());
    let mut apply = |rows: Rows| {
        has_erased |= rows.has_erased();
        rows.apply(&mut snapshot, seals, &mut oldest);
    };
    read(connection, seals, None, &mut apply).await?;
    oldest.into_iter().for_each(|id| snapshot.note_oldest(id, true, seals));
    snapshot.advance(revision);
    Ok((snapshot, has_erased))
}

/// Reads the rows that changed after `known`, or all rows. A row without a good seal is skipped: if it replaces a
/// genuine row, the row commitment does not match; if it is an extra row, it is not used.
///
/// The quarantine comes first, because it decides which rows are ignored.
fn read<'a>(
    connection: &'a mut dyn Connection,
    seals: &'a Arc<Seals>,
    known: Option<u64>,
    each: &'a mut EachRows<'_>,
) -> StoreFuture<'a, ()> {
    Box::pin(async move {
        let mut hand_on = |rows| each(Rows::Quarantined(rows));
        let mut checking = Checking::new(seals, &mut hand_on);
        entities::quarantined_since(connection, known).await?.into_iter().for_each(|row| checking.push(row));
        checking.finish().await?;
        let mut hand_on = |rows| each(Rows::RootKeys(rows));
        let mut checking = Checking::new(seals, &mut hand_on);
        root_keys::since(connection, known).await?.into_iter().for_each(|row| checking.push(row));
        checking.finish().await?;
        let mut hand_on = |rows| each(Rows::ServiceKeys(rows));
        let mut checking = Checking::new(seals, &mut hand_on);
        secrets::since(connection, known).await?.into_iter().for_each(|row| checking.push(row));
        checking.finish().await?;
        let mut hand_on = |rows| each(Rows::Keys(rows));
        let mut checking = Checking::new(seals, &mut hand_on);
        entities::each_key_since(connection, known, &mut |row| checking.push(row)).await?;
        checking.finish().await?;
        let mut hand_on = |rows| each(Rows::Versions(rows));
        let mut checking = Checking::new(seals, &mut hand_on);
        entities::each_version_since(connection, known, &mut |row| checking.push(row)).await?;
        checking.finish().await?;
        let mut hand_on = |rows| each(Rows::Grants(rows));
        let mut checking = Checking::new(seals, &mut hand_on);
        entities::each_grant_since(connection, known, &mut |row| checking.push(row)).await?;
        checking.finish().await?;
        let mut hand_on = |rows| each(Rows::Credentials(rows));
        let mut checking = Checking::new(seals, &mut hand_on);
        entities::each_credential_since(connection, known, &mut |row| checking.push(row)).await?;
        checking.finish().await
    })
}

/// Says how the bytes of a row are made, and of which table it is.
macro_rules! catalog_row {
    ($row:ty, $table:literal, $bytes:expr) => {
        impl CatalogRow for $row {
            const TABLE: &'static str = $table;
            fn bytes(&self) -> Result<Vec<u8>> {
                $bytes(self)
            }
            fn revision(&self) -> u64 {
                self.revision
            }
        }
    };
}

catalog_row!(Quarantined, "quarantine", |entry| Ok(row::quarantined(entry)));
catalog_row!(RootKeyGeneration, "root_keys", |root| Ok(row::root_key(root)));
catalog_row!(ServiceKey, "service_keys", |key| Ok(row::service_key(key)));
catalog_row!(Key, "keys", |key| Ok(row::key(key)));
catalog_row!(KeyVersion, "key_versions", |version| Ok(row::version(version)));
catalog_row!(Grant, "grants", row::grant);
catalog_row!(Credential, "credentials", |credential| Ok(row::credential(credential)));

impl Rows {
    fn has_erased(&self) -> bool {
        match self {
            Self::Keys(keys) => keys.iter().any(|key| key.row.is_erased()),
            Self::Versions(versions) => versions.iter().any(|version| version.row.state == VersionState::Destroyed),
            Self::RootKeys(roots) => roots.iter().any(|root| !root.row.is_active()),
            Self::ServiceKeys(keys) => keys.iter().any(|key| key.row.state == ServiceKeyState::Replaced),
            Self::Quarantined(_) | Self::Grants(_) | Self::Credentials(_) => false,
        }
    }

    /// Applies the rows. Adds the credentials before which others are removed to `oldest`, for
    /// [`Snapshot::note_oldest`] once all rows are applied.
    fn apply(self, snapshot: &mut Snapshot, seals: &Seals, oldest: &mut Vec<CredentialId>) {
        match self {
            Self::Quarantined(rows) => rows.into_iter().for_each(|entry| snapshot.put_quarantined(entry.row, seals)),
            Self::RootKeys(rows) => rows.into_iter().for_each(|root| snapshot.put_root_key(root.row, seals)),
            Self::ServiceKeys(rows) => rows.into_iter().for_each(|key| snapshot.put_service_key(key.row, seals)),
            Self::Keys(rows) => rows.into_iter().for_each(|key| snapshot.put_key(key, seals)),
            Self::Versions(rows) => rows.into_iter().for_each(|version| snapshot.put_version(version, seals)),
            Self::Grants(rows) => rows.into_iter().for_each(|grant| snapshot.put_grant(grant, seals)),
            Self::Credentials(rows) => {
                let ends = rows.iter().filter(|credential| credential.row.removal.is_some());
                oldest.extend(ends.map(|credential| credential.row.id));
                rows.into_iter().for_each(|credential| snapshot.put_credential(credential, seals));
            }
        }
    }
}
