//! Statements on `keys`, `key_versions`, `grants`, `credentials` and `quarantine`. Rows are written with their seals;
//! the reader verifies them.

mod write;

pub use write::{RowSeals, reseal, write};

use super::each_row_of;
use super::sealed::{Place, Sealed, sealed, select};
use crate::storage::{Connection, Row, Value, corrupt};
use crate::types::actor::Role;
use crate::types::credential::Credential;
use crate::types::error::Result;
use crate::types::grant::{Grant, GrantScope, Grantor, Permission, StoredConditions};
use crate::types::ids::{CredentialId, GrantId, KeyId, QuarantineId, VersionId};
use crate::types::key::{
    AuditContext, DisabledReason, Key, KeyImport, KeyPurpose, KeyState, KeyType, KeyVersion, Material, Origin,
    VersionState,
};
use crate::types::quarantine::{EntityRow, EntityTable, Quarantined};
use crate::types::root_key::Wrapped;

const KEY: &str = "name, type, purpose, state, disabled_reason, state_before_deletion, rotation_period_days, \
                   grace_period_days, current_version, rotate_at, delete_at, deletion_wait_days, audit_context, \
                   metadata, import_source, import_final, created_at, revision, seal, id";
const VERSION: &str = "key_id, version, state, not_before, not_after, grace_period_days, created_at, origin, \
                       fingerprint, public_key_digest, revision, seal, id";
const GRANT: &str = "principal, role, key_id, allowed_ops, conditions, created_at, withdrawn_at, grantor, \
                     grantor_role, granted_through, cascaded, revision, seal, id";

const CREDENTIAL: &str =
    "principal, role, secret_hash, label, created_at, expires_at, withdrawn_at, removal, revision, seal, id";

const QUARANTINED: &str = "entity_table, row_id, key_id, key_name, created_at, released_at, revision, seal, id";

/// The maximum number of versions in one query.
const ASKED: usize = 64;

/// Reads the keys that changed after a revision, or all keys. A malformed row is returned as an error of its own and
/// does not hide the others.
pub async fn keys_since(connection: &mut dyn Connection, revision: Option<u64>) -> Result<Vec<Sealed<Key>>> {
    let mut rows = Vec::new();
    each_key_since(connection, revision, &mut |row| rows.push(row)).await?;
    Ok(rows)
}

/// Like [`keys_since`], one by one.
pub async fn each_key_since(
    connection: &mut dyn Connection,
    revision: Option<u64>,
    each: &mut (dyn FnMut(Sealed<Key>) + Send),
) -> Result<()> {
    let table = Table { select: &format!("SELECT {KEY} FROM \"keys\""), key: &[("id", 19)], id: 19, seal: 18 };
    since(connection, &table, revision, read_key, each).await
}

/// Reads the versions that changed after a revision.
pub async fn versions_since(connection: &mut dyn Connection, revision: Option<u64>) -> Result<Vec<Sealed<KeyVersion>>> {
    let mut rows = Vec::new();
    each_version_since(connection, revision, &mut |row| rows.push(row)).await?;
    Ok(rows)
}

/// Like [`versions_since`], one by one; usually those of one key in the order of their numbers.
pub async fn each_version_since(
    connection: &mut dyn Connection,
    revision: Option<u64>,
    each: &mut (dyn FnMut(Sealed<KeyVersion>) + Send),
) -> Result<()> {
    let select = format!("SELECT {VERSION} FROM key_versions");
    let table = Table { select: &select, key: &[("key_id", 0), ("version", 1)], id: 12, seal: 11 };
    since(connection, &table, revision, read_version, each).await
}

/// Returns the keys and numbers of at most `limit` versions that changed after a revision.
pub async fn versions_changed(
    connection: &mut dyn Connection,
    revision: u64,
    limit: usize,
) -> Result<Vec<(KeyId, u32)>> {
    let sql = "SELECT key_id, version FROM key_versions WHERE revision > ? LIMIT ?";
    let mut found = Vec::new();
    connection
        .query(sql.into(), vec![revision.into(), (limit as u64).into()], &mut |row| {
            found.push((KeyId::from_slice(row.blob(0)?)?, row.unsigned(1)?));
            Ok(())
        })
        .await?;
    Ok(found)
}

/// Reads the grants that changed after a revision.
pub async fn grants_since(connection: &mut dyn Connection, revision: Option<u64>) -> Result<Vec<Sealed<Grant>>> {
    let mut rows = Vec::new();
    each_grant_since(connection, revision, &mut |row| rows.push(row)).await?;
    Ok(rows)
}

/// Like [`grants_since`], one by one.
pub async fn each_grant_since(
    connection: &mut dyn Connection,
    revision: Option<u64>,
    each: &mut (dyn FnMut(Sealed<Grant>) + Send),
) -> Result<()> {
    let table = Table { select: &format!("SELECT {GRANT} FROM grants"), key: &[("id", 13)], id: 13, seal: 12 };
    since(connection, &table, revision, read_grant, each).await
}

