//! Statements on `idempotency`: idempotency records, which are kept for a day.

use std::collections::HashSet;

use super::usage;
use crate::storage::{Connection, Value};
use crate::types::error::Result;
use crate::types::time::Timestamp;

/// An idempotency record: a request that has taken effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRequest {
    /// The principal that sent the request.
    pub principal: String,
    /// The idempotency key of the request.
    pub key: String,
    /// The seal over this row and the digest of the request.
    pub request_seal: [u8; 32],
    /// The identifier of the object that the answer describes.
    pub subject: [u8; 16],
    /// The first answer as JSON, if there was one and it was kept.
    pub answer: Option<String>,
    /// The sequence number of the change's record.
    pub seq: u64,
    /// The time until which the idempotency record is kept.
    pub expires_at: Timestamp,
}

/// The number of days for which idempotency records are kept.
pub const KEPT_DAYS: u32 = 1;
/// The name of the stored time at which it was last acknowledged that a clock had been ahead.
pub const CLOCK_ACKNOWLEDGED: &str = "clock.acknowledged_at";
/// The tolerated difference between clocks, in seconds.
const SKEW_SECONDS: u32 = 60;

/// The latest plausible expiry. A later one was written by a clock that was ahead, and its true age is not known.
fn latest(now: Timestamp) -> Timestamp {
    now.plus_days(KEPT_DAYS).plus_seconds(SKEW_SECONDS)
}

/// Whether idempotency records written by a clock that was ahead have been kept long enough since the acknowledgement.
async fn is_misdated_over(connection: &mut dyn Connection, now: Timestamp) -> Result<bool> {
    let acknowledged = usage::meta(connection, CLOCK_ACKNOWLEDGED).await?;
    let acknowledged = acknowledged.and_then(|time| time.parse::<Timestamp>().ok());
    Ok(acknowledged.is_some_and(|time| time.plus_days(KEPT_DAYS) <= now))
}

/// The maximum number of requests in one query.
const ASKED: usize = 64;

/// The approximate number of expired idempotency records that are deleted at once, or two for each new one. The head is
/// locked meanwhile.
const DROPPED: u64 = 100;

/// Deletes some expired idempotency records, more than the `kept` ones that are added, so that the table does not grow.
pub async fn drop_expired(connection: &mut dyn Connection, now: Timestamp, kept: usize) -> Result<()> {
    let dropped = DROPPED.max(2 * kept as u64);
    let mut until = None;
    let oldest = "SELECT expires_at FROM idempotency WHERE expires_at <= ? ORDER BY expires_at LIMIT ?";
    connection
        .query(oldest.into(), vec![now.into(), dropped.into()], &mut |row| {
            until = Some(row.time(0)?);
            Ok(())
        })
        .await?;
    if let Some(until) = until {
        connection.execute("DELETE FROM idempotency WHERE expires_at <= ?".into(), vec![until.into()]).await?;
    }
    drop_misdated(connection, now).await
}

async fn drop_misdated(connection: &mut dyn Connection, now: Timestamp) -> Result<()> {
    let mut is_there = false;
    let latest = Value::from(latest(now));
    let sql = "SELECT expires_at FROM idempotency WHERE expires_at > ? ORDER BY expires_at LIMIT 1";
    connection
        .query(sql.into(), vec![latest.clone()], &mut |_| {
            is_there = true;
            Ok(())
        })
        .await?;
    if is_there && is_misdated_over(connection, now).await? {
        connection.execute("DELETE FROM idempotency WHERE expires_at > ?".into(), vec![latest]).await?;
    }
    Ok(())
}

/// Stores an idempotency record, replacing an expired one of the same principal and key. One that has not expired
/// causes a `Conflict`.
pub async fn insert(connection: &mut dyn Connection, request: KeptRequest, now: Timestamp) -> Result<()> {
    let former = "DELETE FROM idempotency WHERE principal = ? AND idempotency_key = ? AND expires_at <= ?";
    let values = vec![request.principal.as_str().into(), request.key.as_str().into(), now.into()];
    connection.execute(former.into(), values).await?;
    let sql = "INSERT INTO idempotency (principal, idempotency_key, request_digest, subject, answer, seq, expires_at) \
               VALUES (?, ?, ?, ?, ?, ?, ?)";
    let values = vec![
        request.principal.into(),
        request.key.into(),
        (&request.request_seal).into(),
        (&request.subject).into(),
        request.answer.into(),
        request.seq.into(),
        request.expires_at.into(),
    ];
    connection.execute(sql.into(), values).await.map(drop)
}

