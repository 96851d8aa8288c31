//! Statements that write rows with their seals.

use super::super::root_keys::{self, ROOT_KEY};
use super::super::secrets::{self, SERVICE_KEY};
use super::super::usage;
use super::super::wrappings::{self, NewRow};
use super::{CREDENTIAL, GRANT, KEY, QUARANTINED, VERSION};
use crate::storage::{Connection, Statement, Value, corrupt};
use crate::types::change::Change;
use crate::types::credential::Credential;
use crate::types::error::Result;
use crate::types::grant::Grant;
use crate::types::ids::KeyId;
use crate::types::key::{DisabledReason, Key, KeyState, KeyVersion};
use crate::types::quarantine::Quarantined;

/// The seals of a row after a change.
#[derive(Clone, Debug)]
pub struct RowSeals {
    /// The seal of the row.
    pub row: [u8; 32],
    /// The seals of the wrappings that are written with it, in order.
    pub wrappings: Vec<[u8; 32]>,
}

/// Writes the row of a change. `StoreCorrupt` if a row to be changed is missing.
pub async fn write(connection: &mut dyn Connection, change: Change, seals: RowSeals) -> Result<()> {
    let seal = seals.row;
    let changed = match change {
        Change::InsertKey(key) => insert(connection, "\"keys\"", KEY, key_values(&key, seal)).await?,
        Change::UpdateKey(key) => update(connection, "\"keys\"", KEY, key_values(&key, seal)).await?,
        Change::InsertVersion(version, material) => {
            let mut values = version_values(&version, seal);
            values.push(material.public_key_pem.into());
            let columns = format!("{VERSION}, public_key_pem");
            let inserted = insert(connection, "key_versions", &columns, values).await?;
            let rows = material.wrapped.into_iter().zip(seals.wrappings);
            let subject = *version.id.as_bytes();
            let rows = rows.map(|(wrapped, seal)| NewRow { subject, wrapped, seal }).collect();
            let mut statements = wrappings::insert(rows);
            statements.push(usage::insert_version(version.key_id, version.version));
            connection.execute_all(statements).await?;
            inserted
        }
        Change::UpdateVersion(version) => {
            update(connection, "key_versions", VERSION, version_values(&version, seal)).await?
        }
        Change::EraseVersion(version) => {
            let id = version.id;
            let update = update_statement("key_versions", VERSION, version_values(&version, seal));
            let changed = connection.execute_all(vec![wrappings::erase_all(id.as_bytes()), update]).await?;
            changed.last().copied().unwrap_or_default()
        }
        Change::InsertGrant(grant) => insert(connection, "grants", GRANT, grant_values(&grant, seal)?).await?,
        Change::UpdateGrant(grant) => update(connection, "grants", GRANT, grant_values(&grant, seal)?).await?,
        Change::InsertCredential(c) => {
            insert(connection, "credentials", CREDENTIAL, credential_values(&c, seal)).await?
        }
        Change::UpdateCredential(c) => {
            update(connection, "credentials", CREDENTIAL, credential_values(&c, seal)).await?
        }
        Change::RemoveCredential(c) => {
            let sql = "DELETE FROM credentials WHERE id = ? AND revision = ?";
            connection.execute(sql.into(), vec![c.id.as_bytes().into(), c.revision.into()]).await?
        }
        Change::InsertQuarantined(entry) => {
            insert(connection, "quarantine", QUARANTINED, quarantined_values(&entry, seal)).await?
        }
        Change::UpdateQuarantined(entry) => {
            update(connection, "quarantine", QUARANTINED, quarantined_values(&entry, seal)).await?
        }
        Change::InsertRootKey(root) => {
            insert(connection, "root_keys", ROOT_KEY, root_keys::values(&root, seal)).await?
        }
        Change::UpdateRootKey(root) => {
            update(connection, "root_keys", ROOT_KEY, root_keys::values(&root, seal)).await?
        }
        Change::InsertServiceKey(key, wrapped) => {
            let inserted = insert(connection, "service_keys", SERVICE_KEY, secrets::values(&key, seal)).await?;
            let subject = *key.id.as_bytes();
            let rows = wrapped.into_iter().zip(seals.wrappings);
            let rows = rows.map(|(wrapped, seal)| NewRow { subject, wrapped, seal }).collect();
            connection.execute_all(wrappings::insert(rows)).await?;
            inserted
        }
        Change::UpdateServiceKey(key) => {
            if !key.has_material() {
                connection.execute_all(vec![wrappings::erase_all(key.id.as_bytes())]).await?;
            }
            update(connection, "service_keys", SERVICE_KEY, secrets::values(&key, seal)).await?
        }
    };
    if changed == 1 { Ok(()) } else { Err(corrupt("a row to be changed is not in the store")) }
}