/// Reads the credentials that changed after a revision.
pub async fn credentials_since(
    connection: &mut dyn Connection,
    revision: Option<u64>,
) -> Result<Vec<Sealed<Credential>>> {
    let mut rows = Vec::new();
    each_credential_since(connection, revision, &mut |row| rows.push(row)).await?;
    Ok(rows)
}

/// Like [`credentials_since`], one by one.
pub async fn each_credential_since(
    connection: &mut dyn Connection,
    revision: Option<u64>,
    each: &mut (dyn FnMut(Sealed<Credential>) + Send),
) -> Result<()> {
    let select = format!("SELECT {CREDENTIAL} FROM credentials");
    let table = Table { select: &select, key: &[("id", 10)], id: 10, seal: 9 };
    since(connection, &table, revision, read_credential, each).await
}

/// Reads the entries of the quarantine that changed after a revision.
pub async fn quarantined_since(
    connection: &mut dyn Connection,
    revision: Option<u64>,
) -> Result<Vec<Sealed<Quarantined>>> {
    let mut rows = Vec::new();
    let select = format!("SELECT {QUARANTINED} FROM quarantine");
    let table = Table { select: &select, key: &[("id", 8)], id: 8, seal: 7 };
    since(connection, &table, revision, read_quarantined, &mut |row| rows.push(row)).await?;
    Ok(rows)
}

/// How a table is read: the statement, the columns of a key in whose order it can be read in pages, each with its place
/// in the statement, and the places of the row's id and seal.
struct Table<'a> {
    select: &'a str,
    key: &'a [(&'a str, usize)],
    id: usize,
    seal: usize,
}

async fn since<T: Send>(
    connection: &mut dyn Connection,
    table: &Table<'_>,
    revision: Option<u64>,
    read: fn(&dyn Row) -> Result<T>,
    each: &mut (dyn FnMut(Sealed<T>) + Send),
) -> Result<()> {
    let place = Place { id: table.id, seal: table.seal };
    let mut keep = |row: &dyn Row| {
        each(sealed(row, &place, read));
        Ok(())
    };
    match revision {
        Some(revision) => {
            let sql = format!("{} WHERE revision > ?", table.select);
            connection.query(sql.into(), vec![revision.into()], &mut keep).await
        }
        // Without a revision, every row is read, whatever its revision column contains.
        None => each_row_of(connection, table.select, table.key, &mut keep).await,
    }
}

/// Reads a row by its own id.
pub async fn by_id(
    connection: &mut dyn Connection,
    table: EntityTable,
    id: [u8; 16],
) -> Result<Option<Sealed<EntityRow>>> {
    let values: Vec<Value> = vec![(&id).into()];
    let rows = match table {
        EntityTable::Keys => {
            let sql = format!("SELECT {KEY} FROM \"keys\" WHERE id = ?");
            let read = |row: &dyn Row| read_key(row).map(EntityRow::Key);
            select(connection, sql.into(), values, Place { id: 19, seal: 18 }, read).await
        }
        EntityTable::KeyVersions => {
            let sql = format!("SELECT {VERSION} FROM key_versions WHERE id = ?");
            let read = |row: &dyn Row| read_version(row).map(EntityRow::Version);
            select(connection, sql.into(), values, Place { id: 12, seal: 11 }, read).await
        }
        EntityTable::Grants => {
            let sql = format!("SELECT {GRANT} FROM grants WHERE id = ?");
            let read = |row: &dyn Row| read_grant(row).map(EntityRow::Grant);
            select(connection, sql.into(), values, Place { id: 13, seal: 12 }, read).await
        }
        EntityTable::Credentials => {
            let sql = format!("SELECT {CREDENTIAL} FROM credentials WHERE id = ?");
            let read = |row: &dyn Row| read_credential(row).map(EntityRow::Credential);
            select(connection, sql.into(), values, Place { id: 10, seal: 9 }, read).await
        }
    }?;
    Ok(rows.into_iter().next())
}

/// Reads a version's wrapped material and public key.
pub async fn material(connection: &mut dyn Connection, key: KeyId, version: u32) -> Result<Option<Material>> {
    let mut material: Option<Material> = None;
    let sql = "SELECT v.public_key_pem, w.generation, w.wrapped FROM key_versions v \
               LEFT JOIN wrappings w ON w.subject = v.id WHERE v.key_id = ? AND v.version = ?";
    connection
        .query(sql.into(), vec![key.as_bytes().into(), version.into()], &mut |row| {
            let public_key_pem = row.text_opt(0)?.map(str::to_owned);
            let material = material.get_or_insert(Material { wrapped: Vec::new(), public_key_pem });
            if let Some(generation) = row.unsigned_opt(1)? {
                material.wrapped.push(Wrapped { generation, bytes: row.blob(2)?.to_vec() });
            }
            Ok(())
        })
        .await?;
    Ok(material)
}

