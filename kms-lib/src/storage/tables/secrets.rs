//! Statements on `service_keys`: the service's own keys.

use super::sealed::{Place, Sealed, select};
use crate::storage::{Connection, Row, Value, corrupt};
use crate::types::error::Result;
use crate::types::ids::ServiceKeyId;
use crate::types::root_key::{ServiceKey, ServiceKeyKind, ServiceKeyState, Wrapped};

pub(super) const SERVICE_KEY: &str = "kind, number, public_key, fingerprint, first_seq, state, revision, seal, id";

/// A key of the service itself with its wrappings; its seal is not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceKeyRow {
    /// The kind, state and revision of the key.
    pub key: ServiceKey,
    /// The wrapped key; empty after it was replaced, since a secret that is no longer needed must not be stolen.
    pub wrapped: Vec<Wrapped>,
}

/// Reads the keys of the service with their wrappings, by kind and number. Their seals are not verified, since the
/// integrity key is among them; [`since`] returns the keys with their seals.
pub async fn service_keys(connection: &mut dyn Connection) -> Result<Vec<ServiceKeyRow>> {
    let columns = SERVICE_KEY.replace(", ", ", s.");
    let sql = format!(
        "SELECT s.{columns}, w.generation, w.wrapped FROM service_keys s LEFT JOIN wrappings w ON w.subject = s.id \
         ORDER BY s.kind, s.number, w.generation"
    );
    let mut found: Vec<ServiceKeyRow> = Vec::new();
    connection
        .query(sql.into(), vec![], &mut |row| {
            let id = ServiceKeyId::from_slice(row.blob(8)?)?;
            if found.last().is_none_or(|last| last.key.id != id) {
                found.push(ServiceKeyRow { key: read(row)?, wrapped: Vec::new() });
            }
            if let (Some(generation), Some(last)) = (row.unsigned_opt(9)?, found.last_mut()) {
                last.wrapped.push(Wrapped { generation, bytes: row.blob(10)?.to_vec() });
            }
            Ok(())
        })
        .await?;
    Ok(found)
}

/// Reads the keys of the service that changed after a revision, or all of them.
pub async fn since(connection: &mut dyn Connection, revision: Option<u64>) -> Result<Vec<Sealed<ServiceKey>>> {
    let (condition, values) = match revision {
        Some(revision) => (" WHERE revision > ?", vec![revision.into()]),
        None => ("", vec![]),
    };
    let sql = format!("SELECT {SERVICE_KEY} FROM service_keys{condition} ORDER BY kind, number");
    select(connection, sql.into(), values, Place { id: 8, seal: 7 }, read).await
}

/// The number of the newest key of a kind.
pub async fn newest(connection: &mut dyn Connection, kind: ServiceKeyKind) -> Result<Option<u32>> {
    let sql = "SELECT number FROM service_keys WHERE kind = ? ORDER BY number DESC LIMIT 1";
    let mut newest = None;
    connection
        .query(sql.into(), vec![kind.as_str().into()], &mut |row| {
            newest = Some(row.unsigned(0)?);
            Ok(())
        })
        .await?;
    Ok(newest)
}

pub(super) fn values(key: &ServiceKey, seal: [u8; 32]) -> Vec<Value> {
    vec![
        key.kind.as_str().into(),
        key.number.into(),
        key.public_key.as_ref().into(),
        (&key.fingerprint).into(),
        key.first_seq.into(),
        key.state.as_str().into(),
        key.revision.into(),
        (&seal).into(),
        key.id.as_bytes().into(),
    ]
}

fn read(row: &dyn Row) -> Result<ServiceKey> {
    Ok(ServiceKey {
        kind: ServiceKeyKind::parse(row.text(0)?).map_err(|e| corrupt(e.message()))?,
        number: row.unsigned(1)?,
        public_key: row.hash_opt(2)?,
        fingerprint: row.hash(3)?,
        first_seq: row.unsigned(4)?,
        state: ServiceKeyState::parse(row.text(5)?).map_err(|e| corrupt(e.message()))?,
        revision: row.unsigned(6)?,
        id: ServiceKeyId::from_slice(row.blob(8)?)?,
    })
}
