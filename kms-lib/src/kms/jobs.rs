//! The jobs that the scheduler runs.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::{MutexGuard, PoisonError};

use crate::catalog::Snapshot;
use crate::ledger::skew;
use crate::scheduler::SchedulerConfig;
use crate::session::{Session, doubtful_times};
use crate::storage::StoreFuture;
use crate::storage::tables::usage::{self, Due, DueKey, OverVersion};
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::key::Key;
use crate::types::time::Timestamp;
use crate::types::view::CatalogView;
use crate::verification::Report;

/// The number of due keys, or of versions past their window, that are read in one query.
const PAGE: usize = 100;
/// The number of keys that are examined while the snapshot is locked.
const KEYS_LOOKED_AT: usize = 1_000;

/// The results of one run of the scheduler's jobs.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct JobReport {
    /// Keys that were rotated.
    pub rotated: Vec<KeyId>,
    /// Keys whose material was erased.
    pub destroyed: Vec<KeyId>,
    /// Versions that were revoked: key and version.
    pub revoked: Vec<(KeyId, u32)>,
    /// Keys for which a job failed, each with its error. Every failure is in the log.
    pub failed: Vec<(KeyId, Error)>,
    /// The report of the log verification, if one was due.
    pub verification: Option<Report>,
}

/// Runs all jobs once. `session` is the scheduler's. A failing key does not stop the other keys, nor a failing job the
/// other jobs. An error means that the store could not be queried for a job; the first such error is returned.
#[tracing::instrument(level = "debug", name = "kms.scheduler", skip_all)]
pub fn run<'a>(session: &'a Session, config: &'a SchedulerConfig) -> StoreFuture<'a, JobReport> {
    Box::pin(async move {
        let mut report = JobReport::default();
        let mut failed: Option<Error> = None;
        if config.rotate {
            note(&mut failed, "the keys due for rotation could not be read", rotate(session, &mut report).await);
        }
        if config.destroy {
            note(&mut failed, "the keys due for destruction could not be read", destroy(session, &mut report).await);
        }
        // Completes a retirement that was interrupted.
        if let Err(error) = session.erase_retired().await {
            tracing::warn!(%error, "wrappings under a retired root key could not be erased");
        }
        // Completes a replacement of the integrity key that was interrupted.
        if let Err(error) = session.finish_resealing().await {
            tracing::warn!(%error, "rows could not be resealed");
        }
        if let Err(error) = session.remove_ended_credentials().await {
            tracing::warn!(%error, "tokens that ended long ago could not be removed");
        }
        if config.revoke_expired {
            let revoked = revoke_expired(session, config.revoke_expired_even_if_used, &mut report).await;
            note(&mut failed, "the versions past their grace window could not be read", revoked);
        }
        if config.verify {
            match session.verify_audit_incrementally().await {
                Ok(found) => report.verification = Some(found),
                Err(error) => note(&mut failed, "the log could not be verified", Err(error)),
            }
        }
        failed.map_or(Ok(report), Err)
    })
}

/// Notes that a job failed; the other jobs still run.
fn note(failed: &mut Option<Error>, what: &str, done: Result<()>) {
    if let Err(error) = done {
        tracing::warn!(%error, "{what}");
        failed.get_or_insert(error);
    }
}

async fn rotate(session: &Session, report: &mut JobReport) -> Result<()> {
    let mut last = None;
    session.shared().catalog.ensure_fresh().await?;
    let misdated = misdated(session);
    let mut page: Vec<KeyId> = misdated.iter().copied().collect();
    loop {
        for id in page {
            // Naming the due version ensures that only one of several schedulers rotates the key.
            let expected = {
                let snapshot = session.shared().catalog.snapshot();
                let now = session.shared().clock.now();
                match snapshot.key(id) {
                    Some(key) if key.rotate_at.is_some_and(|at| at <= now) || is_misdated(&snapshot, key, now) => {
                        Some(key.current_version)
                    }
                    // The row cannot be trusted. The attempt fails and is recorded.
                    _ if snapshot.is_damaged(id) => None,
                    _ => continue,
                }
            };
            if is_known_full(session, id) {
                continue;
            }
            match session.rotate_located(Some(id), expected).await {
                Ok(()) => report.rotated.push(id),
                Err(error) if error.code() == ErrorCode::LimitExceeded => {
                    full_keys(session).insert(id, session.shared().clock.now());
                    fail(report, id, "rotated", error);
                }
                Err(error) if error.code() == ErrorCode::Conflict => {
                    tracing::debug!(key = %id, "another process rotated the key first");
                }
                Err(error) if error.code() == ErrorCode::Closed => return Err(error),
                Err(error) => fail(report, id, "rotated", error),
            }
        }
        let due = due(session, Due::Rotation, &mut last).await?;
        if due.is_empty() {
            return Ok(());
        }
        page = due.into_iter().filter(|id| !misdated.contains(id)).collect();
    }
}

/// The keys that have too many versions to be rotated, each with the time at which that was recorded.
fn full_keys(session: &Session) -> MutexGuard<'_, HashMap<KeyId, Timestamp>> {
    session.shared().full_keys.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a key is known to have too many versions and still has. This is recorded once a day.
