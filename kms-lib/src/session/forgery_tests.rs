//! An attacker that has the integrity key, because the root key leaked, can forge rows whose parts of the row
//! commitment cancel out. Replacing the integrity key must not validate such rows.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use super::{NewGrant, RetireOptions, RootKeyJob, Session, Shared};
use crate::catalog::Trust;
use crate::envelope::{RootKeySource, RowSet, Seals, row};
use crate::ledger::tests::{open, reopen};
use crate::scheduler::SchedulerConfig;
use crate::types::grant::Grant;
use crate::types::ids::GrantId;
use crate::{Actor, Context, ErrorCode, NewKey, Permission, Role};

/// A forged grant of everything, for an invented principal.
fn forged(model: &Grant, n: usize) -> Grant {
    Grant { id: GrantId::random(), principal: format!("mallory-{n}"), ..model.clone() }
}

/// Returns some of these grants, always including the first, whose parts of the row commitment cancel out. They are
/// found by Gaussian elimination over bits, since the parts are added without carry.
fn cancelling(seals: &Seals, model: &Grant) -> Vec<Grant> {
    let mut basis: Vec<(RowSet, Vec<Grant>)> = Vec::new();
    let is_set = |set: &RowSet, bit: usize| set.bytes()[bit / 8] >> (bit % 8) & 1 == 1;
    let lowest = |set: &RowSet| (0..256).find(|bit| is_set(set, *bit));
    for n in 0.. {
        let grant = forged(model, n);
        let mut rest = RowSet::of(seals, &row::grant(&grant).unwrap());
        let mut used = vec![grant];
        while let Some(bit) = lowest(&rest) {
            let Some((set, grants)) = basis.iter().find(|(set, _)| lowest(set) == Some(bit)) else { break };
            rest.combine(set);
            used.extend(grants.iter().cloned());
        }
        // A grant that is included twice cancels out.
        used.sort_unstable_by_key(|grant| grant.id);
        let mut odd: Vec<Grant> = Vec::new();
        for grant in used {
            match odd.last() {
                Some(last) if last.id == grant.id => drop(odd.pop()),
                _ => odd.push(grant),
            }
        }
        if rest == RowSet::default() {
            return odd;
        }
        basis.push((rest, odd));
    }
    unreachable!()
}

/// Writes grants into the database like an attacker with write access and the integrity key.
fn insert(file: &Path, seals: &Seals, model: &Grant, grants: &[Grant]) {
    let mut raw = rusqlite::Connection::open(file).unwrap();
    let raw = raw.transaction().unwrap();
    raw.execute("CREATE TABLE model AS SELECT * FROM grants WHERE id = ?", [model.id.as_bytes()]).unwrap();
    for grant in grants {
        let seal = seals.seal(&row::grant(grant).unwrap());
        let values = rusqlite::params![grant.id.as_bytes(), grant.principal, grant.revision.cast_signed(), &seal[..]];
        raw.execute("UPDATE model SET id = ?, principal = ?, revision = ?, seal = ?", values).unwrap();
        raw.execute("INSERT INTO grants SELECT * FROM model", []).unwrap();
    }
    raw.execute("DROP TABLE model", []).unwrap();
    raw.commit().unwrap();
}

fn remove(file: &Path) {
    let raw = rusqlite::Connection::open(file).unwrap();
    raw.execute("DELETE FROM grants WHERE principal LIKE 'mallory-%'", []).unwrap();
}

/// Whether the forged grants are in force.
async fn count(shared: &Arc<Shared>, grants: &[Grant]) -> bool {
    let mallory = Session::new(Arc::clone(shared), Actor::new(&grants[0].principal, Role::App).unwrap());
    mallory.encrypt("k", b"x", &Context::new()).await.is_ok()
}

async fn model(shared: &Shared, session: &Session) -> Grant {
    let grant = NewGrant::new("app", Role::App).on_all_keys().allow([Permission::Encrypt]);
    let id = session.put_grant(grant).await.unwrap().id;
    shared.catalog.snapshot().grants().find(|grant| grant.id == id).cloned().unwrap()
}

/// Forged rows that a service has read and that are gone when it verifies the tables: they exist in memory only.
#[tokio::test(flavor = "multi_thread")]
async fn forged_rows_that_are_in_memory_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let (shared, session, _faults) = open(&file).await;
    let model = model(&shared, &session).await;
    let seals = shared.catalog.seals();
    let grants = cancelling(&seals, &model);
    insert(&file, &seals, &model, &grants);
    drop((session, shared));

    let (shared, session, _faults) = reopen(&file).await;
    assert_eq!(shared.catalog.snapshot().trust(), Trust::Verified);
    assert!(count(&shared, &grants).await, "forged rows that cancel out cannot be recognized");
    remove(&file);
    let refused = session.replace_integrity_key().await.map(|done| done.number);
    insert(&file, &seals, &model, &grants);
    assert_eq!(refused.err().map(|error| error.code()), Some(ErrorCode::IntegrityFailure));
    assert_eq!(shared.catalog.seals().number(), 1);
    drop((session, shared));

    // Opened again without them, the key can be replaced; then they are worthless.
    remove(&file);
    let (shared, session, _faults) = reopen(&file).await;
    session.replace_integrity_key().await.unwrap();
    insert(&file, &seals, &model, &grants);
    drop((session, shared));
    let (shared, _session, _faults) = reopen(&file).await;
    assert!(!count(&shared, &grants).await);
}

