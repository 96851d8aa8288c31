//! Statements on `usage_hourly` and `meta`, and the queries of the metrics that indexes serve.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{each_row_of, head, insert_rows};
use crate::storage::dialect::Dialect;
use crate::storage::{Connection, Row, Statement, Value};
use crate::types::error::Result;
use crate::types::ids::KeyId;
use crate::types::key::VersionUsage;
use crate::types::limits::ENCRYPTIONS_WARN;
use crate::types::tallies::Tallies;
use crate::types::time::Timestamp;

/// Adds counters of the head to their tables. The row of a version that was deleted meanwhile stays missing.
pub fn add_to_tables(dialect: &Dialect, tallies: &Tallies) -> Vec<Statement> {
    let after = format!(" {}", dialect.count_up.replace("{count}", &dialect.counter("usage_hourly.count")));
    let values: Vec<Value> = tallies
        .hours
        .iter()
        .flat_map(|((hour, action, status), count)| {
            [(*hour).into(), action.as_str().into(), status.as_str().into(), (*count).into()]
        })
        .collect();
    let before = "INSERT INTO usage_hourly (hour, action, status, count) VALUES ";
    let mut statements = insert_rows(before, 4, &after, values.into_iter());
    let sql = "UPDATE version_usage SET encryptions = ?, last_used_at = ?, near_limit = ? \
               WHERE key_id = ? AND version = ?";
    statements.extend(tallies.versions.iter().map(|((key, version), usage)| {
        let near_limit = u32::from(usage.encryptions >= ENCRYPTIONS_WARN);
        let values = vec![
            usage.encryptions.into(),
            usage.last_used_at.into(),
            near_limit.into(),
            key.as_bytes().into(),
            (*version).into(),
        ];
        Statement::new(sql, values)
    }));
    statements
}

/// Reads the uses of a version: the number of encryptions, bounded by [`Dialect::counter`], and in the next column the
/// time of the last use. A time that cannot be read counts as none.
pub(super) fn read_usage(row: &dyn Row, column: usize) -> Result<VersionUsage> {
    Ok(VersionUsage { encryptions: row.unsigned(column)?, last_used_at: row.time_opt(column + 1).unwrap_or_default() })
}

/// Returns the stored uses of these versions, without versions that have no row.
pub async fn usage_of(
    connection: &mut dyn Connection,
    versions: &[(KeyId, u32)],
) -> Result<HashMap<(KeyId, u32), VersionUsage>> {
    let mut found = HashMap::new();
    let any = vec!["(u.key_id = ? AND u.version = ?)"; versions.len()].join(" OR ");
    let sql = format!(
        "SELECT u.key_id, u.version, {}, u.last_used_at FROM version_usage u \
         JOIN key_versions v ON v.key_id = u.key_id AND v.version = u.version WHERE {any}",
        connection.dialect().counter("u.encryptions")
    );
    let values = versions.iter().flat_map(|(key, version)| [key.as_bytes().into(), (*version).into()]).collect();
    connection
        .query(sql.into(), values, &mut |row| {
            found.insert((KeyId::from_slice(row.blob(0)?)?, row.unsigned(1)?), read_usage(row, 2)?);
            Ok(())
        })
        .await?;
    Ok(found)
}

/// Sums the counts of the hours from `first` to `last`, both included: action, status, number. To be called in a
/// transaction, since counters move from the head to their table.
pub async fn sums(connection: &mut dyn Connection, first: i64, last: i64) -> Result<Vec<(String, String, u64)>> {
    let mut sums = Vec::new();
    for ((hour, action, status), count) in head::tallies(connection).await?.hours {
        if (first..=last).contains(&hour) {
            sums.push((action, status, count));
        }
    }
    // Without the cast, a sum has a type of its own.
    let (integer, count) = (connection.dialect().cast_integer, connection.dialect().counter("count"));
    let sql = format!(
        "SELECT action, status, CAST(SUM({count}) AS {integer}) FROM usage_hourly \
         WHERE hour >= ? AND hour <= ? GROUP BY action, status"
    );
    connection
        .query(sql.into(), vec![first.into(), last.into()], &mut |row| {
            sums.push((row.text(0)?.to_owned(), row.text(1)?.to_owned(), row.unsigned(2)?));
            Ok(())
        })
        .await?;
    Ok(sums)
}