fn is_known_full(session: &Session, id: KeyId) -> bool {
    let shared = session.shared();
    let is_full = shared.catalog.snapshot().live_versions(id) >= shared.config.versions_max as usize;
    let mut full_keys = full_keys(session);
    if !is_full {
        full_keys.remove(&id);
    }
    full_keys.get(&id).is_some_and(|recorded| shared.clock.now() < recorded.plus_days(1))
}

/// Finds keys with a rotation period that were created or rotated by a clock that was ahead; their next rotation would
/// be late by the same amount.
fn misdated(session: &Session) -> HashSet<KeyId> {
    let now = session.shared().clock.now();
    let mut found = HashSet::new();
    let mut after: Option<String> = None;
    loop {
        let snapshot = session.shared().catalog.snapshot();
        // The usual case: no version is dated in the future.
        if !snapshot.newest_version_at().is_some_and(|newest| skew::is_to_come(newest, now)) {
            return HashSet::new();
        }
        // The snapshot is locked only briefly, one page at a time.
        let page: Vec<&Key> = snapshot.keys_by_name(after.as_deref()).take(KEYS_LOOKED_AT).collect();
        found.extend(page.iter().filter(|key| is_misdated(&snapshot, key, now)).map(|key| key.id));
        match page.last() {
            Some(last) if page.len() == KEYS_LOOKED_AT => after = Some(last.name.clone()),
            _ => return found,
        }
    }
}

fn is_misdated(snapshot: &Snapshot, key: &Key, now: Timestamp) -> bool {
    let current = snapshot.version(key.id, key.current_version);
    key.rotate_at.is_some() && current.is_some_and(|version| skew::is_to_come(version.created_at, now))
}

async fn destroy(session: &Session, report: &mut JobReport) -> Result<()> {
    let mut last = None;
    loop {
        let due = due(session, Due::Destruction, &mut last).await?;
        if due.is_empty() {
            return Ok(());
        }
        for id in due {
            match session.destroy_located(id).await {
                Ok(()) => report.destroyed.push(id),
                Err(error) if matches!(error.code(), ErrorCode::KeyDestroyed | ErrorCode::WrongState) => {
                    tracing::debug!(key = %id, "another process completed or cancelled the deletion first");
                }
                Err(error) if error.code() == ErrorCode::Closed => return Err(error),
                Err(error) => fail(report, id, "destroyed", error),
            }
        }
    }
}

async fn revoke_expired(session: &Session, even_if_used: bool, report: &mut JobReport) -> Result<()> {
    let (mut last, mut doubtful) = (None, None);
    loop {
        let mut connection = session.shared().store.reader().await?;
        let over = usage::windows_over(connection.as_mut(), session.shared().clock.now(), last, PAGE).await?;
        last = over.last().copied();
        if last.is_none() {
            return Ok(());
        }
        drop(connection);
        let spans = match doubtful.take() {
            Some(spans) => spans,
            None => doubtful_times(session.shared(), session.shared().store.long_reader().await?.as_mut()).await?,
        };
        session.shared().catalog.ensure_fresh().await?;
        revoke_unused(session, over, (&spans, even_if_used), report).await?;
        doubtful = Some(spans);
    }
}

/// Revokes versions whose window is over. Versions that were, or may have been, used since they were replaced are left
/// alone unless `even_if_used` is set.
async fn revoke_unused(
    session: &Session,
    over: Vec<OverVersion>,
    (doubtful, even_if_used): (&[RangeInclusive<Timestamp>], bool),
    report: &mut JobReport,
) -> Result<()> {
    let is_doubtful = |time: Timestamp| doubtful.iter().any(|span| span.contains(&time));
    for OverVersion { key: id, version, last_used_at: last_used, .. } in over {
        let replaced = session.shared().catalog.snapshot().version_after(id, version).map(|next| next.created_at);
        let used_since = replaced
            .zip(last_used)
            .is_some_and(|(replaced, used)| used > replaced || is_doubtful(replaced) || is_doubtful(used));
        if (used_since && !even_if_used) || is_left_alone(session, id) {
            continue;
        }
        match session.revoke_located(id, version).await {
            Ok(()) => report.revoked.push((id, version)),
            Err(error) if matches!(error.code(), ErrorCode::VersionRevoked | ErrorCode::VersionDestroyed) => {}
            Err(error) if error.code() == ErrorCode::Closed => return Err(error),
            Err(error) => fail(report, id, "revoked", error),
        }
    }
    Ok(())
}

/// Whether the scheduler leaves the key's versions alone: the key is revoked, and all its versions with it, or it is
/// held by an import, whose source may still move windows.
fn is_left_alone(session: &Session, id: KeyId) -> bool {
    let snapshot = session.shared().catalog.snapshot();
    snapshot.key(id).is_some_and(|key| key.is_revoked() || key.is_held_by_import())
}

/// The next page of keys on which scheduled work is due. A key on which it failed is still due, and is not returned
/// again.
async fn due(session: &Session, what: Due, last: &mut Option<DueKey>) -> Result<Vec<KeyId>> {
    session.shared().catalog.ensure_fresh().await?;
    let mut connection = session.shared().store.reader().await?;
    let found = usage::due(connection.as_mut(), what, session.shared().clock.now(), *last, PAGE).await?;
    *last = found.last().copied().or(*last);
    Ok(found.into_iter().map(|(_, id)| id).collect())
}

fn fail(report: &mut JobReport, id: KeyId, what: &str, error: Error) {
    tracing::warn!(key = %id, %error, "a due key could not be {what}");
    report.failed.push((id, error));
}