fn read_key(row: &dyn Row) -> Result<Key> {
    Ok(Key {
        name: row.text(0)?.to_owned(),
        key_type: KeyType::parse(row.text(1)?)?,
        purpose: KeyPurpose::parse(row.text(2)?)?,
        state: KeyState::parse(row.text(3)?)?,
        disabled_reason: row.text_opt(4)?.map(DisabledReason::parse).transpose()?,
        state_before_deletion: row.text_opt(5)?.map(KeyState::parse).transpose()?,
        rotation_period_days: row.unsigned_opt(6)?,
        grace_period_days: row.unsigned_opt(7)?,
        current_version: row.unsigned(8)?,
        rotate_at: row.time_opt(9)?,
        delete_at: row.time_opt(10)?,
        deletion_wait_days: row.unsigned_opt(11)?,
        audit_context: AuditContext::parse(row.text(12)?)?,
        metadata: row.text_opt(13)?.map(str::to_owned),
        import: match (row.text_opt(14)?, row.int(15)?) {
            (None, 0) => None,
            (Some(source), is_final @ (0 | 1)) => {
                Some(KeyImport { source: source.to_owned(), is_final: is_final == 1 })
            }
            _ => return Err(corrupt("a key's import state is not a known value")),
        },
        created_at: row.time(16)?,
        revision: row.unsigned(17)?,
        id: KeyId::from_slice(row.blob(19)?)?,
    })
}

fn read_version(row: &dyn Row) -> Result<KeyVersion> {
    Ok(KeyVersion {
        key_id: KeyId::from_slice(row.blob(0)?)?,
        version: row.unsigned(1)?,
        state: VersionState::parse(row.text(2)?)?,
        not_before: row.time_opt(3)?,
        not_after: row.time_opt(4)?,
        grace_period_days: row.unsigned_opt(5)?,
        created_at: row.time(6)?,
        origin: Origin::parse(row.text(7)?)?,
        fingerprint: row.hash(8)?,
        public_key_digest: row.hash_opt(9)?.map(Box::new),
        revision: row.unsigned(10)?,
        id: VersionId::from_slice(row.blob(12)?)?,
    })
}

fn read_credential(row: &dyn Row) -> Result<Credential> {
    Ok(Credential {
        principal: row.text(0)?.to_owned(),
        role: Role::parse(row.text(1)?)?,
        secret_hash: row.hash(2)?,
        label: row.text_opt(3)?.map(str::to_owned),
        created_at: row.time(4)?,
        expires_at: row.time_opt(5)?,
        withdrawn_at: row.time_opt(6)?,
        removal: row.unsigned_opt(7)?,
        revision: row.unsigned(8)?,
        id: CredentialId::from_slice(row.blob(10)?)?,
    })
}

fn read_grant(row: &dyn Row) -> Result<Grant> {
    Ok(Grant {
        principal: row.text(0)?.to_owned(),
        role: match row.text(1)? {
            "system" => return Err(corrupt("a grant for the role system")),
            role => Role::parse(role)?,
        },
        scope: GrantScope::parse(row.text(2)?)?,
        permissions: row.text(3)?.split(',').map(Permission::parse).collect::<Result<_>>()?,
        conditions: StoredConditions::from_json(row.text(4)?),
        created_at: row.time(5)?,
        withdrawn_at: row.time_opt(6)?,
        grantor: Grantor {
            principal: row.text(7)?.to_owned(),
            role: match row.text(8)? {
                "system" => Role::System,
                role => Role::parse(role)?,
            },
            through: grant_ids(row.blob(9)?)?,
        },
        cascade: match row.int(10)? {
            0 => false,
            1 => true,
            _ => return Err(corrupt("a grant's flag is neither 0 nor 1")),
        },
        revision: row.unsigned(11)?,
        id: GrantId::from_slice(row.blob(13)?)?,
    })
}

fn grant_ids(bytes: &[u8]) -> Result<Vec<GrantId>> {
    let (ids, rest) = bytes.as_chunks::<16>();
    if !rest.is_empty() {
        return Err(corrupt("the list of the grants that a grant came from is truncated"));
    }
    Ok(ids.iter().copied().map(GrantId::from_bytes).collect())
}

fn read_quarantined(row: &dyn Row) -> Result<Quarantined> {
    Ok(Quarantined {
        table: EntityTable::parse(row.text(0)?)?,
        row: row.blob(1)?.try_into().map_err(|_| corrupt("a quarantined row's id is not 16 bytes long"))?,
        key: row.blob_opt(2)?.map(KeyId::from_slice).transpose()?,
        key_name: row.text_opt(3)?.map(str::to_owned),
        created_at: row.time(4)?,
        released_at: row.time_opt(5)?,
        revision: row.unsigned(6)?,
        id: QuarantineId::from_slice(row.blob(8)?)?,
    })
}

