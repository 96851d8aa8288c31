//! Sessions on a store with injected faults: a committed change is reported as such, and absent keys cost as many reads
//! as existing ones.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{
    DecryptItem, GrantFilter, NewGrant, NewToken, Paging, RetireOptions, RootKeyJob, Session, Shared, SignItem,
    VerifyItem,
};
use crate::envelope::RootKeySource;
use crate::ledger::Details;
use crate::ledger::tests::{Faults, open, reopen};
use crate::lifecycle::{CheckedWrapping, Command, NewGeneration, RetirementCheck};
use crate::storage::tables::usage::{self, Due};
use crate::storage::tables::wrappings::{self, WrappingRow};
use crate::types::audit::Action;
use crate::types::root_key::{RootKeyState, ServiceKeyKind};
use crate::{
    Actor, AuditQuery, Config, Context, ErrorCode, KeyFilter, KeyId, KeyRef, KeyUpdate, NewKey, Permission, Result,
    Role, SignatureAlgorithm,
};

/// More reads than any change needs.
const READS: u32 = 8;

/// Makes a change on a store that allows only `reads` reads; returns its result.
async fn with_reads<T>(faults: &Faults, reads: u32, change: impl Future<Output = Result<T>>) -> Result<T> {
    faults.readers_left.store(reads, Ordering::SeqCst);
    let done = change.await;
    faults.readers_left.store(u32::MAX, Ordering::SeqCst);
    done
}

/// Asserts that a change is reported as made exactly if it was.
#[track_caller]
fn agree<T>(what: &str, reads: u32, answered: &Result<T>, is_made: bool) {
    let code = answered.as_ref().err().map(crate::Error::code);
    assert_eq!(answered.is_ok(), is_made, "{what} with {reads} reads: {code:?}");
}

/// A store that can be written but no longer read: no committed change is reported as a failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_committed_change_is_answered_whatever_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let (_shared, session, faults) = open(&folder.path().join("kms.db")).await;
    let version = async |name: &str| session.get_key(name).await.unwrap().current_version;
    for reads in 0..READS {
        for (once, kind) in [(false, "plain"), (true, "once")] {
            let session =
                if once { session.with_idempotency_key(&format!("create {reads}")).unwrap() } else { session.clone() };
            let name = format!("{kind}{reads}");
            let made = with_reads(&faults, reads, session.create_key(NewKey::rsa_signing(&name))).await;
            agree("create", reads, &made, session.get_key(name.as_str()).await.is_ok());
            if let Ok(made) = made {
                let first = &made.versions.as_ref().unwrap()[0];
                assert!(first.public_key_pem.is_some() && first.encryptions == Some(0), "{first:?}");
            }

            let session =
                if once { session.with_idempotency_key(&format!("rotate {reads}")).unwrap() } else { session.clone() };
            let before = version("k").await;
            let rotated = with_reads(&faults, reads, session.rotate_key("k", None)).await;
            agree("rotate", reads, &rotated, version("k").await == before + 1);
            if let Ok(rotated) = rotated {
                assert_eq!((rotated.current_version, rotated.versions.unwrap().len() as u32), (before + 1, before + 1));
            }
        }
        let update = KeyUpdate::new().grace_period_days(reads + 1);
        let updated = with_reads(&faults, reads, session.update_key("k", update)).await;
        let is_made = session.get_key("k").await.unwrap().grace_period_days == Some(reads + 1);
        agree("update", reads, &updated, is_made);

        let to = format!("app{reads}");
        let grant = session.put_grant(NewGrant::new(&to, Role::App).on_all_keys().allow([Permission::Read]));
        let made = with_reads(&faults, reads, grant).await;
        let granted = session.list_grants(&GrantFilter::new().principal(&to), &Paging::new(1)).await.unwrap();
        agree("grant", reads, &made, !granted.items.is_empty());
        let tokens = async || session.list_credentials(&Paging::new(1_000)).await.unwrap().items.len();
        let before = tokens().await;
        let made = with_reads(&faults, reads, session.create_token(NewToken::new(&to, Role::App))).await;
        agree("token", reads, &made, tokens().await == before + 1);
    }
    assert!(session.verify_audit().await.unwrap().ok);
}

