//! Rows that do not match the log: found when a store is opened, and kept out of use from then on.

use std::sync::Arc;

use crate::catalog::Catalog;
use crate::ledger::Signer;
use crate::lifecycle::NewQuarantined;
use crate::session::{Session, Shared};
use crate::storage::Store;
use crate::types::actor::Actor;
use crate::types::error::{ErrorCode, Result};
use crate::types::ids::{KeyId, QuarantineId};
use crate::types::quarantine::EntityTable;
use crate::types::view::CatalogView;
use crate::verification::{AlteredRow, Compared, Verifier};
use crate::workers::Workers;

/// The maximum number of quarantined rows. They are written with one record in one transaction.
const QUARANTINED: usize = 1_000;

/// Determines by the log which rows were altered, and removes them from the catalog. If the log was altered too, no row
/// is used. `StoreContended` if rows changed meanwhile.
pub(super) async fn set_aside(
    store: &Arc<dyn Store>,
    catalog: &Catalog,
    signer: &Signer,
) -> Result<Vec<NewQuarantined>> {
    let workers = &Workers::default();
    let found = (Verifier { store, catalog, signer, workers, kept: None }).compare_rows().await?;
    let can_tell = |found: &Compared| !found.is_beyond_quarantine && found.altered.len() <= QUARANTINED;
    let Some(found) = found.filter(can_tell) else {
        let why = "the log, the quarantine, the root key generations or more than";
        refuse_all(catalog, &format!("{why} {QUARANTINED} rows were altered"));
        return Ok(Vec::new());
    };
    let altered: Vec<NewQuarantined> = found.altered.iter().map(|row| new_entry(catalog, row)).collect();
    match catalog.set_aside(&altered, &found.good, found.revision) {
        Err(error) if error.code() == ErrorCode::IntegrityFailure => {
            refuse_all(catalog, "rows of the store contradict each other");
            return Ok(Vec::new());
        }
        set_aside => set_aside?,
    }
    for row in &altered {
        tracing::error!(table = %row.table, id = %KeyId::from_bytes(row.row), "a row was altered and is quarantined");
    }
    Ok(altered)
}

fn refuse_all(catalog: &Catalog, why: &str) {
    tracing::error!("{why}; no key, grant or token is used; verify the log, and restore a backup");
    catalog.refuse_all();
}

/// Builds a quarantine entry. The log says which key a row belongs to and under which name; a row that no record covers
/// is described by its own contents if its seal is good.
fn new_entry(catalog: &Catalog, row: &AlteredRow) -> NewQuarantined {
    let snapshot = catalog.snapshot();
    let (mut key, mut key_name) = (row.key, row.key_name.clone());
    match row.table {
        EntityTable::Keys if key_name.is_none() => {
            key_name = snapshot.key(KeyId::from_bytes(row.id)).map(|key| key.name.clone());
        }
        EntityTable::KeyVersions if key.is_none() => {
            key = snapshot.versions().find(|version| *version.id.as_bytes() == row.id).map(|version| version.key_id);
        }
        _ => {}
    }
    NewQuarantined { id: QuarantineId::random(), table: row.table, row: row.id, key, key_name }
}

/// Writes the quarantine with its record, before any other change.
pub(super) async fn commit(shared: &Arc<Shared>, altered: Vec<NewQuarantined>) -> Result<()> {
    let session = Session::new(Arc::clone(shared), Actor::internal("system"));
    session.quarantine(altered).await?;
    shared.catalog.end_quarantining();
    Ok(())
}
