//! Tests of floods by one caller: denials do not fill the log, and other callers are served.

use std::time::{Duration, Instant};

use crate::common::{Place, actor, admin, check_usable, code};
use kms_lib::{
    Action, AuditQuery, Context, DecryptItem, EncryptItem, ErrorCode, KeyId, Kms, NewGrant, NewKey, NewToken, Paging,
    Permission, ReencryptItem, Role, SignatureAlgorithm, Status, VerifyItem,
};

const PKCS1: SignatureAlgorithm = SignatureAlgorithm::RsaPkcs1Sha256;

#[tokio::test]
async fn denials_are_counted_when_there_are_many() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let outsider = kms.session(actor("outsider", Role::App));
    let begun = Instant::now();
    for _ in 0..500 {
        assert_eq!(code(outsider.encrypt("k", b"x", &Context::new()).await), ErrorCode::AccessDenied);
        assert_eq!(code(outsider.rotate_key("k", None).await), ErrorCode::AccessDenied);
    }
    // A grant made meanwhile takes effect immediately, even during a flood.
    let permissions = [Permission::Encrypt];
    session.put_grant(NewGrant::new("outsider", Role::App).on_all_keys().allow(permissions)).await.unwrap();
    outsider.encrypt("k", b"x", &Context::new()).await.unwrap();
    // All denials are counted, in records that the service writes once a second.
    let failed = async || session.metrics().await.unwrap().audit.failed_operations_last24h;
    while failed().await < 1_000 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(failed().await, 1_000);
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap() + 1;
    let query = AuditQuery::new().actor("outsider").status(Status::Failure);
    let records = session.list_audit(&query, &Paging::new(1_000)).await.unwrap().items;
    let most = 60 * seconds.div_ceil(60) + seconds;
    assert!((61..=most).contains(&records.len()), "{} records in {seconds} s", records.len());
    assert!(records[0].details.as_ref().unwrap().contains("\"count\":"));
    // Another caller's denials get their own records.
    let other = kms.session(actor("other", Role::App));
    assert_eq!(code(other.get_key("k").await), ErrorCode::AccessDenied);
    assert_eq!(crate::common::last_record(&session).await.actor, "other");
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// Callers without permissions and callers whose credential was revoked cannot fill the log with malformed ciphertexts,
/// alone or in batches, or with batches about made-up keys.
#[tokio::test]
async fn malformed_ciphertexts_of_callers_without_a_right_are_denials() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let outsider = kms.session(actor("outsider", Role::App));
    let token = session.create_token(NewToken::new("former", Role::Admin)).await.unwrap();
    let former = kms.session(kms.authenticate(&token.token).await.unwrap());
    session.revoke_credential(token.credential.id).await.unwrap();
    let context = Context::from([("filler", "x".repeat(2_000))]);
    let malformed: Vec<_> = (0..10).map(|_| DecryptItem::new(b"no ciphertext", context.clone())).collect();
    for (caller, expected) in [(&outsider, ErrorCode::AccessDenied), (&former, ErrorCode::NotAuthenticated)] {
        for _ in 0..150 {
            assert_eq!(code(caller.decrypt(b"no ciphertext", &context).await), expected);
            let made_up: Vec<_> = (0..10).map(|_| EncryptItem::new(KeyId::random(), b"x", context.clone())).collect();
            for result in caller.encrypt_batch(&made_up).await.unwrap() {
                assert_eq!(code(result), expected);
            }
            for result in caller.decrypt_batch(&malformed).await.unwrap() {
                assert_eq!(code(result), expected);
            }
            assert_eq!(code(caller.reencrypt(ReencryptItem::new(b"none", context.clone())).await), expected);
        }
    }
    // A caller that may decrypt with some key gets a precise error.
    let permissions = [Permission::Decrypt];
    session.put_grant(NewGrant::new("insider", Role::App).on_key("k").allow(permissions)).await.unwrap();
    let insider = kms.session(actor("insider", Role::App));
    assert_eq!(code(insider.decrypt(b"no ciphertext", &context).await), ErrorCode::InvalidCiphertext);
    tokio::time::sleep(Duration::from_millis(2_200)).await;
    for principal in ["outsider", "former"] {
        let query = AuditQuery::new().actor(principal).status(Status::Failure);
        let records = session.list_audit(&query, &Paging::new(1_000)).await.unwrap().items;
        assert!((60..75).contains(&records.len()), "{} records of {principal}", records.len());
    }
    // All denials are counted; a re-encryption counts twice.
    let failed = session.metrics().await.unwrap().audit.failed_operations_last24h;
    assert_eq!(failed, 2 * 150 * (1 + 10 + 10 + 2) + 1);
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_caller_leaves_room_for_others() {
    let place = Place::new();
    let kms = Kms::open(place.config().limits(100, 1 << 20)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::rsa_signing("slow")).await.unwrap();
    let greedy: Vec<_> = (0..400)
        .map(|_| {
            let session = kms.session(actor("greedy", Role::Admin));
            tokio::spawn(async move {
                let algorithm = PKCS1;
                session.sign("slow", b"x", algorithm).await.map(drop).map_err(|error| error.code())
            })
        })
        .collect();
    tokio::task::yield_now().await;
    for i in 0..20 {
        let modest = kms.session(actor(&format!("modest-{i}"), Role::Admin));
        let algorithm = PKCS1;
        modest.sign("slow", b"x", algorithm).await.unwrap();
    }
    let mut refused = 0;
    for call in greedy {
        match call.await.unwrap() {
            Ok(()) => {}
            Err(code) => {
                assert!(matches!(code, ErrorCode::Overloaded | ErrorCode::CallerOverloaded), "{code}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "nothing was refused");
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// Signatures that no version made, for a key with many versions: no private key is unwrapped, no other task has to
/// wait, and the work per call is bounded.
#[tokio::test]
async fn bad_signatures_over_many_versions_hold_nobody_up() {
    const VERSIONS: u32 = 24;
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::rsa_signing("s")).await.unwrap();
    let first = session.sign("s", b"message", PKCS1).await.unwrap().signature;
    for _ in 1..VERSIONS {
        session.rotate_key("s", None).await.unwrap();
    }
    let last = session.sign("s", b"message", PKCS1).await.unwrap().signature;
    kms.close().await.unwrap();
    let kms = place.open().await;
    let session = admin(&kms);
    // A single signature is checked against all versions.
    let good = session.verify("s", b"message", &first, PKCS1, None).await.unwrap();
    assert!(good.valid && good.version == 1);
    let bad = session.verify("s", b"another", &first, PKCS1, None).await.unwrap();
    assert!(!bad.valid && bad.version == VERSIONS);
    assert!(!session.verify("s", b"message", &first[1..], PKCS1, None).await.unwrap().valid);
    // In a batch of a thousand, each is checked against the ten newest versions.
    let batch = async |payload: &[u8], signature: &[u8]| {
        let items: Vec<_> = (0..1_000).map(|_| VerifyItem::new("s", payload, signature, PKCS1)).collect();
        session.verify_batch(&items).await.unwrap()
    };
    let longest = longest_wait(async {
        let (bad, old) = tokio::join!(batch(b"another", &last), batch(b"message", &first));
        assert!(bad.into_iter().chain(old).all(|result| code(result) == ErrorCode::InvalidArgument));
    });
    let longest = longest.await;
    assert!(longest < Duration::from_millis(300), "others waited for {longest:?}");
    assert!(batch(b"message", &last).await.into_iter().all(|result| result.unwrap().valid));
    let named: Vec<_> = (0..1_000).map(|_| VerifyItem::new("s", b"message", &first, PKCS1).version(1)).collect();
    assert!(session.verify_batch(&named).await.unwrap().into_iter().all(|result| result.unwrap().valid));
    assert_eq!(kms.telemetry().await.unwrap().cache.keys, 0);
    kms.close().await.unwrap();
}

/// A public key that was replaced in the database verifies nothing.
#[tokio::test]
async fn an_exchanged_public_key_is_not_used() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::rsa_signing("a")).await.unwrap();
    session.create_key(NewKey::rsa_signing("b")).await.unwrap();
    let signature = session.sign("b", b"message", PKCS1).await.unwrap().signature;
    let of = |name: &str| format!("(SELECT id FROM \"keys\" WHERE name = '{name}')");
    let theirs =
        format!("(SELECT pem FROM (SELECT public_key_pem AS pem FROM key_versions WHERE key_id = {}) x)", of("b"));
    place.tamper(&format!("UPDATE key_versions SET public_key_pem = {theirs} WHERE key_id = {}", of("a"))).await;
    let verified = session.verify("a", b"message", &signature, PKCS1, None).await;
    assert_eq!(code(verified), ErrorCode::IntegrityFailure);
    kms.close().await.unwrap();
}

/// The longest time that an idle task waited for its turn while `work` ran on the same thread.
async fn longest_wait(work: impl Future<Output = ()>) -> Duration {
    let (stop, mut stopped) = tokio::sync::oneshot::channel();
    let waiting = tokio::spawn(async move {
        let mut longest = Duration::ZERO;
        while stopped.try_recv().is_err() {
            let begun = Instant::now();
            tokio::time::sleep(Duration::from_millis(1)).await;
            longest = longest.max(begun.elapsed());
        }
        longest
    });
    work.await;
    stop.send(()).unwrap();
    waiting.await.unwrap()
}

/// Hundreds of RSA keys created by one principal do not block signatures of another one, and are no longer generated
/// when their callers are gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn making_keys_leaves_room_for_signatures() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::rsa_signing("s")).await.unwrap();
    let greedy: Vec<_> = (0..400)
        .map(|n| {
            let session = kms.session(actor("greedy", Role::Admin));
            tokio::spawn(async move { session.create_key(NewKey::rsa_signing(format!("greedy-{n}"))).await.map(drop) })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    for _ in 0..20 {
        session.sign("s", b"message", PKCS1).await.unwrap();
    }
    // Another principal's key is generated after at most one of theirs.
    session.create_key(NewKey::rsa_signing("modest")).await.unwrap();
    let took = begun.elapsed();
    assert!(greedy.iter().any(|call| !call.is_finished()), "the flood was over before");
    assert!(took < Duration::from_secs(5), "{took:?}");
    greedy.iter().for_each(tokio::task::JoinHandle::abort);
    let begun = Instant::now();
    session.create_key(NewKey::rsa_signing("later")).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    kms.close().await.unwrap();
}

/// Of hundreds of concurrent verifications requested by auditors, few run, and each gets its record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verifications_are_shared_and_recorded() {
    const CALLS: usize = 200;
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let items: Vec<_> = (0..500).map(|_| EncryptItem::new("k", b"x", Context::new())).collect();
    for _ in 0..20 {
        session.encrypt_batch(&items).await.unwrap();
    }
    let calls: Vec<_> = (0..CALLS)
        .map(|n| {
            let auditor = kms.session(actor(&format!("auditor-{}", n % 2), Role::Auditor));
            tokio::spawn(async move { auditor.verify_audit().await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    session.encrypt("k", b"x", &Context::new()).await.unwrap();
    for call in calls {
        let report = call.await.unwrap().unwrap();
        assert!(report.ok, "{:?}", report.faults);
    }
    let query = AuditQuery::new().action(Action::AuditVerify);
    assert_eq!(session.list_audit(&query, &Paging::new(1_000)).await.unwrap().items.len(), CALLS);
    kms.close().await.unwrap();
}

/// One caller's largest messages do not use up the memory for all other callers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_leave_memory_to_others() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let greedy: Vec<_> = (0..6)
        .map(|_| {
            let (session, stop) = (kms.session(actor("greedy", Role::Admin)), stop.clone());
            tokio::spawn(async move {
                let large = vec![0; 64 << 20];
                let (mut done, mut refused) = (0, 0);
                while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                    match session.encrypt("k", &large, &Context::new()).await {
                        Ok(_) => done += 1,
                        Err(error) => {
                            assert!(error.is_retryable(), "{error}");
                            refused += 1;
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                    }
                }
                (done, refused)
            })
        })
        .collect();
    let medium = vec![0; 1 << 20];
    for _ in 0..30 {
        session.encrypt("k", &medium, &Context::new()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    let (mut done, mut refused) = (0, 0);
    for call in greedy {
        let (own_done, own_refused) = call.await.unwrap();
        (done, refused) = (done + own_done, refused + own_refused);
    }
    assert!(done > 0 && refused > 0, "{done} done, {refused} refused");
    kms.close().await.unwrap();
}

/// Batches count their overhead in addition to inputs and results: a thousand empty messages are not small.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_small_messages_leave_memory_to_others() {
    let place = Place::in_a_file();
    let kms = Kms::open(place.config().limits(1_000, 4 << 20)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    // Nothing can be committed meanwhile, so every admitted call stays in process.
    let mut other = <sqlx::SqliteConnection as sqlx::Connection>::connect(&place.url()).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let batch = |principal: &str, items: usize| {
        let session = kms.session(actor(principal, Role::Admin));
        tokio::spawn(async move {
            let items: Vec<_> = (0..items).map(|_| EncryptItem::new("k", b"", Context::new())).collect();
            session.encrypt_batch(&items).await.map(drop)
        })
    };
    let greedy: Vec<_> = (0..20).map(|_| batch("greedy", 1_000)).collect();
    while greedy.iter().filter(|call| call.is_finished()).count() < 18 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let modest = batch("modest", 100);
    tokio::time::sleep(Duration::from_millis(50)).await;
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    modest.await.unwrap().unwrap();
    let mut done = 0;
    for call in greedy {
        match call.await.unwrap() {
            Ok(()) => done += 1,
            Err(error) => assert_eq!(error.code(), ErrorCode::CallerOverloaded),
        }
    }
    assert_eq!(done, 2);
    kms.close().await.unwrap();
}

/// One caller's batches over a thousand keys each delay another caller's single operations by at most one batch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_over_many_keys_do_not_hold_up_single_operations() {
    const KEYS: usize = 300;
    let place = Place::in_a_file();
    let kms = place.open().await;
    let session = admin(&kms);
    for n in 0..KEYS {
        session.create_key(NewKey::aes(format!("k{n}"))).await.unwrap();
    }
    let batch = || {
        let session = kms.session(actor("greedy", Role::Admin));
        tokio::spawn(async move {
            let items: Vec<_> = (0..KEYS).map(|n| EncryptItem::new(format!("k{n}"), b"", Context::new())).collect();
            session.encrypt_batch(&items).await.unwrap()[0].as_ref().unwrap().receipt.seq
        })
    };
    // The keys' material is in memory, so that the batches do not wait for long.
    batch().await.unwrap();
    // The batches are in the ledger's queue when the other caller arrives.
    let mut other = <sqlx::SqliteConnection as sqlx::Connection>::connect(&place.url()).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let greedy: Vec<_> = (0..16).map(|_| batch()).collect();
    while kms.telemetry().await.unwrap().queued < 12 {
        assert!(!greedy.iter().any(tokio::task::JoinHandle::is_finished), "a batch failed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let modest: Vec<_> = (0..10)
        .map(|n| {
            let session = kms.session(actor(&format!("modest-{n}"), Role::Admin));
            tokio::spawn(async move { session.encrypt("k0", b"x", &Context::new()).await.unwrap().receipt.seq })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    let (mut before, mut last) = (Vec::new(), 0);
    for call in modest {
        last = last.max(call.await.unwrap());
    }
    for call in greedy {
        before.push(call.await.unwrap());
    }
    // The batches that were already being committed, and those that fill the next transaction.
    let ahead = before.iter().filter(|seq| **seq < last).count();
    assert!(ahead <= 8, "{ahead} batches came first");
    kms.close().await.unwrap();
}