/// The number of reader connections that an attempt takes, which must fail with this code.
async fn reads<T>(faults: &Faults, expected: ErrorCode, attempt: impl Future<Output = Result<T>>) -> u32 {
    faults.readers_left.store(u32::MAX, Ordering::SeqCst);
    let error = attempt.await.err().unwrap();
    assert_eq!(error.code(), expected, "{error}");
    u32::MAX - faults.readers_left.load(Ordering::SeqCst)
}

/// A caller without permissions cannot tell from the amount of work whether a key exists.
#[tokio::test(flavor = "multi_thread")]
async fn absent_keys_take_the_same_reads_as_present_ones() {
    let folder = tempfile::tempdir().unwrap();
    let (shared, session, faults) = open(&folder.path().join("kms.db")).await;
    let present = session.get_key("k").await.unwrap().id;
    let sealed = session.encrypt("k", b"x", &Context::new()).await.unwrap().ciphertext;
    let nobody = Session::new(shared, Actor::new("nobody", Role::App).unwrap());
    let pairs: [(KeyRef, KeyRef); 2] = [("k".into(), "unknown".into()), (present.into(), KeyId::random().into())];
    for (present, absent) in pairs {
        let mut counts = Vec::new();
        for key in [present, absent] {
            let denied = ErrorCode::AccessDenied;
            let none = Context::new();
            let beside = |ciphertext| DecryptItem::new(ciphertext, Context::new()).key(&key);
            let grant = NewGrant::new("friend", Role::App).on_key(&key).allow([Permission::Read]);
            counts.push([
                reads(&faults, denied, nobody.get_key(&key)).await,
                reads(&faults, denied, nobody.public_key(&key, 1)).await,
                reads(&faults, denied, nobody.put_grant(grant)).await,
                reads(&faults, denied, nobody.rotate_key(&key, None)).await,
                reads(&faults, denied, nobody.revoke_key(&key)).await,
                reads(&faults, denied, nobody.revoke_version(&key, 1)).await,
                reads(&faults, denied, nobody.encrypt(&key, b"x", &none)).await,
                reads(&faults, denied, nobody.decrypt_item(beside(b"rubbish"))).await,
                reads(&faults, denied, nobody.decrypt_oaep(&key, 1, b"rubbish")).await,
            ]);
        }
        assert_eq!(counts[0], counts[1]);
    }
    // A call names, with its ciphertext, another key or a key that does not exist.
    let other = session.create_key(NewKey::aes("other")).await.unwrap().id;
    for (caller, code) in [(&session, ErrorCode::InvalidCiphertext), (&nobody, ErrorCode::AccessDenied)] {
        let mut counts = Vec::new();
        let keys: [KeyRef; 4] = [other.into(), KeyId::random().into(), "other".into(), "unknown".into()];
        for key in keys {
            counts.push(reads(&faults, code, caller.decrypt_with(key, &sealed, &Context::new())).await);
        }
        assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
    }
    let all = session.list_keys(&KeyFilter::new(), &Paging::new(10)).await.unwrap();
    assert_eq!(all.items.len(), 2);
}

/// Adds a root key and verifies everything under it; returns its generation.
async fn move_to(session: &Session, key: [u8; 32]) -> u32 {
    let added = session.add_root_key(&RootKeySource::from_bytes(key)).await.unwrap().generation;
    assert!(session.rewrap(&RootKeyJob::default()).await.unwrap().is_complete());
    assert!(session.verify_root_key(added, &RootKeyJob::default()).await.unwrap().is_complete());
    added
}

/// Retiring fails only if the generation is not retired, whichever read fails; wrappings that are left are reported.
#[tokio::test(flavor = "multi_thread")]
async fn a_retirement_that_took_place_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let (_shared, session, faults) = open(&folder.path().join("kms.db")).await;
    let (mut former, mut pending) = (1, 0);
    for reads in 0..24 {
        let newest = move_to(&session, [100 + reads; 32]).await;
        let retired =
            with_reads(&faults, reads.into(), session.retire_root_key(former, &RetireOptions::default())).await;
        let listed = session.list_root_keys().await.unwrap();
        let state = listed.iter().find(|root| root.generation == former).unwrap().state;
        agree("retire", reads.into(), &retired, state == RootKeyState::Retired);
        if let Ok(retired) = retired {
            assert_eq!(retired.root_key.state, RootKeyState::Retired);
            pending += u32::from(retired.erasure_pending);
        }
        let again = session.retire_root_key(former, &RetireOptions::default()).await.unwrap();
        assert_eq!((again.erasure_pending, again.root_key.wrappings), (false, 0));
        former = newest;
    }
    assert!(pending > 0, "no read failed after the commit");
    assert!(session.verify_audit().await.unwrap().ok);
}