/// Returns those of these requests, each a principal and a key, whose idempotency records have not expired.
pub async fn kept_among(
    connection: &mut dyn Connection,
    requests: &[(&str, &str)],
    now: Timestamp,
) -> Result<HashSet<(String, String)>> {
    let (mut kept, mut misdated) = (HashSet::new(), HashSet::new());
    for chunk in requests.chunks(ASKED) {
        let condition = vec!["(principal = ? AND idempotency_key = ?)"; chunk.len()].join(" OR ");
        let sql = format!(
            "SELECT principal, idempotency_key, expires_at FROM idempotency WHERE expires_at > ? AND ({condition})"
        );
        let named = chunk.iter().flat_map(|(principal, key)| [Value::from(*principal), Value::from(*key)]);
        let values = std::iter::once(now.into()).chain(named).collect();
        connection
            .query(sql.into(), values, &mut |row| {
                let request = (row.text(0)?.to_owned(), row.text(1)?.to_owned());
                let set = if row.time(2)? > latest(now) { &mut misdated } else { &mut kept };
                set.insert(request);
                Ok(())
            })
            .await?;
    }
    if !misdated.is_empty() && !is_misdated_over(connection, now).await? {
        kept.extend(misdated);
    }
    Ok(kept)
}

/// Returns the idempotency record of this principal and key, unless it has expired.
pub async fn find(
    connection: &mut dyn Connection,
    principal: &str,
    key: &str,
    now: Timestamp,
) -> Result<Option<KeptRequest>> {
    let mut found = None;
    let sql = "SELECT request_digest, subject, answer, seq, expires_at FROM idempotency \
               WHERE principal = ? AND idempotency_key = ? AND expires_at > ?";
    connection
        .query(sql.into(), vec![principal.into(), key.into(), now.into()], &mut |row| {
            found = Some(KeptRequest {
                principal: principal.to_owned(),
                key: key.to_owned(),
                request_seal: row.hash(0)?,
                subject: row.blob(1)?.try_into().map_err(|_| crate::storage::corrupt("a subject is not an id"))?,
                answer: row.text_opt(2)?.map(str::to_owned),
                seq: row.unsigned(3)?,
                expires_at: row.time(4)?,
            });
            Ok(())
        })
        .await?;
    let is_misdated = found.as_ref().is_some_and(|found: &KeptRequest| found.expires_at > latest(now));
    Ok(if is_misdated && is_misdated_over(connection, now).await? { None } else { found })
}

#[cfg(test)]
#[cfg(feature = "sqlite")]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// More expired idempotency records are deleted than new ones are added, however many are added.
    #[tokio::test(flavor = "multi_thread")]
    async fn the_table_does_not_grow() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("kms.db").display());
        let shared = crate::kms::open::open(crate::Config::new(url).root_key_bytes([7; 32])).await.unwrap();
        let mut connection = shared.store.writer().await.unwrap();
        let connection = connection.as_mut();
        connection.begin_write().await.unwrap();
        let now = Timestamp::now();
        for n in 0..1_200u32 {
            let request = KeptRequest {
                principal: "a".into(),
                key: n.to_string(),
                request_seal: [0; 32],
                subject: [0; 16],
                answer: None,
                seq: 1,
                expires_at: Timestamp::from_micros(now.micros() - i64::from(1_200 - n)),
            };
            insert(connection, request, Timestamp::from_micros(0)).await.unwrap();
        }
        for (kept, left) in [(0, 1_100), (400, 300), (0, 200), (0, 100)] {
            drop_expired(connection, now, kept).await.unwrap();
            let mut count = 0;
            let mut see = |row: &dyn crate::storage::Row| {
                count = row.int(0)?;
                Ok(())
            };
            connection.query("SELECT COUNT(*) FROM idempotency".into(), vec![], &mut see).await.unwrap();
            assert_eq!(count, left);
        }
        connection.rollback().await.unwrap();
    }
}