/// The hours in which an action succeeded, with the number of successes. To be called in a transaction, since counters
/// move from the head to their table.
pub async fn hours_of(connection: &mut dyn Connection, action: &'static str) -> Result<Vec<(i64, u64)>> {
    let count = connection.dialect().counter("count");
    let sql = format!("SELECT hour, {count} FROM usage_hourly WHERE action = ? AND status = 'SUCCESS'");
    let mut hours: BTreeMap<i64, u64> = BTreeMap::new();
    for ((hour, counted, status), count) in head::tallies(connection).await?.hours {
        if counted == action && status == "SUCCESS" {
            hours.insert(hour, count);
        }
    }
    connection
        .query(sql.into(), vec![action.into()], &mut |row| {
            let total = hours.entry(row.int(0)?).or_default();
            *total = total.saturating_add(row.unsigned(1)?);
            Ok(())
        })
        .await?;
    Ok(hours.into_iter().collect())
}

/// Counts a version's use. No row changes if that would exceed `limit` encryptions, or if the version's row was
/// deleted.
pub fn count_version(key: KeyId, version: u32, encryptions: u64, used_at: Timestamp, limit: u64) -> Statement {
    // An engine may assign from left to right, so values that depend on the count come before it. Nothing is added to a
    // stored number before it is known to be in range.
    let sql = "UPDATE version_usage SET near_limit = CASE WHEN encryptions >= ? THEN 1 ELSE 0 END, \
               encryptions = encryptions + ?, last_used_at = ? \
               WHERE key_id = ? AND version = ? AND encryptions <= ? AND EXISTS (SELECT 1 FROM key_versions v \
               WHERE v.key_id = version_usage.key_id AND v.version = version_usage.version)";
    let limit = if encryptions == 0 { i64::MAX } else { limit.try_into().unwrap_or(i64::MAX) };
    let before = |total: i64| total.saturating_sub(encryptions.try_into().unwrap_or(i64::MAX));
    let values = vec![
        before(ENCRYPTIONS_WARN.try_into().unwrap_or(i64::MAX)).into(),
        encryptions.into(),
        used_at.into(),
        key.as_bytes().into(),
        version.into(),
        before(limit).into(),
    ];
    Statement::new(sql, values)
}

/// Starts to count the uses of a version.
pub fn insert_version(key: KeyId, version: u32) -> Statement {
    let sql = "INSERT INTO version_usage (key_id, version, encryptions, near_limit) VALUES (?, ?, 0, 0)";
    Statement::new(sql, vec![key.as_bytes().into(), version.into()])
}

/// Returns every version whose uses are counted, and the number of unreadable rows.
pub async fn counted_versions(connection: &mut dyn Connection) -> Result<(HashSet<(KeyId, u32)>, u64)> {
    let (mut found, mut unreadable) = (HashSet::new(), 0);
    let mut keep = |row: &dyn Row| {
        let version = row.blob_opt(0).ok().flatten().and_then(|id| KeyId::from_slice(id).ok());
        let is_new = version.zip(row.unsigned(1).ok()).is_some_and(|version| found.insert(version));
        unreadable += u64::from(!is_new);
        Ok(())
    };
    let select = "SELECT key_id, version FROM version_usage";
    each_row_of(connection, select, &[("key_id", 0), ("version", 1)], &mut keep).await?;
    Ok((found, unreadable))
}

