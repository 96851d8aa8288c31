//! `service_keys`: the service's own keys, with their wrappings.

use super::wrappings::{self, NewRow};
use crate::storage::{Connection, Value, corrupt};
use crate::types::error::Result;
use crate::types::ids::ServiceKeyId;
use crate::types::root_key::{ServiceKeyKind, Wrapped};

/// A key of the service itself, wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceKeyRow {
    /// Whether the key seals rows or signs the log.
    pub kind: ServiceKeyKind,
    /// Counted from 1.
    pub number: u32,
    /// The subject of the key's wrappings.
    pub id: ServiceKeyId,
    /// Of a signing key.
    pub public_key: Option<[u8; 32]>,
    /// Derived from the key ([`crate::envelope::service_fingerprint`]).
    pub fingerprint: [u8; 32],
    /// The key, wrapped. Nothing once it was replaced: what is not needed any more cannot be stolen.
    pub wrapped: Vec<Wrapped>,
    /// The first sequence number it is valid for.
    pub first_seq: u64,
}

/// The keys of the service, by kind and number.
pub async fn service_keys(connection: &mut dyn Connection) -> Result<Vec<ServiceKeyRow>> {
    let sql = "SELECT s.kind, s.number, s.id, s.public_key, s.fingerprint, s.first_seq, w.generation, w.wrapped \
               FROM service_keys s LEFT JOIN wrappings w ON w.subject = s.id ORDER BY s.kind, s.number, w.generation";
    let mut found: Vec<ServiceKeyRow> = Vec::new();
    connection
        .query(sql.into(), vec![], &mut |row| {
            let id = ServiceKeyId::from_slice(row.blob(2)?)?;
            if found.last().is_none_or(|last| last.id != id) {
                found.push(ServiceKeyRow {
                    kind: ServiceKeyKind::parse(row.text(0)?).map_err(|e| corrupt(e.message()))?,
                    number: row.unsigned(1)?,
                    id,
                    public_key: row.hash_opt(3)?,
                    fingerprint: row.hash(4)?,
                    wrapped: Vec::new(),
                    first_seq: row.unsigned(5)?,
                });
            }
            if let (Some(generation), Some(last)) = (row.unsigned_opt(6)?, found.last_mut()) {
                last.wrapped.push(Wrapped { generation, bytes: row.blob(7)?.to_vec() });
            }
            Ok(())
        })
        .await?;
    Ok(found)
}

/// Keeps a key of the service, with its wrappings and their seals.
pub async fn insert_service_key(
    connection: &mut dyn Connection,
    key: &ServiceKeyRow,
    seals: &[[u8; 32]],
) -> Result<()> {
    let sql =
        "INSERT INTO service_keys (kind, number, id, public_key, fingerprint, first_seq) VALUES (?, ?, ?, ?, ?, ?)";
    let values: Vec<Value> = vec![
        key.kind.as_str().into(),
        key.number.into(),
        key.id.as_bytes().into(),
        key.public_key.as_ref().into(),
        (&key.fingerprint).into(),
        key.first_seq.into(),
    ];
    connection.execute(sql.into(), values).await?;
    let wrapped = key.wrapped.iter().zip(seals);
    let rows =
        wrapped.map(|(wrapped, seal)| NewRow { subject: *key.id.as_bytes(), wrapped: wrapped.clone(), seal: *seal });
    connection.execute_all(wrappings::insert(rows.collect())).await.map(drop)
}

/// Keeps a new key of the service, and erases the wrappings of those of its kind before it.
pub async fn replace_service_key(
    connection: &mut dyn Connection,
    key: &ServiceKeyRow,
    seals: &[[u8; 32]],
) -> Result<()> {
    let erase = "DELETE FROM wrappings WHERE subject IN (SELECT id FROM service_keys WHERE kind = ? AND number < ?)";
    connection.execute(erase.into(), vec![key.kind.as_str().into(), key.number.into()]).await?;
    insert_service_key(connection, key, seals).await
}

/// The number of the newest signing key.
pub async fn newest_signing_key(connection: &mut dyn Connection) -> Result<Option<u32>> {
    let sql = "SELECT number FROM service_keys WHERE kind = ? ORDER BY number DESC LIMIT 1";
    let mut newest = None;
    connection
        .query(sql.into(), vec![ServiceKeyKind::Signing.as_str().into()], &mut |row| {
            newest = Some(row.unsigned(0)?);
            Ok(())
        })
        .await?;
    Ok(newest)
}
