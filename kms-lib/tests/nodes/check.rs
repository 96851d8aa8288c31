//! Checks of a log that several nodes wrote.

use std::collections::HashSet;

use kms_lib::internals::hex;
use kms_lib::{Action, AuditRecord, Kms, Session, Status};

use crate::common::{admin, whole_log};
use crate::node::Acknowledged;

/// Checks that the log verifies, has no fork, and contains every acknowledged operation.
pub async fn check(kms: &Kms, acknowledged: &[Acknowledged]) -> Vec<AuditRecord> {
    let session = admin(kms);
    let report = session.verify_audit().await.unwrap();
    assert!(report.ok, "{:?}", report.faults);
    let rows = whole_log(&session).await;
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(row.seq, i as u64 + 1, "the log has a gap");
    }
    let mut seen = HashSet::new();
    for node in acknowledged {
        for (seq, hash) in &node.receipts {
            assert!(seen.insert(*seq), "record {seq} was acknowledged twice");
            let row = &rows[usize::try_from(*seq).unwrap() - 1];
            assert_eq!(&hex(&row.hash), hash, "{}: an acknowledged operation is not in the log", node.name);
            assert_eq!(row.status, Status::Success.as_str());
        }
    }
    check_revocations(&rows);
    check_grants(&rows);
    check_rotations(&session, &rows).await;
    check_deletions(&rows);
    rows
}

/// Checks that the nodes performed every kind of operation, because the other checks depend on it.
pub fn check_variety(rows: &[AuditRecord]) {
    for action in [Action::KeyRotate, Action::KeyRevoke, Action::KeyDestroy, Action::GrantCreate, Action::GrantWithdraw]
    {
        assert!(successes(rows).any(|row| row.action == action.as_str()), "no node performed {action:?}");
    }
    assert!(successes(rows).any(|row| row.actor == "app"), "no node used a grant");
}

/// Checks from the log alone that no operation uses a grant after its withdrawal.
fn check_grants(rows: &[AuditRecord]) {
    let mut withdrawn = HashSet::new();
    for row in successes(rows) {
        let details: serde_json::Value = serde_json::from_str(row.details.as_deref().unwrap_or("{}")).unwrap();
        if let Some(grant) = details["grant"].as_str() {
            assert!(!withdrawn.contains(grant), "record {} uses a withdrawn grant", row.seq);
        }
        if row.action == Action::GrantWithdraw.as_str() {
            withdrawn.insert(details["grantId"].as_str().unwrap().to_owned());
        }
    }
}

fn successes(rows: &[AuditRecord]) -> impl Iterator<Item = &AuditRecord> {
    rows.iter().filter(|row| row.status == Status::Success.as_str())
}

/// Checks from the log alone that no operation uses a version after its revocation.
fn check_revocations(rows: &[AuditRecord]) {
    let mut revoked = HashSet::new();
    for row in successes(rows) {
        let used = (row.key_id, row.key_version);
        if row.action == Action::KeyRevoke.as_str() {
            revoked.insert(used);
        } else if row.action == Action::Encrypt.as_str() || row.action == Action::Decrypt.as_str() {
            assert!(!revoked.contains(&used), "record {} uses a revoked version", row.seq);
        }
    }
}

/// Checks that the versions of the shared key are numbered without a gap and without duplicates.
async fn check_rotations(session: &Session, rows: &[AuditRecord]) {
    let key = session.get_key("shared").await.unwrap();
    let made: Vec<u32> = successes(rows)
        .filter(|row| row.action == Action::KeyRotate.as_str() && row.key_id == Some(key.id))
        .map(|row| row.key_version.unwrap())
        .collect();
    let expected: Vec<u32> = (2..=key.current_version).collect();
    assert_eq!(made, expected);
}

/// Checks that each key that was due was destroyed once, by any of the schedulers.
fn check_deletions(rows: &[AuditRecord]) {
    let mut destroyed = HashSet::new();
    for row in successes(rows).filter(|row| row.action == Action::KeyDestroy.as_str()) {
        assert!(destroyed.insert(row.key_id), "a key was destroyed twice");
    }
}
