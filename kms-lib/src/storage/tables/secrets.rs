//! `root_keys` and `service_keys`: what is needed to recognise a root key, and the service's own wrapped keys.

use crate::storage::{Connection, Value};
use crate::types::error::Result;
use crate::types::time::Timestamp;

/// A generation of the root key, as far as it is stored: never the key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootKeyRow {
    /// Counted from 1.
    pub generation: u32,
    /// `local`, later `aws`.
    pub provider: String,
    /// How it is derived from what is given.
    pub derivation: String,
    /// The salt of the derivation.
    pub salt: Option<Vec<u8>>,
    /// A known text wrapped under it.
    pub check_value: Vec<u8>,
    /// When it was first used.
    pub created_at: Timestamp,
}

/// The newest generation.
pub async fn newest_root_key(connection: &mut dyn Connection) -> Result<Option<RootKeyRow>> {
    let sql = "SELECT generation, provider, derivation, salt, check_value, created_at FROM root_keys \
               ORDER BY generation DESC LIMIT 1";
    let mut found = None;
    connection
        .query(sql.into(), vec![], &mut |row| {
            found = Some(RootKeyRow {
                generation: row.unsigned(0)?,
                provider: row.text(1)?.to_owned(),
                derivation: row.text(2)?.to_owned(),
                salt: row.blob_opt(3)?.map(<[u8]>::to_vec),
                check_value: row.blob(4)?.to_vec(),
                created_at: row.time(5)?,
            });
            Ok(())
        })
        .await?;
    Ok(found)
}

/// Keeps a generation.
pub async fn insert_root_key(connection: &mut dyn Connection, root: &RootKeyRow) -> Result<()> {
    let sql = "INSERT INTO root_keys (generation, provider, derivation, salt, check_value, created_at) \
               VALUES (?, ?, ?, ?, ?, ?)";
    let values: Vec<Value> = vec![
        root.generation.into(),
        root.provider.as_str().into(),
        root.derivation.as_str().into(),
        root.salt.clone().into(),
        root.check_value.clone().into(),
        root.created_at.into(),
    ];
    connection.execute(sql.into(), values).await.map(drop)
}

/// Kind of the key that seals rows.
pub const INTEGRITY: &str = "integrity";
/// Kind of the keys that sign the log.
pub const SIGNING: &str = "signing";

/// A key of the service itself, wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceKeyRow {
    /// `integrity` or `signing`.
    pub kind: String,
    /// Counted from 1.
    pub number: u32,
    /// Of a signing key.
    pub public_key: Option<[u8; 32]>,
    /// The key under the root key. Empty once it was replaced: what is not needed any more cannot be stolen.
    pub wrapped: Vec<u8>,
    /// The first sequence number it is valid for.
    pub first_seq: u64,
}

/// The keys of the service, by kind and number.
pub async fn service_keys(connection: &mut dyn Connection) -> Result<Vec<ServiceKeyRow>> {
    let sql = "SELECT kind, number, public_key, wrapped, first_seq FROM service_keys ORDER BY kind, number";
    let mut found = Vec::new();
    connection
        .query(sql.into(), vec![], &mut |row| {
            found.push(ServiceKeyRow {
                kind: row.text(0)?.to_owned(),
                number: row.unsigned(1)?,
                public_key: row.hash_opt(2)?,
                wrapped: row.blob(3)?.to_vec(),
                first_seq: row.unsigned(4)?,
            });
            Ok(())
        })
        .await?;
    Ok(found)
}

/// Keeps a key of the service.
pub async fn insert_service_key(connection: &mut dyn Connection, key: &ServiceKeyRow) -> Result<()> {
    let sql = "INSERT INTO service_keys (kind, number, public_key, wrapped, first_seq) VALUES (?, ?, ?, ?, ?)";
    let values: Vec<Value> = vec![
        key.kind.as_str().into(),
        key.number.into(),
        key.public_key.as_ref().into(),
        key.wrapped.clone().into(),
        key.first_seq.into(),
    ];
    connection.execute(sql.into(), values).await.map(drop)
}

/// Keeps a new signing key, and erases the private part of those before it.
pub async fn replace_signing_key(connection: &mut dyn Connection, key: &ServiceKeyRow) -> Result<()> {
    let erase = "UPDATE service_keys SET wrapped = ? WHERE kind = ? AND number < ?";
    let values: Vec<Value> = vec![Vec::<u8>::new().into(), key.kind.as_str().into(), key.number.into()];
    connection.execute(erase.into(), values).await?;
    insert_service_key(connection, key).await
}

/// The number of the newest signing key.
pub async fn newest_signing_key(connection: &mut dyn Connection) -> Result<Option<u32>> {
    let sql = "SELECT number FROM service_keys WHERE kind = ? ORDER BY number DESC LIMIT 1";
    let mut newest = None;
    connection
        .query(sql.into(), vec![SIGNING.into()], &mut |row| {
            newest = Some(row.unsigned(0)?);
            Ok(())
        })
        .await?;
    Ok(newest)
}