/// Returns versions whose number of encryptions makes a rotation due, the nearest to their limit first: key, version,
/// encryptions. Former versions encrypt nothing more; those that the head counts are included.
pub async fn near_limit(connection: &mut dyn Connection, limit: usize) -> Result<Vec<(KeyId, u32, u64)>> {
    let mut found: BTreeMap<(KeyId, u32), u64> = head::tallies(connection)
        .await?
        .versions
        .into_iter()
        .filter(|(_, usage)| usage.encryptions >= ENCRYPTIONS_WARN)
        .map(|(version, usage)| (version, usage.encryptions))
        .collect();
    // A literal number: with a bound value, the partial index would not be used.
    let sql = format!(
        "SELECT u.key_id, u.version, {} FROM version_usage u \
         JOIN \"keys\" k ON k.id = u.key_id AND k.current_version = u.version \
         WHERE u.near_limit = 1 ORDER BY u.encryptions DESC LIMIT ?",
        connection.dialect().counter("u.encryptions")
    );
    connection
        .query(sql.into(), vec![(limit as u64).into()], &mut |row| {
            let total = found.entry((KeyId::from_slice(row.blob(0)?)?, row.unsigned(1)?)).or_default();
            *total = row.unsigned::<u64>(2)?.max(*total);
            Ok(())
        })
        .await?;
    let mut found: Vec<_> = found.into_iter().map(|((key, version), total)| (key, version, total)).collect();
    found.sort_by_key(|(.., total)| std::cmp::Reverse(*total));
    found.truncate(limit);
    Ok(found)
}

/// Returns versions whose window ends between `from` and `until` and that were used since `used_since`: key, version,
/// end of the window, last use.
pub async fn windows_ending(
    connection: &mut dyn Connection,
    from: Timestamp,
    until: Timestamp,
    used_since: Timestamp,
    limit: usize,
) -> Result<Vec<(KeyId, u32, Timestamp, Timestamp)>> {
    let mut found = Vec::new();
    let tallies = head::tallies(connection).await?;
    let used = tallies.versions.iter().filter(|(_, usage)| usage.last_used_at >= Some(used_since));
    let used: Vec<(KeyId, u32)> = used.map(|(version, _)| *version).collect();
    let sql = format!(
        "SELECT v.key_id, v.version, v.not_after, {}, u.last_used_at FROM key_versions v \
         JOIN version_usage u ON u.key_id = v.key_id AND u.version = v.version \
         WHERE v.state = 'DISABLED' AND v.not_after >= ? AND v.not_after < ? \
         AND (u.last_used_at >= ?{}) ORDER BY v.not_after LIMIT ?",
        connection.dialect().counter("u.encryptions"),
        " OR (v.key_id = ? AND v.version = ?)".repeat(used.len())
    );
    let mut values = vec![from.into(), until.into(), used_since.into()];
    values.extend(used.iter().flat_map(|(key, version)| [key.as_bytes().into(), (*version).into()]));
    values.push((limit as u64).into());
    connection
        .query(sql.into(), values, &mut |row| {
            let (key, version) = (KeyId::from_slice(row.blob(0)?)?, row.unsigned(1)?);
            if let Some(used) = tallies.usage(key, version, read_usage(row, 3)?).last_used_at {
                found.push((key, version, row.time(2)?, used));
            }
            Ok(())
        })
        .await?;
    Ok(found)
}

/// A version whose grace window is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverVersion {
    /// The key's identifier.
    pub key: KeyId,
    /// The number of the version.
    pub version: u32,
    /// The end of the version's grace window.
    pub not_after: Timestamp,
    /// The time of the last use; none if it was never used.
    pub last_used_at: Option<Timestamp>,
}

