//! Operational metrics, computed in constant time however long the log is.

mod telemetry;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::catalog::Snapshot;
pub use crate::ledger::{BATCH_BOUNDS, COMMIT_BOUNDS, CommitMetrics, StorageMetrics};
use crate::session::{LAST_VERIFICATION, Session};
use crate::storage::Connection;
use crate::storage::tables::usage::{self, Due, DueKey};
use crate::types::attempt::Operation;
use crate::types::audit::{Action, Status};
use crate::types::error::Result;
use crate::types::ids::KeyId;
use crate::types::key::KeyState;
use crate::types::limits::ENCRYPTIONS_MAX;
use crate::types::time::Timestamp;
use crate::types::view::CatalogView;

pub use telemetry::{CacheUse, LastVerification, Ready, RootKeyHealth, Telemetry};
pub(crate) use telemetry::{ready, telemetry};

/// The maximum number of entries in a list of alerts.
const ALERTS: usize = 100;
/// A window that ends within this many days is ending soon, and a use within this many days is recent.
const SOON_DAYS: u32 = 7;

/// The operational metrics of a store.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Metrics {
    /// Key counts and alerts.
    pub keys: KeyMetrics,
    /// Verification and failure counts of the log.
    pub audit: AuditMetrics,
    /// Counts of recent encryptions, decryptions and rotations.
    pub usage: UsageMetrics,
    /// Disk space of the store.
    pub storage: StorageMetrics,
}

/// Keys by state, and alerts about keys that need attention.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct KeyMetrics {
    /// The total number of keys, including destroyed ones.
    pub total: u64,
    /// The number of keys in each state.
    pub by_state: BTreeMap<KeyState, u64>,
    /// The total number of versions of all keys.
    pub total_versions: u64,
    /// Keys whose rotation is due, the longest overdue first; at most 100.
    pub rotation_alerts: Vec<RotationAlert>,
    /// Versions that were used within the last 7 days and whose window ends within the next 7; at most 100.
    pub windows_ending: Vec<WindowAlert>,
    /// Current versions of keys that have encrypted more than 2^31 messages, so that a rotation is due; at most 100.
    pub near_encryption_limit: Vec<EncryptionAlert>,
}

/// A key whose rotation is due.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RotationAlert {
    /// The key's identifier.
    pub id: KeyId,
    /// The key's name.
    pub name: String,
    /// The rotation period in days.
    pub rotation_period_days: u32,
    /// The days for which a former version stays usable after a rotation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_days: Option<u32>,
    /// The number of days since the last rotation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub days_since_rotation: Option<u32>,
    /// The time of the last rotation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_rotated_at: Option<Timestamp>,
}

/// A version that was used recently and stops working soon.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct WindowAlert {
    /// The key's identifier.
    pub id: KeyId,
    /// The key's name.
    pub name: String,
    /// The number of the version.
    pub version: u32,
    /// The time after which the version no longer works.
    pub not_after: Timestamp,
    /// The time of the version's last use.
    pub last_used_at: Timestamp,
}

/// A version that is due for rotation because of the number of messages it has encrypted.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct EncryptionAlert {
    /// The key's identifier.
    pub id: KeyId,
    /// The key's name.
    pub name: String,
    /// The number of the version.
    pub version: u32,
    /// The number of messages encrypted under the version.
    pub encryptions: u64,
    /// The number of messages after which the version refuses to encrypt.
    pub limit: u64,
}

/// Verification and failure counts of the log.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct AuditMetrics {
    /// The last verification: its time, whether the log was intact, and otherwise where it is broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_verification: Option<Value>,
    /// Verifications of the log in the last 24 hours that found a fault, failed or were refused.
    pub failures_last24h: u64,
    /// All operations in the last 24 hours that failed or were refused.
    pub failed_operations_last24h: u64,
}

/// Operation counts. Items of batches count individually. Counts are kept by whole hours, so up to an hour before the
/// period may be included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct UsageMetrics {
    /// Encryptions in the last 24 hours.
    pub encryptions_last24h: u64,
    /// Decryptions in the last 24 hours.
    pub decryptions_last24h: u64,
    /// Rotations in the last 30 days.
    pub rotations_last30d: u64,
}

