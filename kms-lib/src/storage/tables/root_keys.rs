//! Statements on `root_keys`: the generations of the root key.

use super::sealed::{Place, Sealed, select};
use crate::storage::{Connection, Row, Value, corrupt};
use crate::types::error::Result;
use crate::types::ids::RootKeyId;
use crate::types::root_key::{RootKeyGeneration, RootKeyProvider, RootKeyState};

pub(super) const ROOT_KEY: &str = "generation, provider, reference, derivation, salt, check_value, state, \
                                   compromised_at, closed_seq, created_at, retired_at, revision, seal, id";

/// Reads the generations that changed after a revision, or all of them, oldest first.
pub async fn since(connection: &mut dyn Connection, revision: Option<u64>) -> Result<Vec<Sealed<RootKeyGeneration>>> {
    let (condition, values) = match revision {
        Some(revision) => (" WHERE revision > ?", vec![revision.into()]),
        None => ("", vec![]),
    };
    let sql = format!("SELECT {ROOT_KEY} FROM root_keys{condition} ORDER BY generation");
    select(connection, sql.into(), values, Place { id: 13, seal: 12 }, read).await
}

/// Reads all readable generations, oldest first, before the integrity key that verifies their seals is known.
/// `StoreCorrupt` if there is none.
pub async fn unchecked(connection: &mut dyn Connection) -> Result<Vec<RootKeyGeneration>> {
    let rows: Vec<_> = since(connection, None).await?.into_iter().filter_map(|sealed| sealed.row.ok()).collect();
    if rows.is_empty() { Err(corrupt("the root key's check value is missing; restore a backup")) } else { Ok(rows) }
}

pub(super) fn values(root: &RootKeyGeneration, seal: [u8; 32]) -> Vec<Value> {
    vec![
        root.generation.into(),
        root.provider.as_str().into(),
        root.reference.clone().into(),
        root.derivation.as_str().into(),
        root.salt.clone().into(),
        root.check_value.clone().into(),
        root.state.as_str().into(),
        root.compromised_at.into(),
        root.closed_seq.into(),
        root.created_at.into(),
        root.retired_at.into(),
        root.revision.into(),
        (&seal).into(),
        root.id.as_bytes().into(),
    ]
}

fn read(row: &dyn Row) -> Result<RootKeyGeneration> {
    Ok(RootKeyGeneration {
        generation: row.unsigned(0)?,
        provider: RootKeyProvider::parse(row.text(1)?)?,
        reference: row.text_opt(2)?.map(str::to_owned),
        derivation: row.text(3)?.to_owned(),
        salt: row.blob_opt(4)?.map(<[u8]>::to_vec),
        check_value: row.blob(5)?.to_vec(),
        state: RootKeyState::parse(row.text(6)?)?,
        compromised_at: row.time_opt(7)?,
        closed_seq: row.unsigned_opt(8)?,
        created_at: row.time(9)?,
        retired_at: row.time_opt(10)?,
        revision: row.unsigned(11)?,
        id: RootKeyId::from_slice(row.blob(13)?)?,
    })
}