/// Notes of one wrapping under generation 2 that it does not open any more.
async fn withdraw_a_mark(shared: &Shared, session: &Session) {
    let subject = *shared.catalog.snapshot().versions().next().unwrap().id.as_bytes();
    let fingerprint = shared.catalog.snapshot().versions().next().unwrap().fingerprint;
    let mut connection = shared.store.reader().await.unwrap();
    let rows = wrappings::of_subjects(connection.as_mut(), &[subject]).await.unwrap();
    let WrappingRow { stored, seal, .. } = rows.into_iter().find(|row| row.stored.generation == 2).unwrap();
    drop(connection);
    let mark = CheckedWrapping { stored, seal, fingerprint, opens: false };
    let intent = session.root_key_intent(Action::WrappingsVerify, Details::default());
    session.change(intent, Command::MarkVerified(vec![mark])).await.unwrap();
}

/// The ledger itself decides under the head's lock: there too, marks without a valid seal do not count, and a new
/// generation needs all keys of the service.
#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_believes_no_session() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let (shared, session, _faults) = open(&file).await;
    session.add_root_key(&RootKeySource::from_bytes([8; 32])).await.unwrap();
    session.rewrap(&RootKeyJob::default()).await.unwrap();
    rusqlite::Connection::open(&file)
        .unwrap()
        .execute("UPDATE wrappings SET verified = 1 WHERE generation = 2", [])
        .unwrap();
    let retire = async |check: RetirementCheck| {
        let intent = session.root_key_intent(Action::RootKeyRetire, Details::default());
        session.change(intent, Command::RetireRootKey(check)).await.err().unwrap().code()
    };
    let unverified = session.check_remaining(1).await.unwrap();
    assert!(unverified.unverified > 0);
    assert_eq!(retire(unverified).await, ErrorCode::WrongState);
    session.rewrap(&RootKeyJob::default()).await.unwrap();
    session.verify_root_key(2, &RootKeyJob::default()).await.unwrap();

    // Wrappings that changed since the check are checked again.
    let before = session.check_remaining(1).await.unwrap();
    assert_eq!(before.unverified, 0);
    session.create_key(NewKey::aes("late")).await.unwrap();
    assert_eq!(retire(before).await, ErrorCode::WrongState);
    session.verify_root_key(2, &RootKeyJob::default()).await.unwrap();
    let before = session.check_remaining(1).await.unwrap();
    assert_eq!(before.unverified, 0);
    withdraw_a_mark(&shared, &session).await;
    assert_eq!(retire(before).await, ErrorCode::StoreContended, "the check must be repeated");
    session.verify_root_key(2, &RootKeyJob::default()).await.unwrap();

    let (mut root, present) = {
        let snapshot = shared.catalog.snapshot();
        let integrity = snapshot.service_keys().find(|key| key.kind == ServiceKeyKind::Integrity).cloned();
        (snapshot.root_key(2).cloned().unwrap(), integrity.unwrap())
    };
    root.generation = 3;
    root.id = crate::types::ids::RootKeyId::random();
    let without_one: Vec<_> = session.service_targets().await.unwrap();
    let wrappings = without_one
        .iter()
        .filter(|target| target.of.subject() != *present.id.as_bytes())
        .map(|target| target.wrapping(3, vec![1; 60]))
        .collect();
    let add = session.root_key_intent(Action::RootKeyAdd, Details::default());
    let added = session.change(add, Command::AddRootKey(Box::new(NewGeneration { root, wrappings }))).await;
    assert_eq!(added.err().unwrap().code(), ErrorCode::StoreContended);
    let options = RetireOptions::default();
    assert_eq!(session.retire_root_key(1, &options).await.unwrap().root_key.state, RootKeyState::Retired);
}