/// Returns at most `limit` former versions whose window is over, the longest ago first, after one that was found
/// before.
pub async fn windows_over(
    connection: &mut dyn Connection,
    now: Timestamp,
    after: Option<OverVersion>,
    limit: usize,
) -> Result<Vec<OverVersion>> {
    let mut found = Vec::new();
    let tallies = head::tallies(connection).await?;
    let sql = format!(
        "SELECT v.key_id, v.version, v.not_after, {}, u.last_used_at FROM key_versions v \
         LEFT JOIN version_usage u ON u.key_id = v.key_id AND u.version = v.version \
         WHERE v.state = 'DISABLED' AND v.not_after <= ? AND v.not_after >= ? \
         AND (v.not_after > ? OR v.key_id > ? OR (v.key_id = ? AND v.version > ?)) \
         ORDER BY v.not_after, v.key_id, v.version LIMIT ?",
        connection.dialect().counter("COALESCE(u.encryptions, 0)")
    );
    let end: Value = after.map_or_else(|| i64::MIN.into(), |after| after.not_after.into());
    let key: Value = after.map_or([0; 16], |after| *after.key.as_bytes()).as_slice().into();
    let version = after.map_or(0, |after| after.version).into();
    let values = vec![now.into(), end.clone(), end, key.clone(), key, version, (limit as u64).into()];
    connection
        .query(sql.into(), values, &mut |row| {
            let (key, version) = (KeyId::from_slice(row.blob(0)?)?, row.unsigned(1)?);
            // Unlike elsewhere, a time that cannot be read is an error: it must not look like a version without uses.
            let stored = VersionUsage { encryptions: row.unsigned(3)?, last_used_at: row.time_opt(4)? };
            let last_used_at = tallies.usage(key, version, stored).last_used_at;
            found.push(OverVersion { key, version, not_after: row.time(2)?, last_used_at });
            Ok(())
        })
        .await?;
    Ok(found)
}

/// A key with the time at which scheduled work on it was due.
pub type DueKey = (Timestamp, KeyId);

/// Returns at most `limit` keys whose `rotate_at` or `delete_at` has passed, found by an index, the longest overdue
/// first, after one that was found before.
pub async fn due(
    connection: &mut dyn Connection,
    what: Due,
    now: Timestamp,
    after: Option<DueKey>,
    limit: usize,
) -> Result<Vec<DueKey>> {
    let sql = match what {
        Due::Rotation => {
            "SELECT rotate_at, id FROM \"keys\" WHERE rotate_at <= ? AND rotate_at >= ? AND (rotate_at > ? OR id > ?) \
             ORDER BY rotate_at, id LIMIT ?"
        }
        Due::Destruction => {
            "SELECT delete_at, id FROM \"keys\" WHERE delete_at <= ? AND delete_at >= ? AND (delete_at > ? OR id > ?) \
             AND state = 'PENDING_DELETION' ORDER BY delete_at, id LIMIT ?"
        }
    };
    let from: Value = after.map_or_else(|| i64::MIN.into(), |(time, _)| time.into());
    let id: Value = after.map_or([0; 16], |(_, id)| *id.as_bytes()).as_slice().into();
    let values = vec![now.into(), from.clone(), from, id, (limit as u64).into()];
    let mut found = Vec::new();
    connection
        .query(sql.into(), values, &mut |row| {
            found.push((row.time(0)?, KeyId::from_slice(row.blob(1)?)?));
            Ok(())
        })
        .await?;
    Ok(found)
}

/// A kind of scheduled work on keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The rotation of a key.
    Rotation,
    /// The erasure of the material of a key whose deletion was scheduled.
    Destruction,
}

/// Reads a small named value.
pub async fn meta(connection: &mut dyn Connection, name: &str) -> Result<Option<String>> {
    let mut value = None;
    connection
        .query("SELECT value FROM meta WHERE name = ?".into(), vec![name.into()], &mut |row| {
            value = Some(row.text(0)?.to_owned());
            Ok(())
        })
        .await?;
    Ok(value)
}

/// Stores a small named value.
pub async fn set_meta(connection: &mut dyn Connection, name: &str, value: &str) -> Result<()> {
    let changed =
        connection.execute("UPDATE meta SET value = ? WHERE name = ?".into(), vec![value.into(), name.into()]).await?;
    if changed == 0 {
        connection
            .execute("INSERT INTO meta (name, value) VALUES (?, ?)".into(), vec![name.into(), value.into()])
            .await?;
    }
    Ok(())
}
