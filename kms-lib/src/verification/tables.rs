//! Holding the tables against the log: every row as the record of its last change left it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::audit::verify::{ChangedRow, Fault, Finding};
use crate::catalog::Catalog;
use crate::envelope::{RowSet, row};
use crate::storage::Store;
use crate::storage::tables::entities::{self, Sealed};
use crate::storage::tables::head;
use crate::types::audit::hex;
use crate::types::error::Result;
use crate::types::grant::Grant;

/// What a row of a table says of itself.
struct Present {
    table: &'static str,
    id: String,
    digest: String,
    revision: u64,
    sealed: bool,
}

/// Compares the tables with what the records from `from` to `size` say they changed. None if these records are not enough
/// to find out what is wrong.
pub(super) async fn compare(
    store: &Arc<dyn Store>,
    catalog: &Catalog,
    changed: &[ChangedRow],
    from: u64,
    size: u64,
) -> Result<Option<Vec<Fault>>> {
    let mut recorded: HashMap<(&str, &str), &ChangedRow> = HashMap::new();
    for change in changed {
        recorded.insert((&change.table, &change.id), change);
    }
    let Tables { present, mut faults, unreadable, whole, size: now } = read(store, catalog).await?;
    // Without the records before, a row put back to an older state looks as it should: then only the whole tells.
    if from > 0 && !whole {
        return Ok(None);
    }
    for row in &present {
        // Rows that changed after the head that is verified belong to the next verification, if they are sealed, and if the
        // log has gone on meanwhile: else they say of themselves that they are from a future that was cut off.
        if row.sealed && row.revision > size && row.revision <= now {
            recorded.remove(&(row.table, row.id.as_str()));
            continue;
        }
        let fault = match recorded.remove(&(row.table, row.id.as_str())) {
            Some(change) if change.digest == row.digest && row.sealed => continue,
            Some(change) => {
                Fault { seq: change.seq, finding: Finding::RowMismatch { table: row.table.into(), id: row.id.clone() } }
            }
            // Verified earlier, and not changed since.
            None if from > 0 && row.sealed && row.revision <= from => continue,
            None => Fault {
                seq: row.revision,
                finding: Finding::RowWithoutRecord { table: row.table.into(), id: row.id.clone() },
            },
        };
        faults.push(fault);
    }
    // A row that cannot be read is reported as missing if a record names it. Others are surplus.
    for (table, count) in unreadable {
        let missing = recorded.keys().filter(|(of, _)| *of == table).count() as u64;
        if let Some(count) = count.checked_sub(missing).filter(|surplus| *surplus > 0) {
            faults.push(Fault { seq: 0, finding: Finding::SurplusRows { table: table.into(), count } });
        }
    }
    faults.extend(recorded.into_values().map(|change| Fault {
        seq: change.seq,
        finding: Finding::RowMissing { table: change.table.clone(), id: change.id.clone() },
    }));
    faults.sort_by_key(|fault| fault.seq);
    Ok(Some(faults))
}

/// The tables as they are at one moment.
struct Tables {
    present: Vec<Present>,
    /// What is wrong with stored material.
    faults: Vec<Fault>,
    /// Rows that cannot be read, by table.
    unreadable: BTreeMap<&'static str, u64>,
    /// Whether they are, as a whole, what the head of that moment stands for.
    whole: bool,
    /// The records of that moment.
    size: u64,
}

async fn read(store: &Arc<dyn Store>, catalog: &Catalog) -> Result<Tables> {
    let mut connection = store.reader().await?;
    connection.begin_read().await?;
    let read = async {
        let keys = entities::keys_since(connection.as_mut(), None).await?;
        let versions = entities::versions_since(connection.as_mut(), None).await?;
        let grants = entities::grants_since(connection.as_mut(), None).await?;
        let credentials = entities::credentials_since(connection.as_mut(), None).await?;
        let materials = entities::materials(connection.as_mut()).await?;
        let head = head::read(connection.as_mut()).await?;
        Ok::<_, crate::Error>((keys, versions, grants, credentials, materials, head))
    }
    .await;
    connection.rollback().await?;
    let (keys, versions, grants, credentials, materials, head) = read?;
    let mut collected = Collected::default();
    let mut faults = Vec::new();
    let set = &mut collected;
    collect("keys", keys, |key| (key.id.to_string(), Ok(row::key(key)), key.revision), catalog, set);
    let mut digests = HashMap::new();
    let versions = versions.into_iter().inspect(|sealed| {
        if let Ok(version) = &sealed.row {
            digests
                .insert(*version.id.as_bytes(), (version.material_digest, version.public_key_digest, version.revision));
        }
    });
    let versions: Vec<_> = versions.collect();
    collect(
        "key_versions",
        versions,
        |version| (version.id.to_string(), Ok(row::version(version)), version.revision),
        catalog,
        set,
    );
    let describe = |grant: &Grant| (grant.id.to_string(), row::grant(grant), grant.revision);
    collect("grants", grants, describe, catalog, set);
    collect(
        "credentials",
        credentials,
        |credential| (credential.id.to_string(), Ok(row::credential(credential)), credential.revision),
        catalog,
        set,
    );
    for (id, material, public_key) in materials {
        if let Some((expected, expected_public, revision)) = digests.get(&id)
            && (*expected != material || *expected_public != public_key)
        {
            let id = crate::types::ids::VersionId::from_bytes(id).to_string();
            faults.push(Fault { seq: *revision, finding: Finding::MaterialMismatch { id } });
        }
    }
    let Collected { present, rows, unreadable } = collected;
    let whole = head.as_ref().is_some_and(|head| catalog.stands_for(head, &rows));
    Ok(Tables { present, faults, unreadable, whole, size: head.map_or(0, |head| head.seq) })
}

/// The rows that were read.
#[derive(Default)]
struct Collected {
    present: Vec<Present>,
    /// Those with a good seal, as a whole.
    rows: RowSet,
    unreadable: BTreeMap<&'static str, u64>,
}

fn collect<T>(
    table: &'static str,
    rows: Vec<Sealed<T>>,
    describe: impl Fn(&T) -> (String, Result<Vec<u8>>, u64),
    catalog: &Catalog,
    collected: &mut Collected,
) {
    for sealed in rows {
        let Ok((id, Ok(bytes), revision)) = sealed.row.as_ref().map(&describe) else {
            *collected.unreadable.entry(table).or_default() += 1;
            continue;
        };
        let digest = hex(&row::digest(&bytes));
        let is_sealed = catalog.seals().is_sealed(&bytes, &sealed.seal);
        if is_sealed {
            collected.rows.toggle(catalog.seals(), &bytes);
        }
        collected.present.push(Present { table, id, digest, revision, sealed: is_sealed });
    }
}