/// A batch of as many signatures as there are computing threads is made on all of them.
#[tokio::test]
async fn a_small_batch_of_signatures_uses_all_threads() {
    let folder = tempfile::tempdir().unwrap();
    let (shared, session, _) = open(&folder.path().join("kms.db")).await;
    session.create_key(NewKey::rsa_signing("s")).await.unwrap();
    session.sign("s", b"message", SignatureAlgorithm::RsaPssSha256).await.unwrap();
    let threads = shared.workers.threads();
    let sign = || SignItem::new("s", b"message", SignatureAlgorithm::RsaPssSha256);
    let items: Vec<_> = (0..threads).map(|_| sign()).collect();
    let mut most = 0;
    // A thread may end before its number is read.
    for _ in 0..50 {
        while shared.workers.running() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let mut signing = std::pin::pin!(session.sign_batch(&items));
        let signed = tokio::select! {
            biased;
            signed = &mut signing => Some(signed),
            () = std::future::ready(()) => None,
        };
        most = most.max(shared.workers.running());
        let signed = if let Some(signed) = signed { signed } else { signing.await };
        assert!(signed.unwrap().iter().all(Result::is_ok));
        if most == threads {
            return;
        }
    }
    assert_eq!(most, threads);
}

/// A batch of signatures is made on all computing threads.
#[tokio::test]
async fn a_batch_of_signatures_uses_all_threads() {
    let folder = tempfile::tempdir().unwrap();
    let (shared, session, _) = open(&folder.path().join("kms.db")).await;
    session.create_key(NewKey::rsa_signing("s")).await.unwrap();
    let items: Vec<_> = (0..400).map(|_| SignItem::new("s", b"message", SignatureAlgorithm::RsaPssSha256)).collect();
    let (threads, mut most) = (shared.workers.threads(), 0);
    let watching = async {
        loop {
            most = most.max(shared.workers.running());
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    let signed = tokio::select! {
        () = watching => unreachable!(),
        signed = session.sign_batch(&items) => signed.unwrap(),
    };
    assert_eq!(most, threads);
    let signatures: Vec<_> = signed.into_iter().map(|signed| signed.unwrap().signature).collect();
    let items: Vec<_> = signatures
        .iter()
        .map(|signature| VerifyItem::new("s", b"message", signature, SignatureAlgorithm::RsaPssSha256))
        .collect();
    assert!(session.verify_batch(&items).await.unwrap().into_iter().all(|result| result.unwrap().valid));
}

/// Long reads, including lists, do not use the connections that load keys.
#[tokio::test]
async fn long_reads_do_not_keep_keys_from_being_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("kms.db").display());
    let shared = crate::kms::open::open(Config::new(url).root_key_bytes([7; 32])).await.unwrap();
    let session = Session::new(shared.clone(), Actor::new("alice", Role::Admin).unwrap());
    let mut long = Vec::new();
    for _ in 0..4 {
        long.push(shared.store.long_reader().await.unwrap());
    }
    let listing = {
        let session = session.clone();
        tokio::spawn(async move { session.list_audit(&AuditQuery::new(), &Paging::new(10)).await })
    };
    let work = async {
        session.create_key(NewKey::rsa_signing("cold")).await.unwrap();
        session.sign("cold", b"message", SignatureAlgorithm::RsaPssSha256).await.unwrap();
    };
    tokio::time::timeout(std::time::Duration::from_secs(8), work).await.unwrap();
    assert!(!listing.is_finished());
    drop(long);
    assert!(!listing.await.unwrap().unwrap().items.is_empty());
}

