//! Rows that are not what the log says of them: found when a store is opened, and kept out of use from then on.

use std::collections::HashMap;
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::keys::NewQuarantined;
use crate::ledger::Signer;
use crate::session::{Session, Shared};
use crate::storage::Store;
use crate::storage::tables::audit;
use crate::types::actor::Actor;
use crate::types::error::Result;
use crate::types::ids::{KeyId, QuarantineId};
use crate::types::quarantine::EntityTable;
use crate::types::view::View;
use crate::verification::{AlteredRow, Compared, Verifier};

/// Most rows that are quarantined: they are written with one record, in one transaction.
const QUARANTINED: usize = 1_000;

/// Finds out by the log which rows were altered, and takes them out of the catalog. If the log was altered too, no row is
/// used. `StoreContended` if rows have changed meanwhile.
pub(super) async fn set_aside(
    store: &Arc<dyn Store>,
    catalog: &Catalog,
    signer: &Signer,
) -> Result<Vec<NewQuarantined>> {
    let found = (Verifier { store, catalog, signer }).compare_rows().await?;
    let can_tell = |found: &Compared| !found.is_quarantine_altered && found.altered.len() <= QUARANTINED;
    let Some(found) = found.filter(can_tell) else {
        tracing::error!(
            "the log, the quarantine or more than {QUARANTINED} rows were altered: no key, grant or token is used; verify \
             the log, and restore a backup"
        );
        catalog.refuse_all();
        return Ok(Vec::new());
    };
    let keys = keys_of(store, catalog, &found.altered).await?;
    let new = |row: &AlteredRow| NewQuarantined {
        id: QuarantineId::random(),
        table: row.table,
        row: row.id,
        key: keys.get(&row.id).copied(),
        key_name: match row.table {
            EntityTable::Keys => catalog.image().key(KeyId::from_bytes(row.id)).map(|key| key.name.clone()),
            _ => None,
        },
    };
    let altered: Vec<NewQuarantined> = found.altered.iter().map(new).collect();
    catalog.set_aside(&altered, &found.good)?;
    for row in &altered {
        tracing::error!(table = %row.table, id = %KeyId::from_bytes(row.row), "a row was altered and is quarantined");
    }
    Ok(altered)
}

/// The key that each of these rows belongs to. A version that is missing is named by the record of its last change.
async fn keys_of(store: &Arc<dyn Store>, catalog: &Catalog, rows: &[AlteredRow]) -> Result<HashMap<[u8; 16], KeyId>> {
    let mut keys = HashMap::new();
    let mut connection = store.reader().await?;
    for row in rows {
        let key = match row.table {
            EntityTable::Keys => Some(KeyId::from_bytes(row.id)),
            EntityTable::KeyVersions => {
                let in_image = catalog.image().versions().find(|v| *v.id.as_bytes() == row.id).map(|v| v.key_id);
                match in_image {
                    Some(key) => Some(key),
                    None => recorded_key(connection.as_mut(), row.seq).await?,
                }
            }
            EntityTable::Grants | EntityTable::Credentials => None,
        };
        keys.extend(key.map(|key| (row.id, key)));
    }
    Ok(keys)
}

async fn recorded_key(connection: &mut dyn crate::storage::Connection, seq: u64) -> Result<Option<KeyId>> {
    let mut key = None;
    let mut read = |record: crate::types::audit::AuditRow| {
        key = record.key_id;
        Ok(())
    };
    audit::range(connection, seq, seq, &mut read).await?;
    Ok(key)
}

/// Writes the quarantine, with its record, before anything else is done.
pub(super) async fn commit(shared: &Arc<Shared>, altered: Vec<NewQuarantined>) -> Result<()> {
    let session = Session::new(Arc::clone(shared), Actor::internal("system"));
    session.quarantine(altered).await
}
