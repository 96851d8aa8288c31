//! Reading what changed since a revision, and checking the seals of the rows.

use super::image::Image;
use crate::envelope::{Seals, row};
use crate::storage::Connection;
use crate::storage::tables::entities;
use crate::storage::tables::sealed::Sealed;
use crate::storage::tables::{root_keys, secrets};
use crate::types::credential::Credential;
use crate::types::error::Result;
use crate::types::grant::Grant;
use crate::types::key::{Key, KeyVersion, VersionState};
use crate::types::quarantine::Quarantined;
use crate::types::root_key::{RootKeyGeneration, ServiceKey, ServiceKeyState};

/// Rows that changed.
pub(super) struct Delta {
    quarantined: Vec<Quarantined>,
    root_keys: Vec<RootKeyGeneration>,
    service_keys: Vec<ServiceKey>,
    keys: Vec<Key>,
    versions: Vec<KeyVersion>,
    grants: Vec<Grant>,
    credentials: Vec<Credential>,
}

/// Reads the rows that changed after `known`. A row without a good seal is passed over: if it stands in the place of a
/// row that should be there, the row commitment tells; if not, it is surplus, and nothing uses it.
pub(super) async fn read(connection: &mut dyn Connection, seals: &Seals, known: u64) -> Result<Delta> {
    // At first everything, also rows that claim a revision no record ever had.
    let known = Some(known).filter(|known| *known > 0);
    let quarantined = entities::quarantined_since(connection, known).await?;
    let root_keys = root_keys::since(connection, known).await?;
    let service_keys = secrets::since(connection, known).await?;
    let keys = entities::keys_since(connection, known).await?;
    let versions = entities::versions_since(connection, known).await?;
    let grants = entities::grants_since(connection, known).await?;
    let credentials = entities::credentials_since(connection, known).await?;
    Ok(Delta {
        quarantined: checked("quarantine", quarantined, |row| (Ok(row::quarantined(row)), row.revision), seals),
        root_keys: checked("root_keys", root_keys, |row| (Ok(row::root_key(row)), row.revision), seals),
        service_keys: checked("service_keys", service_keys, |row| (Ok(row::service_key(row)), row.revision), seals),
        keys: checked("keys", keys, |row| (Ok(row::key(row)), row.revision), seals),
        versions: checked("key_versions", versions, |row| (Ok(row::version(row)), row.revision), seals),
        grants: checked("grants", grants, |row| (row::grant(row), row.revision), seals),
        credentials: checked("credentials", credentials, |row| (Ok(row::credential(row)), row.revision), seals),
    })
}

fn checked<T>(
    table: &str,
    rows: Vec<Sealed<T>>,
    describe: impl Fn(&T) -> (Result<Vec<u8>>, u64),
    seals: &Seals,
) -> Vec<T> {
    let is_good = |row: &T, seal: &[u8]| {
        let (bytes, revision) = describe(row);
        bytes.is_ok_and(|bytes| seals.is_row_sealed(&bytes, seal, revision))
    };
    let mut good = Vec::with_capacity(rows.len());
    for sealed in rows {
        match sealed.row {
            Ok(row) if is_good(&row, &sealed.seal) => good.push(row),
            _ => {
                let id = sealed.id.map(uuid::Uuid::from_bytes);
                tracing::error!(table, ?id, "a row without a good seal is not used");
            }
        }
    }
    good
}

impl Delta {
    /// Whether material of these versions is erased, or wrappings are, since a generation of the root key was retired
    /// or a key of the service was replaced.
    pub(super) fn has_erased(&self) -> bool {
        self.versions.iter().any(|version| version.state == VersionState::Destroyed)
            || self.keys.iter().any(Key::is_erased)
            || self.root_keys.iter().any(|root| !root.is_active())
            || self.service_keys.iter().any(|key| key.state == ServiceKeyState::Replaced)
    }

    /// Puts the rows into the image, which then is of `revision`. The quarantine comes first: it says which rows count.
    pub(super) fn apply(self, image: &mut Image, revision: u64, seals: &Seals) {
        self.quarantined.into_iter().for_each(|entry| image.put_quarantined(entry, seals));
        self.root_keys.into_iter().for_each(|root| image.put_root_key(root, seals));
        self.service_keys.into_iter().for_each(|key| image.put_service_key(key, seals));
        self.keys.into_iter().for_each(|key| image.put_key(key, seals));
        self.versions.into_iter().for_each(|version| image.put_version(version, seals));
        self.grants.into_iter().for_each(|grant| image.put_grant(grant, seals));
        self.credentials.into_iter().for_each(|credential| image.put_credential(credential, seals));
        image.advance(revision);
    }
}