/// Rows that are forged between the verification and the record of the replacement, while others change rows too.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_change_after_the_verification() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let (shared, session, _faults) = open(&file).await;
    let model = model(&shared, &session).await;
    let (_other, elsewhere, _faults) = reopen(&file).await;

    let recorded = session.require_sound_rows().await.unwrap();
    session.create_key(NewKey::aes("here")).await.unwrap();
    elsewhere.create_key(NewKey::aes("there")).await.unwrap();
    elsewhere.encrypt("there", b"x", &Context::new()).await.unwrap();
    session.commit_integrity_key(recorded).await.unwrap();
    session.finish_resealing().await.unwrap();
    assert!(session.verify_audit().await.unwrap().ok);

    let recorded = session.require_sound_rows().await.unwrap();
    let seals = shared.catalog.seals();
    let revision = shared.catalog.snapshot().revision() + 1;
    let grants = cancelling(&seals, &Grant { revision, ..model.clone() });
    insert(&file, &seals, &model, &grants);
    while shared.catalog.snapshot().revision() < revision {
        elsewhere.create_key(NewKey::aes("more")).await.unwrap();
        shared.catalog.ensure_fresh().await.unwrap();
    }
    assert!(count(&shared, &grants).await, "forged rows that cancel out cannot be recognized");
    let refused = session.commit_integrity_key(recorded).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::IntegrityFailure, "{refused}");
}

/// A signing key of the log, wrapped under the leaked root key, that no earlier signing key signed for.
#[tokio::test(flavor = "multi_thread")]
async fn a_signing_key_that_nobody_signed_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let (shared, session, _faults) = open(&file).await;
    let forged = shared.signer.generate(&shared.signer.keys()).await.unwrap();
    let raw = rusqlite::Connection::open(&file).unwrap();
    let id = forged.id.as_bytes();
    let columns = "kind, number, public_key, fingerprint, first_seq, state, revision, seal, id";
    let insert = format!(
        "INSERT INTO service_keys ({columns}) \
         SELECT kind, 2, ?, ?, (SELECT MAX(seq) FROM audit_logs), state, revision, \
         seal, ? FROM service_keys WHERE kind = 'signing'"
    );
    raw.execute(&insert, rusqlite::params![forged.key.public_key(), forged.fingerprint, id]).unwrap();
    let wrapped = "INSERT INTO wrappings (subject, generation, wrapped, verified, seal) VALUES (?, 1, ?, 0, x'00')";
    raw.execute(wrapped, rusqlite::params![id, forged.wrapped[0].bytes]).unwrap();
    // Neither a verification nor a replacement accepts it.
    assert!(!session.verify_audit().await.unwrap().ok);
    assert_eq!(session.replace_signing_key().await.unwrap_err().code(), ErrorCode::IntegrityFailure);
    assert_eq!(shared.signer.keys().public().newest().number, 1);
    raw.execute("DELETE FROM service_keys WHERE number = 2", []).unwrap();
    session.encrypt("k", b"x", &Context::new()).await.unwrap();
}

/// While rows are resealed, other data that the former key sealed is not accepted: idempotency records and marks of
/// wrappings. The scheduler completes the resealing, whatever other jobs are enabled.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_former_key_sealed_beside_the_rows() {
    let folder = tempfile::tempdir().unwrap();
    let (shared, session, _faults) = open(&folder.path().join("kms.db")).await;
    let once = session.with_idempotency_key("once").unwrap();
    once.rotate_key("k", None).await.unwrap();
    session.add_root_key(&RootKeySource::from_bytes([9; 32])).await.unwrap();
    session.rewrap(&RootKeyJob::default()).await.unwrap();
    session.verify_root_key(2, &RootKeyJob::default()).await.unwrap();
    let recorded = session.require_sound_rows().await.unwrap();
    session.commit_integrity_key(recorded).await.unwrap();
    assert!(shared.catalog.seals().has_former());
    let answer = once.rotate_key("k", None).await.unwrap_err();
    assert_eq!(answer.code(), ErrorCode::IdempotencyConflict, "{answer}");
    let marks = session.retire_root_key(1, &RetireOptions::default()).await.unwrap_err();
    assert!(marks.message().contains("verified wrapping"), "{marks}");

    let scheduler = Session::new(Arc::clone(&shared), Actor::internal("scheduler"));
    let idle = SchedulerConfig::default().rotate(false).destroy(false).verify(false);
    crate::kms::jobs::run(&scheduler, &idle).await.unwrap();
    assert!(!shared.catalog.seals().has_former());
}

/// The wrappings of a version that was in quarantine when the key was replaced have no valid seal afterwards. Once the
/// row is restored, rewrapping seals them again, since their material matches the row.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_in_quarantine() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let (shared, session, _faults) = open(&file).await;
    let raw = rusqlite::Connection::open(&file).unwrap();
    raw.execute("CREATE TABLE right AS SELECT * FROM key_versions", []).unwrap();
    raw.execute("UPDATE key_versions SET fingerprint = seal", []).unwrap();
    drop((session, shared));
    let (shared, session, _faults) = reopen(&file).await;
    assert_eq!(session.list_quarantine().await.unwrap().len(), 1);
    assert_eq!(session.replace_integrity_key().await.unwrap().left, 1);
    raw.execute_batch("DELETE FROM key_versions; INSERT INTO key_versions SELECT * FROM right; DROP TABLE right")
        .unwrap();
    assert_eq!(session.release_quarantine().await.unwrap().len(), 1);
    session.encrypt("k", b"x", &Context::new()).await.unwrap();

    let job = RootKeyJob::default();
    session.add_root_key(&RootKeySource::from_bytes([9; 32])).await.unwrap();
    let report = session.rewrap(&job).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
    assert!(session.verify_root_key(2, &job).await.unwrap().is_complete());
    session.retire_root_key(1, &RetireOptions::default()).await.unwrap();
    let report = session.verify_audit().await.unwrap();
    assert!(report.ok, "{report:?}");
    drop((session, shared));
}