/// Replaces the seal of a row, unless the row was changed since it was read; then no row changes.
pub fn reseal(table: &str, id: &[u8; 16], former: &[u8], seal: &[u8; 32]) -> Statement {
    // The name is reserved in MySQL.
    let table = if table == "keys" { "\"keys\"" } else { table };
    let sql = format!("UPDATE {table} SET seal = ? WHERE id = ? AND seal = ?");
    Statement::new(sql, vec![seal.into(), id.into(), former.into()])
}

async fn insert(connection: &mut dyn Connection, table: &str, columns: &str, values: Vec<Value>) -> Result<u64> {
    let marks = format!("{}?", "?, ".repeat(values.len() - 1));
    connection.execute(format!("INSERT INTO {table} ({columns}) VALUES ({marks})").into(), values).await
}

/// Updates a row by its id, which is the last of the columns.
async fn update(connection: &mut dyn Connection, table: &str, columns: &str, values: Vec<Value>) -> Result<u64> {
    let Statement { sql, values } = update_statement(table, columns, values);
    connection.execute(sql, values).await
}

fn update_statement(table: &str, columns: &str, values: Vec<Value>) -> Statement {
    let assignments = columns.trim_end_matches(", id").replace(", ", " = ?, ");
    Statement::new(format!("UPDATE {table} SET {assignments} = ? WHERE id = ?"), values)
}

fn key_values(key: &Key, seal: [u8; 32]) -> Vec<Value> {
    vec![
        key.name.as_str().into(),
        key.key_type.as_str().into(),
        key.purpose.as_str().into(),
        key.state.as_str().into(),
        key.disabled_reason.map(DisabledReason::as_str).into(),
        key.state_before_deletion.map(KeyState::as_str).into(),
        key.rotation_period_days.into(),
        key.grace_period_days.into(),
        key.current_version.into(),
        key.rotate_at.into(),
        key.delete_at.into(),
        key.deletion_wait_days.into(),
        key.audit_context.as_str().into(),
        key.metadata.clone().into(),
        key.import.as_ref().map(|import| import.source.as_str()).into(),
        u32::from(key.import.as_ref().is_some_and(|import| import.is_final)).into(),
        key.created_at.into(),
        key.revision.into(),
        (&seal).into(),
        key.id.as_bytes().into(),
    ]
}

fn version_values(version: &KeyVersion, seal: [u8; 32]) -> Vec<Value> {
    vec![
        version.key_id.as_bytes().into(),
        version.version.into(),
        version.state.as_str().into(),
        version.not_before.into(),
        version.not_after.into(),
        version.grace_period_days.into(),
        version.created_at.into(),
        version.origin.as_str().into(),
        (&version.fingerprint).into(),
        version.public_key_digest.as_deref().into(),
        version.revision.into(),
        (&seal).into(),
        version.id.as_bytes().into(),
    ]
}

fn grant_values(grant: &Grant, seal: [u8; 32]) -> Result<Vec<Value>> {
    let permissions: Vec<&str> = grant.permissions.iter().map(|permission| permission.as_str()).collect();
    let through: Vec<[u8; 16]> = grant.grantor.through.iter().map(|parent| *parent.as_bytes()).collect();
    Ok(vec![
        grant.principal.as_str().into(),
        grant.role.as_str().into(),
        grant.scope.to_string().into(),
        permissions.join(",").into(),
        grant.conditions.to_json()?.into(),
        grant.created_at.into(),
        grant.withdrawn_at.into(),
        grant.grantor.principal.as_str().into(),
        grant.grantor.role.as_str().into(),
        through.concat().into(),
        u32::from(grant.cascade).into(),
        grant.revision.into(),
        (&seal).into(),
        grant.id.as_bytes().into(),
    ])
}

fn credential_values(credential: &Credential, seal: [u8; 32]) -> Vec<Value> {
    vec![
        credential.principal.as_str().into(),
        credential.role.as_str().into(),
        (&credential.secret_hash).into(),
        credential.label.clone().into(),
        credential.created_at.into(),
        credential.expires_at.into(),
        credential.withdrawn_at.into(),
        credential.removal.into(),
        credential.revision.into(),
        (&seal).into(),
        credential.id.as_bytes().into(),
    ]
}

fn quarantined_values(entry: &Quarantined, seal: [u8; 32]) -> Vec<Value> {
    vec![
        entry.table.as_str().into(),
        (&entry.row).into(),
        entry.key.as_ref().map(KeyId::as_bytes).into(),
        entry.key_name.clone().into(),
        entry.created_at.into(),
        entry.released_at.into(),
        entry.revision.into(),
        (&seal).into(),
        entry.id.as_bytes().into(),
    ]
}