/// Lists of imported logs take turns with other lists, so that one principal does not have all connections for them.
#[tokio::test]
async fn lists_of_imported_logs_take_turns_by_principal() {
    let folder = tempfile::tempdir().unwrap();
    let (shared, session, _) = open(&folder.path().join("kms.db")).await;
    let principal = session.actor().principal().to_owned();
    let turns = [shared.lists.turn(&principal).await, shared.lists.turn(&principal).await];
    let listing = {
        let session = session.clone();
        tokio::spawn(async move { session.list_imported_audit("mini-kms", &Paging::new(10)).await })
    };
    let mut looks = 0;
    while shared.lists.tasks_of(&principal) < 3 {
        assert!(looks < 6_000 && !listing.is_finished(), "the list waits for no turn");
        looks += 1;
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let other = Session::new(Arc::clone(&shared), Actor::new("other", Role::Auditor).unwrap());
    other.list_imported_audit("mini-kms", &Paging::new(10)).await.unwrap();
    drop(turns);
    listing.await.unwrap().unwrap();
}

/// While rows are resealed, an older state of a row with the former key's seal is not accepted, since the row
/// commitment is under the new key; and the scheduler completes an interrupted resealing.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_put_back_while_rows_are_resealed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let (shared, session, _faults) = open(&file).await;
    let grant = NewGrant::new("app", Role::App).on_all_keys().allow([Permission::Encrypt]);
    let granted = session.put_grant(grant).await.unwrap().id;
    let raw = rusqlite::Connection::open(&file).unwrap();
    raw.execute("CREATE TABLE kept AS SELECT * FROM grants", []).unwrap();
    session.revoke_grant(granted).await.unwrap();
    let recorded = session.require_sound_rows().await.unwrap();
    session.commit_integrity_key(recorded).await.unwrap();
    assert!(shared.catalog.seals().has_former());
    assert!(session.verify_audit().await.unwrap().ok, "rows count under both keys");
    raw.execute_batch("DELETE FROM grants; INSERT INTO grants SELECT * FROM kept; DROP TABLE kept").unwrap();
    assert!(!session.verify_audit().await.unwrap().ok);

    let (reopened, session, _faults) = reopen(&file).await;
    assert!(reopened.catalog.seals().has_former());
    assert_eq!(session.list_quarantine().await.unwrap().len(), 1);
    let app = Session::new(Arc::clone(&reopened), Actor::new("app", Role::App).unwrap());
    assert_eq!(app.encrypt("k", b"x", &Context::new()).await.err().unwrap().code(), ErrorCode::AccessDenied);
    session.finish_resealing().await.unwrap();
    assert!(!reopened.catalog.seals().has_former());
    // Nothing sealed by the former key is left, except the row in quarantine.
    session.finish_resealing().await.unwrap();
    assert_eq!(app.encrypt("k", b"x", &Context::new()).await.err().unwrap().code(), ErrorCode::AccessDenied);
    session.encrypt("k", b"x", &Context::new()).await.unwrap();
}

/// A pinned key that does not belong to the log is reported at once: it waits for no turn, costs nothing, and is not a
/// fault of the log. A pinned key of the log causes no separate verification.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_pinned_key_waits_for_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (shared, session, _) = open(&folder.path().join("kms.db")).await;
    let own = session.audit_public_key().await.unwrap();
    let wrong = crate::audit::checkpoint::verifier_key(own.split('+').next().unwrap(), &[9; 32]);
    let pinned = |key: &str| crate::VerifyOptions::new().pinned_key(key);
    assert!(session.verify_audit().await.unwrap().ok);
    let last = shared_last_verification(&session).await;
    let (turns, busy) = (shared.turns.clone(), tokio::sync::oneshot::channel::<()>());
    let other = tokio::spawn(async move {
        turns.alone("other", async { busy.1.await.map_err(|_| crate::Error::invalid("gone")) }).await
    });
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    for (key, code) in [("a+b+c", ErrorCode::InvalidArgument), ("", ErrorCode::InvalidArgument)] {
        assert_eq!(session.verify_audit_with(&pinned(key)).await.unwrap_err().code(), code);
    }
    let report = session.verify_audit_with(&pinned(&wrong)).await.unwrap();
    assert!(!report.ok && report.broken_at == Some(1) && report.size > 0, "{report:?}");
    assert!(!other.is_finished());
    // The result is recorded, but neither raises an alarm nor replaces the last verification.
    let query = AuditQuery::new().action(Action::AuditVerify);
    let newest = session.list_audit(&query, &Paging::new(1)).await.unwrap().items;
    assert_eq!(newest[0].status, crate::Status::Failure.as_str());
    assert_eq!((shared.ledger.counters().faults(), shared_last_verification(&session).await), (0, last));
    let good = {
        let (session, options) = (session.clone(), pinned(&own));
        tokio::spawn(async move { session.verify_audit_with(&options).await })
    };
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    assert!(!good.is_finished());
    busy.0.send(()).unwrap();
    other.await.unwrap().unwrap();
    assert!(good.await.unwrap().unwrap().ok);
}

