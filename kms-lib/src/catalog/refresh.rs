//! Reading what changed since a revision, and checking the seals of the rows.

use super::image::Image;
use crate::envelope::{Seals, row};
use crate::storage::Connection;
use crate::storage::tables::entities::{self, Sealed};
use crate::types::credential::Credential;
use crate::types::error::Result;
use crate::types::grant::Grant;
use crate::types::ids::KeyId;
use crate::types::key::{Key, KeyVersion};

/// Rows that changed, and keys of which a row cannot be trusted.
pub(super) struct Delta {
    keys: Vec<Key>,
    versions: Vec<KeyVersion>,
    grants: Vec<Grant>,
    credentials: Vec<Credential>,
    damaged: Vec<KeyId>,
}

/// Reads the rows that changed after `known`.
pub(super) async fn read(connection: &mut dyn Connection, seals: &Seals, known: u64) -> Result<Delta> {
    // At first everything, also rows that claim a revision no record ever had.
    let known = Some(known).filter(|known| *known > 0);
    let mut damaged = Vec::new();
    let refuse = |table: &str, id: Option<[u8; 16]>| {
        let id = id.map(KeyId::from_bytes);
        tracing::error!(table, ?id, "a row does not match its seal and is refused");
        id
    };
    let keys = checked(
        entities::keys_since(connection, known).await?,
        |key| Ok(row::key(key)),
        seals,
        |id| damaged.extend(refuse("keys", id)),
    );
    let versions = checked(
        entities::versions_since(connection, known).await?,
        |version| Ok(row::version(version)),
        seals,
        |id| damaged.extend(refuse("key_versions", id)),
    );
    let grants = checked(entities::grants_since(connection, known).await?, row::grant, seals, |id| {
        // A grant that cannot be trusted gives nothing.
        refuse("grants", id);
    });
    let credentials = entities::credentials_since(connection, known).await?;
    let credentials = checked(
        credentials,
        |c| Ok(row::credential(c)),
        seals,
        |id| {
            refuse("credentials", id);
        },
    );
    Ok(Delta { keys, versions, grants, credentials, damaged })
}

fn checked<T>(
    rows: Vec<Sealed<T>>,
    bytes: impl Fn(&T) -> Result<Vec<u8>>,
    seals: &Seals,
    mut refuse: impl FnMut(Option<[u8; 16]>),
) -> Vec<T> {
    let mut good = Vec::with_capacity(rows.len());
    for sealed in rows {
        match sealed.row {
            Ok(row) if bytes(&row).is_ok_and(|bytes| seals.is_sealed(&bytes, &sealed.seal)) => good.push(row),
            _ => refuse(sealed.id),
        }
    }
    good
}

impl Delta {
    /// Puts the rows into the image, which then is of `revision`.
    pub(super) fn apply(self, image: &mut Image, revision: u64, seals: &Seals) {
        self.keys.into_iter().for_each(|key| image.put_key(key, seals));
        self.versions.into_iter().for_each(|version| image.put_version(version, seals));
        self.grants.into_iter().for_each(|grant| image.put_grant(grant, seals));
        self.credentials.into_iter().for_each(|credential| image.put_credential(credential, seals));
        self.damaged.into_iter().for_each(|id| image.mark_damaged(id));
        image.advance(revision);
    }
}