/// Values of a version that the snapshot does not hold.
pub struct VersionFacts {
    /// The public key in PEM; none for AES.
    pub public_key_pem: Option<String>,
    /// The version's counters.
    pub usage: crate::types::key::VersionUsage,
}

/// Returns the facts of the newest versions of a key, by version.
pub async fn facts(
    connection: &mut dyn Connection,
    key: KeyId,
    limit: usize,
) -> Result<std::collections::HashMap<u32, VersionFacts>> {
    facts_where(
        connection,
        "v.key_id = ? ORDER BY v.version DESC LIMIT ?",
        vec![key.as_bytes().into(), (limit as u64).into()],
    )
    .await
}

/// Returns the facts of the versions of a key from `first` to `last`, both included.
pub async fn facts_between(
    connection: &mut dyn Connection,
    key: KeyId,
    first: u32,
    last: u32,
) -> Result<std::collections::HashMap<u32, VersionFacts>> {
    let values = vec![key.as_bytes().into(), first.into(), last.into()];
    facts_where(connection, "v.key_id = ? AND v.version >= ? AND v.version <= ?", values).await
}

/// Whether this version has a row and its uses are counted.
pub async fn is_counted(connection: &mut dyn Connection, key: KeyId, version: u32) -> Result<bool> {
    let sql = "SELECT 1 FROM version_usage u JOIN key_versions v ON v.key_id = u.key_id AND v.version = u.version \
               WHERE u.key_id = ? AND u.version = ?";
    let mut is_there = false;
    connection
        .query(sql.into(), vec![key.as_bytes().into(), version.into()], &mut |_| {
            is_there = true;
            Ok(())
        })
        .await?;
    Ok(is_there)
}

async fn facts_where(
    connection: &mut dyn Connection,
    condition: &str,
    values: Vec<Value>,
) -> Result<std::collections::HashMap<u32, VersionFacts>> {
    let mut found = std::collections::HashMap::new();
    // Read first: counters move from the head to the rows.
    let tallies = super::head::tallies(connection).await?;
    let sql = format!(
        "SELECT v.version, v.public_key_pem, {}, u.last_used_at, v.key_id FROM key_versions v \
         JOIN version_usage u ON u.key_id = v.key_id AND u.version = v.version WHERE {condition}",
        connection.dialect().counter("u.encryptions")
    );
    connection
        .query(sql.into(), values, &mut |row| {
            let stored = super::usage::read_usage(row, 2)?;
            let usage = tallies.usage(KeyId::from_slice(row.blob(4)?)?, row.unsigned(0)?, stored);
            let public_key_pem = row.text_opt(1)?.map(str::to_owned);
            found.insert(row.unsigned(0)?, VersionFacts { public_key_pem, usage });
            Ok(())
        })
        .await?;
    Ok(found)
}

/// Returns the stored public keys (PEM) of these versions of a key, by version.
pub async fn public_keys_of(
    connection: &mut dyn Connection,
    key: KeyId,
    versions: &[u32],
) -> Result<std::collections::HashMap<u32, String>> {
    let mut found = std::collections::HashMap::new();
    for chunk in versions.chunks(ASKED) {
        let marks = vec!["?"; chunk.len()].join(", ");
        let sql = format!("SELECT version, public_key_pem FROM key_versions WHERE key_id = ? AND version IN ({marks})");
        let values = std::iter::once(key.as_bytes().into()).chain(chunk.iter().map(|n| (*n).into())).collect();
        connection
            .query(sql.into(), values, &mut |row| {
                if let Some(pem) = row.text_opt(1)? {
                    found.insert(row.unsigned(0)?, pem.to_owned());
                }
                Ok(())
            })
            .await?;
    }
    Ok(found)
}

/// Returns the SHA-256 of the public key stored beside the row of every version, by the version's own id.
pub async fn public_keys(connection: &mut dyn Connection) -> Result<Vec<([u8; 16], Option<[u8; 32]>)>> {
    use sha2::{Digest, Sha256};
    let mut found = Vec::new();
    let mut keep = |row: &dyn Row| {
        // A column of a type that was never written counts as another key.
        let Some(version) = row.blob_opt(0).ok().flatten().and_then(|id| id.try_into().ok()) else { return Ok(()) };
        found.push((version, row.text_opt(1).unwrap_or(Some("")).map(|pem| Sha256::digest(pem).into())));
        Ok(())
    };
    each_row_of(connection, "SELECT id, public_key_pem FROM key_versions", &[("id", 0)], &mut keep).await?;
    Ok(found)
}