impl Session {
    /// Whether the actor may read [`crate::Kms::telemetry`], for a front end that shows it to its callers: admins,
    /// auditors, and callers that may read all keys. `AccessDenied` otherwise. While the store is unavailable, the
    /// rights that were read last apply, and a refusal is not recorded.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn permit_telemetry(&self) -> Result<()> {
        telemetry::permit(self).await
    }

    /// The operational metrics. For admins, auditors, and callers that may read all keys.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn metrics(&self) -> Result<Metrics> {
        if !self.may_read_all_keys().await? {
            self.permit_reading(Action::MetricsRead, Operation::ReadMetrics, None).await?;
        }
        let now = self.shared().clock.now();
        let mut connection = self.reader().await?;
        let connection = connection.as_mut();
        let (day, month) = last_day_and_month(connection, now).await?;
        let due = usage::due(connection, Due::Rotation, now, None, ALERTS).await?;
        let soon = now.plus_days(SOON_DAYS);
        let ending = usage::windows_ending(connection, now, soon, now.minus_days(SOON_DAYS), ALERTS).await?;
        let near = usage::near_limit(connection, ALERTS).await?;
        let last = usage::meta(connection, LAST_VERIFICATION).await?;
        Ok(Metrics {
            keys: key_metrics(&self.shared().catalog.snapshot(), now, Found { due, ending, near }),
            audit: AuditMetrics {
                last_verification: last.and_then(|text| serde_json::from_str(&text).ok()),
                failures_last24h: sum(&day, Some(Action::AuditVerify), Status::Failure),
                failed_operations_last24h: sum(&day, None, Status::Failure),
            },
            usage: UsageMetrics {
                encryptions_last24h: sum(&day, Some(Action::Encrypt), Status::Success),
                decryptions_last24h: sum(&day, Some(Action::Decrypt), Status::Success),
                rotations_last30d: sum(&month, Some(Action::KeyRotate), Status::Success),
            },
            storage: self.shared().space.metrics(),
        })
    }
}

/// Sums over hours: action, status and the number of operations.
type Sums = Vec<(String, String, u64)>;

/// The sums of the last 24 hours and of the last 30 days, as of one moment.
async fn last_day_and_month(connection: &mut dyn Connection, now: Timestamp) -> Result<(Sums, Sums)> {
    // A record's time may be slightly ahead of this clock.
    let hour = now.plus_seconds(60).hour();
    connection.begin_read().await?;
    let day = usage::sums(connection, now.hour() - 24, hour).await;
    let month = usage::sums(connection, now.minus_days(30).hour(), hour).await;
    connection.rollback().await?;
    Ok((day?, month?))
}

/// The number of operations with this status: of one action, or of all.
fn sum(sums: &Sums, only: Option<Action>, status: Status) -> u64 {
    let wanted = sums
        .iter()
        .filter(|(action, found, _)| found == status.as_str() && only.is_none_or(|only| action == only.as_str()));
    wanted.fold(0, |total, (.., count)| total.saturating_add(*count))
}

/// The keys and versions that the store found in need of attention.
struct Found {
    /// Keys whose rotation is due.
    due: Vec<DueKey>,
    /// Versions whose grace window ends soon: key, number, the end, and the last use.
    ending: Vec<(KeyId, u32, Timestamp, Timestamp)>,
    /// Versions near their limit: key, number, and the encryptions.
    near: Vec<(KeyId, u32, u64)>,
}

fn key_metrics(snapshot: &Snapshot, now: Timestamp, found: Found) -> KeyMetrics {
    let mut by_state: BTreeMap<KeyState, u64> = KeyState::ALL.iter().map(|state| (*state, 0)).collect();
    by_state.extend(snapshot.keys_by_state());
    let name = |id: KeyId| snapshot.key(id).map(|key| key.name.clone()).unwrap_or_default();
    // The rows of the versions do not show that the key was revoked.
    let is_live = |id: KeyId| snapshot.key(id).is_some_and(|key| !key.is_revoked());
    let rotation_alert = |id: KeyId| {
        let key = snapshot.key(id)?;
        let rotated = snapshot.version(id, key.current_version).map(|version| version.created_at);
        Some(RotationAlert {
            id,
            name: key.name.clone(),
            rotation_period_days: key.rotation_period_days?,
            grace_period_days: key.grace_period_days,
            days_since_rotation: rotated.map(|rotated| now.days_since(rotated)),
            last_rotated_at: rotated,
        })
    };
    let ending = found.ending.into_iter().filter(|(id, ..)| is_live(*id));
    let is_current = |id: KeyId, version| snapshot.key(id).is_some_and(|key| key.current_version == version);
    let near = found.near.into_iter().filter(|(id, version, _)| is_live(*id) && is_current(*id, *version));
    KeyMetrics {
        total: snapshot.key_count() as u64,
        by_state,
        total_versions: snapshot.version_count() as u64,
        rotation_alerts: found.due.into_iter().filter_map(|(_, id)| rotation_alert(id)).collect(),
        windows_ending: ending
            .map(|(id, version, not_after, last_used_at)| WindowAlert {
                id,
                name: name(id),
                version,
                not_after,
                last_used_at,
            })
            .collect(),
        near_encryption_limit: near
            .map(|(id, version, encryptions)| EncryptionAlert {
                id,
                name: name(id),
                version,
                encryptions,
                limit: ENCRYPTIONS_MAX,
            })
            .collect(),
    }
}