async fn shared_last_verification(session: &Session) -> String {
    format!("{:?}", session.metrics().await.unwrap().audit.last_verification)
}

/// A flood of one principal neither delays the counted denials of others nor keeps them out of the log.
#[tokio::test(flavor = "multi_thread")]
async fn counted_denials_of_many_principals_take_few_commits() {
    let folder = tempfile::tempdir().unwrap();
    let (shared, session, _) = open(&folder.path().join("kms.db")).await;
    let now = shared.clock.now();
    let principals: Vec<_> = (0..300).map(|n| Actor::new(format!("p{n}"), Role::App).unwrap()).collect();
    for actor in &principals {
        shared.denials.count(actor, Action::Encrypt, ErrorCode::AccessDenied, now, 5);
    }
    // The first of them has the maximum number of changes in progress.
    let held: Vec<_> =
        std::iter::from_fn(|| shared.ledger.admit(crate::ledger::Lane::Change, "p0", 0).ok()).take(2_000).collect();
    let before = shared.ledger.counters().batches().0.iter().sum::<u64>();
    let later = now.plus_seconds(2);
    super::write_counted(&shared, later).await.unwrap();
    let batches = shared.ledger.counters().batches().0.iter().sum::<u64>() - before;
    assert!(batches < 60, "{batches} batches");
    let query = AuditQuery::new().status(crate::Status::Failure);
    let count = async || session.list_audit(&query, &Paging::new(1_000)).await.unwrap().items.len();
    assert_eq!(count().await, 299);
    drop(held);
    super::write_counted(&shared, later).await.unwrap();
    assert_eq!(count().await, 300);
}

/// The scheduler reads due keys page by page. A page does not grow with those of the pages before, whose rotation may
/// have failed.
#[tokio::test(flavor = "multi_thread")]
async fn due_keys_are_read_in_pages() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kms.db");
    let (shared, session, _) = open(&file).await;
    let mut keys = Vec::new();
    for n in 0..8 {
        let new = NewKey::aes(format!("k{n}")).rotation_period_days(30);
        keys.push(session.create_key(new).await.unwrap().id);
    }
    // Several with the same time.
    let same = "UPDATE \"keys\" SET rotate_at = (SELECT MAX(rotate_at) FROM \"keys\") WHERE name > 'k3'";
    rusqlite::Connection::open(&file).unwrap().execute(same, []).unwrap();
    let mut connection = shared.store.reader().await.unwrap();
    let now = shared.clock.now().plus_days(31);
    let (mut found, mut last) = (Vec::new(), None);
    loop {
        let page = usage::due(connection.as_mut(), Due::Rotation, now, last, 3).await.unwrap();
        assert!(page.len() <= 3);
        let Some(end) = page.last() else { break };
        last = Some(*end);
        found.extend(page.into_iter().map(|(_, id)| id));
    }
    assert_eq!(found[..4], keys[..4], "the longest overdue come first");
    found.sort();
    keys.sort();
    assert_eq!(found, keys);
}

/// The reads of one caller do not delay those of another.
#[tokio::test(flavor = "multi_thread")]
async fn principals_take_turns_at_reading() {
    let folder = tempfile::tempdir().unwrap();
    let (shared, session, _) = open(&folder.path().join("kms.db")).await;
    let greedy = Session::new(Arc::clone(&shared), Actor::new("greedy", Role::Admin).unwrap());
    let mut held = Vec::new();
    for _ in 0..shared.store.readers() - 1 {
        held.push(greedy.reader().await.unwrap());
    }
    let more = {
        let greedy = greedy.clone();
        tokio::spawn(async move { greedy.get_key("k").await })
    };
    let read = tokio::time::timeout(std::time::Duration::from_secs(10), session.get_key("k"));
    read.await.unwrap().unwrap();
    assert!(!more.is_finished());
    drop(held);
    more.await.unwrap().unwrap();
}
