//! Tests of several root keys: adding one, wrapping all key material under it, verifying that, and retiring the former
//! one; refused calls, and the work of other nodes meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{Place, ROOT_KEY, actor, admin, check_usable, code, last_record};
use kms_lib::RootKeyState;
use kms_lib::SignatureAlgorithm::RsaPssSha256;
use kms_lib::{Config, Context, ErrorCode, Kms, NewKey, Role, RootKeySource, Session};
use kms_lib::{RetireOptions, RootKeyJob, RootKeyProgress};

/// The root key of generation 2 in most tests.
const NEXT: [u8; 32] = [8; 32];

fn next() -> RootKeySource {
    crate::common::output::secret(&NEXT);
    RootKeySource::from_bytes(NEXT)
}

/// A configuration with the current and the next root key.
fn both(place: &Place) -> Config {
    place.config().add_root_key_bytes(NEXT)
}

fn only_next(place: &Place) -> Config {
    place.config().root_key_bytes(NEXT)
}

/// Adds a root key, wraps everything under it, and verifies the wrappings. Returns its generation.
async fn move_to(session: &Session, source: &RootKeySource) -> u32 {
    let added = session.add_root_key(source).await.unwrap();
    assert!(added.at_hand && added.state == RootKeyState::Active);
    assert_eq!(added.wrappings, 2, "the service's own keys are wrapped at once");
    let report = session.rewrap(&RootKeyJob::default()).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
    let report = session.verify_root_key(added.generation, &RootKeyJob::default()).await.unwrap();
    assert!(report.is_complete() && report.done == report.total, "{report:?}");
    added.generation
}

async fn count(place: &Place, generation: u32) -> i64 {
    place.number(&format!("SELECT COUNT(*) FROM wrappings WHERE generation = {generation}")).await
}

/// Moves through a passphrase, base64, hexadecimal and a file as root key; data from the first one remains readable.
#[tokio::test(flavor = "multi_thread")]
async fn from_any_form_to_any_other() {
    let place = Place::new();
    let file = place.folder.path().join("root.key");
    std::fs::write(&file, format!("hex:{}\n", "5a".repeat(32))).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let forms = [
        "passphrase:correct horse battery staple".to_owned(),
        "base64:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".to_owned(),
        format!("hex:{}", "a5".repeat(32)),
        format!("file:{}", file.display()),
        "another passphrase of many words".to_owned(),
        format!("hex:{}", "a6".repeat(32)),
    ];
    let config = |form: &str| place.config().root_key(form).unwrap();
    let kms = Kms::open(config(&forms[0])).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("a")).await.unwrap();
    session.create_key(NewKey::rsa_signing("s")).await.unwrap();
    let sealed = session.encrypt("a", b"from the beginning", &Context::new()).await.unwrap();
    let signed = session.sign("s", b"a payload", RsaPssSha256).await.unwrap();
    kms.close().await.unwrap();
    for (n, pair) in forms.windows(2).enumerate() {
        let (from, to) = (&pair[0], &pair[1]);
        let generation = u32::try_from(n).unwrap() + 2;
        let kms = Kms::open(config(from).add_root_key(to).unwrap()).await.unwrap();
        let session = admin(&kms);
        assert_eq!(move_to(&session, &RootKeySource::parse(to).unwrap()).await, generation);
        session.rotate_key("a", None).await.unwrap();
        session.verify_root_key(generation, &RootKeyJob::default().only_new(true)).await.unwrap();
        let retired = session.retire_root_key(generation - 1, &RetireOptions::default()).await.unwrap();
        assert_eq!(retired.root_key.state, RootKeyState::Retired);
        assert_eq!((retired.root_key.wrappings, count(&place, generation - 1).await), (0, 0));
        check_usable(&kms).await;
        kms.close().await.unwrap();

        let error = Kms::open(config(from)).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::WrongRootKey);
        assert!(error.message().contains("retired"), "{error}");
        let kms = Kms::open(config(to)).await.unwrap();
        let session = admin(&kms);
        let opened = session.decrypt(&sealed.ciphertext, &Context::new()).await.unwrap();
        assert_eq!(opened.plaintext.as_slice(), b"from the beginning");
        assert!(session.verify("s", b"a payload", &signed.signature, RsaPssSha256, None).await.unwrap().valid);
        session.sign("s", b"another", RsaPssSha256).await.unwrap();
        check_usable(&kms).await;
        kms.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_versions_are_wrapped_under_every_generation() {
    let place = Place::new();
    let kms = Kms::open(both(&place)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("before")).await.unwrap();
    session.add_root_key(&next()).await.unwrap();
    assert_eq!((count(&place, 1).await, count(&place, 2).await), (3, 2));
    session.create_key(NewKey::aes("after")).await.unwrap();
    session.rotate_key("before", None).await.unwrap();
    session.replace_signing_key().await.unwrap();
    assert_eq!((count(&place, 1).await, count(&place, 2).await), (5, 4));
    let plan = session.plan_rewrap().await.unwrap();
    let calls: Vec<_> = plan.calls.iter().map(|call| (call.generation, call.unwraps, call.wraps)).collect();
    assert_eq!((plan.materials, calls), (1, vec![(1, 1, 0), (2, 0, 1)]));
    let progress = Arc::new(RootKeyProgress::default());
    let dry = RootKeyJob::default().dry_run(true).progress(progress.clone());
    assert_eq!(session.rewrap(&dry).await.unwrap().done, 1);
    assert_eq!((progress.total(), progress.done(), progress.failed()), (5, 5, 0));
    assert_eq!(count(&place, 2).await, 4);
    assert_eq!(session.rewrap(&RootKeyJob::default().rate(Some(1_000))).await.unwrap().done, 1);
    assert_eq!(session.rewrap(&RootKeyJob::default()).await.unwrap().done, 0);
    assert_eq!(last_record(&session).await.action, "REWRAP_END");
    let listed = session.list_root_keys().await.unwrap();
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|root| root.wrappings == 5 && root.verified == 0 && root.at_hand), "{listed:?}");
    assert!(listed.iter().all(|root| root.last_used_at.is_some()));
    // Each of the root keys opens the store and everything in it.
    kms.close().await.unwrap();
    for config in [place.config(), only_next(&place)] {
        let kms = Kms::open(config).await.unwrap();
        admin(&kms).encrypt("before", b"x", &Context::new()).await.unwrap();
        assert!(admin(&kms).verify_audit().await.unwrap().ok);
        kms.close().await.unwrap();
    }
}

/// Destroyed material is erased under every generation, and a rewrap does not restore it.
#[tokio::test(flavor = "multi_thread")]
async fn destruction_erases_every_wrapping() {
    let place = Place::new();
    let kms = Kms::open(both(&place).deletion_wait(1, 1)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("doomed")).await.unwrap();
    move_to(&session, &next()).await;
    session.create_key(NewKey::aes("kept")).await.unwrap();
    session.schedule_deletion("doomed", Some(1)).await.unwrap();
    place.pass_days(2);
    let report = kms.run_scheduler().await.unwrap();
    assert_eq!(report.destroyed.len(), 1);
    assert_eq!((count(&place, 1).await, count(&place, 2).await), (3, 3));
    assert_eq!(session.rewrap(&RootKeyJob::default()).await.unwrap().done, 0);
    assert_eq!(count(&place, 2).await, 3);
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// A node with only the former key can continue with everything that does not need the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_the_new_key() {
    let place = Place::new();
    let one = Kms::open(both(&place)).await.unwrap();
    let without = Kms::open(place.config()).await.unwrap();
    let prepared = Kms::open(both(&place)).await.unwrap();
    admin(&one).create_key(NewKey::aes("k")).await.unwrap();
    admin(&one).add_root_key(&next()).await.unwrap();
    let session = admin(&without);
    for failed in [session.create_key(NewKey::aes("new")).await, session.rotate_key("k", None).await] {
        let error = failed.unwrap_err();
        assert_eq!(error.code(), ErrorCode::RootKeyUnavailable);
        assert!(error.message().contains("generation 2") && error.message().contains("local"), "{error}");
    }
    assert_eq!(code(session.replace_signing_key().await), ErrorCode::RootKeyUnavailable);
    let sealed = session.encrypt("k", b"x", &Context::new()).await.unwrap();
    session.decrypt(&sealed.ciphertext, &Context::new()).await.unwrap();
    session.disable_key("k").await.unwrap();
    session.enable_key("k").await.unwrap();
    let listed = session.list_root_keys().await.unwrap();
    assert!(listed[0].at_hand && !listed[1].at_hand);
    // A node with the new key in its configuration needs no restart.
    admin(&prepared).create_key(NewKey::aes("new")).await.unwrap();
    // Material that is also wrapped under the former key can be opened everywhere, until that key is retired.
    session.encrypt("new", b"x", &Context::new()).await.unwrap();
    let session = admin(&one);
    session.rewrap(&RootKeyJob::default()).await.unwrap();
    session.verify_root_key(2, &RootKeyJob::default()).await.unwrap();
    session.retire_root_key(1, &RetireOptions::default()).await.unwrap();
    admin(&prepared).rotate_key("k", None).await.unwrap();
    let version = admin(&without).encrypt("k", b"x", &Context::new()).await;
    assert_eq!(code(version), ErrorCode::RootKeyUnavailable);
    for kms in [one, without, prepared] {
        kms.close().await.unwrap();
    }
}

async fn assert_recorded(session: &Session, action: &str, flag: &str) {
    let record = last_record(session).await;
    assert_eq!(record.action, action);
    assert!(record.details.unwrap().contains(&format!("\"{flag}\":true")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused() {
    let place = Place::new();
    let twice = place.config().add_root_key_bytes(ROOT_KEY);
    assert_eq!(code(Kms::open(twice).await), ErrorCode::InvalidRootKey);
    let kms = Kms::open(both(&place)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let wrong = place.config().root_key_bytes([1; 32]).add_root_key_bytes([2; 32]);
    let error = Kms::open(wrong).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::WrongRootKey);
    assert!(error.message().contains("root key 1") && error.message().contains("root key 2"), "{error}");

    assert_eq!(code(session.add_root_key(&RootKeySource::from_bytes(ROOT_KEY)).await), ErrorCode::Conflict);
    let retire = async |generation| session.retire_root_key(generation, &RetireOptions::default()).await;
    assert_eq!(code(retire(1).await), ErrorCode::WrongState, "the last one");
    assert_eq!(code(retire(2).await), ErrorCode::InvalidArgument);
    assert_eq!(code(session.verify_root_key(7, &RootKeyJob::default()).await), ErrorCode::InvalidArgument);
    let tried = session.verify_planned_root_key(&next(), &RootKeyJob::default()).await.unwrap();
    assert!(tried.is_complete() && tried.done == 3, "{tried:?}");
    // Operations that unwrap material are logged even if they change nothing.
    assert_recorded(&session, "ROOT_KEY_VERIFY", "planned").await;
    assert_eq!(session.list_root_keys().await.unwrap().len(), 1);

    session.add_root_key(&next()).await.unwrap();
    assert_eq!(code(session.add_root_key(&next()).await), ErrorCode::Conflict);
    assert!(retire(1).await.unwrap_err().message().contains("3 materials"), "not wrapped");
    session.rewrap(&RootKeyJob::default()).await.unwrap();
    assert!(retire(1).await.unwrap_err().message().contains("3 materials"), "not verified");
    let dry = session.verify_root_key(2, &RootKeyJob::default().dry_run(true)).await.unwrap();
    assert!(dry.is_complete() && dry.done == 3);
    assert_recorded(&session, "ROOT_KEY_VERIFY", "dryRun").await;
    session.rewrap(&RootKeyJob::default().dry_run(true)).await.unwrap();
    assert_recorded(&session, "REWRAP_END", "dryRun").await;
    assert_eq!(code(retire(1).await), ErrorCode::WrongState, "a dry run does not count");
    session.verify_root_key(2, &RootKeyJob::default()).await.unwrap();
    // A version added after the verification is not verified.
    session.rotate_key("k", None).await.unwrap();
    assert!(retire(1).await.unwrap_err().message().contains("1 materials"));
    session.verify_root_key(2, &RootKeyJob::default().only_new(true)).await.unwrap();
    retire(1).await.unwrap();
    assert_eq!(retire(1).await.unwrap().erased, 0, "again");
    assert_eq!(code(retire(2).await), ErrorCode::WrongState);
    // A retired key cannot be added again as a new generation.
    assert_eq!(code(session.add_root_key(&RootKeySource::from_bytes(ROOT_KEY)).await), ErrorCode::Conflict);
    assert_eq!(code(session.verify_root_key(1, &RootKeyJob::default()).await), ErrorCode::WrongState);
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_admins_may() {
    let place = Place::new();
    let kms = place.open().await;
    let auditor = kms.session(actor("ann", Role::Auditor));
    let app = kms.session(actor("app", Role::App));
    assert_eq!(auditor.list_root_keys().await.unwrap().len(), 1);
    assert_eq!(code(app.list_root_keys().await), ErrorCode::AccessDenied);
    for session in [auditor, app] {
        let (job, options) = (RootKeyJob::default(), RetireOptions::default());
        assert_eq!(code(session.add_root_key(&next()).await), ErrorCode::AccessDenied);
        assert_eq!(code(session.plan_rewrap().await), ErrorCode::AccessDenied);
        assert_eq!(code(session.rewrap(&job).await), ErrorCode::AccessDenied);
        assert_eq!(code(session.verify_root_key(1, &job).await), ErrorCode::AccessDenied);
        assert_eq!(code(session.verify_planned_root_key(&next(), &job).await), ErrorCode::AccessDenied);
        assert_eq!(code(session.retire_root_key(1, &options).await), ErrorCode::AccessDenied);
    }
    assert_eq!(last_record(&admin(&kms)).await.action, "ROOT_KEY_RETIRE");
    kms.close().await.unwrap();
}

/// Refusals to admins are logged, and an idempotency key is checked only after the caller's permission.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_recorded() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let (job, options) = (RootKeyJob::default(), RetireOptions::default());
    let present = RootKeySource::from_bytes(ROOT_KEY);
    let refused = async |action: &str, result: Result<(), kms_lib::Error>, expected: ErrorCode| {
        assert_eq!(code(result), expected, "{action}");
        let record = last_record(&session).await;
        assert_eq!((record.action.as_str(), record.status.as_str()), (action, "FAILURE"), "{expected}");
        let details: serde_json::Value = serde_json::from_str(record.details.as_deref().unwrap()).unwrap();
        assert_eq!(details["error"], expected.as_str());
        details["generation"].clone()
    };
    refused("ROOT_KEY_ADD", session.add_root_key(&present).await.map(drop), ErrorCode::Conflict).await;
    let planned = session.verify_planned_root_key(&present, &job).await.map(drop);
    refused("ROOT_KEY_VERIFY", planned, ErrorCode::Conflict).await;
    let verified = session.verify_root_key(9, &job).await.map(drop);
    assert_eq!(refused("ROOT_KEY_VERIFY", verified, ErrorCode::InvalidArgument).await, 9);
    let last = session.retire_root_key(1, &options).await.map(drop);
    assert_eq!(refused("ROOT_KEY_RETIRE", last, ErrorCode::WrongState).await, 1);
    session.add_root_key(&next()).await.unwrap();
    let unverified = session.retire_root_key(1, &options).await.map(drop);
    refused("ROOT_KEY_RETIRE", unverified, ErrorCode::WrongState).await;

    let once = session.with_idempotency_key("once").unwrap();
    let expected = ErrorCode::InvalidArgument;
    refused("ROOT_KEY_ADD", once.add_root_key(&next()).await.map(drop), expected).await;
    refused("REWRAP_START", once.rewrap(&job).await.map(drop), expected).await;
    refused("ROOT_KEY_VERIFY", once.verify_root_key(1, &job).await.map(drop), expected).await;
    refused("ROOT_KEY_RETIRE", once.retire_root_key(1, &options).await.map(drop), expected).await;
    let app = kms.session(actor("app", Role::App)).with_idempotency_key("once").unwrap();
    let expected = ErrorCode::AccessDenied;
    refused("ROOT_KEY_ADD", app.add_root_key(&next()).await.map(drop), expected).await;
    refused("REWRAP_START", app.rewrap(&job).await.map(drop), expected).await;
    refused("ROOT_KEY_VERIFY", app.verify_root_key(1, &job).await.map(drop), expected).await;
    refused("ROOT_KEY_RETIRE", app.retire_root_key(1, &options).await.map(drop), expected).await;
    kms.close().await.unwrap();
}

/// Two concurrent rewraps on two nodes, while a third node creates and rotates keys; then the former key is retired.
#[tokio::test(flavor = "multi_thread")]
async fn beside_two_rewraps_and_under_load() {
    let place = Place::new();
    let one = Kms::open(both(&place)).await.unwrap();
    let two = Kms::open(both(&place)).await.unwrap();
    let busy = Kms::open(both(&place)).await.unwrap();
    let session = admin(&one);
    let mut sealed = Vec::new();
    for n in 0..150 {
        let key = session.create_key(NewKey::aes(format!("k{n}"))).await.unwrap();
        if n % 10 == 0 {
            sealed.push(session.encrypt(key.id, b"x", &Context::new()).await.unwrap().ciphertext);
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    let load = {
        let (session, stop) = (admin(&busy), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut made = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                let n = made.len();
                let key = session.create_key(NewKey::aes(format!("busy{n}"))).await.unwrap();
                session.rotate_key("k1", None).await.unwrap();
                made.push(session.encrypt(key.id, b"x", &Context::new()).await.unwrap().ciphertext);
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            made
        })
    };
    session.add_root_key(&next()).await.unwrap();
    let (other, job) = (admin(&two), RootKeyJob::default());
    let (a, b) = tokio::join!(session.rewrap(&job), other.rewrap(&job));
    assert!(a.unwrap().is_complete() && b.unwrap().is_complete());
    let report = session.verify_root_key(2, &job).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
    session.retire_root_key(1, &RetireOptions::default().verify_new(true)).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    stop.store(true, Ordering::SeqCst);
    sealed.extend(load.await.unwrap());
    assert!(sealed.len() > 15, "nothing was made meanwhile");
    assert_eq!(count(&place, 1).await, 0);
    for kms in [one, two, busy] {
        kms.close().await.unwrap();
    }
    let kms = Kms::open(only_next(&place)).await.unwrap();
    for ciphertext in sealed {
        admin(&kms).decrypt(&ciphertext, &Context::new()).await.unwrap();
    }
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// A wrapping that unwraps to other material is reported instead of trying the next one.
#[tokio::test(flavor = "multi_thread")]
async fn altered_wrappings() {
    let place = Place::new();
    let kms = Kms::open(both(&place)).await.unwrap();
    let session = admin(&kms);
    for name in ["a", "b"] {
        session.create_key(NewKey::aes(name)).await.unwrap();
    }
    move_to(&session, &next()).await;
    kms.close().await.unwrap();
    let of = |name: &str| {
        format!("SELECT v.id FROM key_versions v JOIN \"keys\" k ON k.id = v.key_id WHERE k.name = '{name}'")
    };
    // The newest wrapping is tried first.
    let cut = format!("UPDATE wrappings SET wrapped = seal WHERE generation = 2 AND subject = ({})", of("a"));
    place.tamper(&cut).await;
    let kms = Kms::open(both(&place)).await.unwrap();
    let session = admin(&kms);
    assert_eq!(code(session.encrypt("a", b"x", &Context::new()).await), ErrorCode::IntegrityFailure);
    session.encrypt("b", b"x", &Context::new()).await.unwrap();
    let report = session.verify_root_key(2, &RootKeyJob::default()).await.unwrap();
    assert_eq!((report.failed, report.failures[0].what.as_str()), (1, "a v1"), "{report:?}");
    let report = session.verify_audit().await.unwrap();
    assert!(report.faults.iter().any(|fault| fault.to_string().contains("material")), "{:?}", report.faults);
    assert_eq!(code(session.retire_root_key(1, &RetireOptions::default()).await), ErrorCode::WrongState);
    // The key is wrapped again from the intact wrapping.
    assert_eq!(session.rewrap(&RootKeyJob::default()).await.unwrap().done, 1);
    session.encrypt("a", b"x", &Context::new()).await.unwrap();
    assert!(session.verify_audit().await.unwrap().ok);
    assert_eq!(code(session.retire_root_key(1, &RetireOptions::default()).await), ErrorCode::WrongState);
    session.verify_root_key(2, &RootKeyJob::default()).await.unwrap();
    // A verification mark that this service did not make does not count.
    session.rotate_key("b", None).await.unwrap();
    place.tamper("UPDATE wrappings SET verified = 1").await;
    assert!(session.retire_root_key(1, &RetireOptions::default()).await.unwrap_err().message().contains("materials"));
    // Material that is missing only under the former key does not count either.
    place.tamper("DELETE FROM wrappings WHERE generation = 1").await;
    session.encrypt("b", b"x", &Context::new()).await.unwrap();
    place.tamper(&format!("DELETE FROM wrappings WHERE subject IN ({})", of("a"))).await;
    assert!(!session.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

/// An attacker with write access to the database cannot make the service wrap under the attacker's key.
#[tokio::test(flavor = "multi_thread")]
async fn altered_generations() {
    let original = Place::new();
    let kms = Kms::open(both(&original)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let added = "INSERT INTO root_keys SELECT SUBSTR(seal, 1, 16), 2, provider, reference, derivation, salt,
                 check_value, state, compromised_at, closed_seq, created_at, retired_at, revision, seal FROM root_keys
                 WHERE generation = 1";
    original.tamper(added).await;
    session.create_key(NewKey::aes("new")).await.unwrap();
    let report = session.verify_audit().await.unwrap();
    assert!(!report.ok, "{report:?}");
    kms.close().await.unwrap();
    assert_eq!(count(&original, 2).await, 0);
    let kms = Kms::open(both(&original)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("newer")).await.unwrap();
    assert_eq!(session.list_root_keys().await.unwrap().len(), 1);
    original.tamper("DELETE FROM root_keys WHERE generation = 2").await;
    assert!(session.verify_audit().await.unwrap().ok);
    move_to(&session, &next()).await;
    kms.close().await.unwrap();
    // If a row is altered or missing, nothing is used, because the right generation to wrap under is unknown.
    for sql in [
        "UPDATE root_keys SET compromised_at = 5 WHERE generation = 2",
        "UPDATE root_keys SET retired_at = 5 WHERE generation = 1",
        "DELETE FROM root_keys WHERE generation = 2",
    ] {
        let undo = "CREATE TABLE kept AS SELECT * FROM root_keys";
        original.tamper(undo).await;
        original.tamper(sql).await;
        let kms = Kms::open(both(&original)).await;
        // The additional table only causes a warning.
        let kms = kms.unwrap();
        assert_eq!(code(admin(&kms).encrypt("k", b"x", &Context::new()).await), ErrorCode::IntegrityFailure, "{sql}");
        assert_eq!(code(admin(&kms).create_key(NewKey::aes("z")).await), ErrorCode::IntegrityFailure, "{sql}");
        assert!(!admin(&kms).verify_audit().await.unwrap().ok, "{sql}");
        kms.close().await.unwrap();
        original.tamper("DELETE FROM root_keys").await;
        original.tamper("INSERT INTO root_keys SELECT * FROM kept").await;
        original.tamper("DROP TABLE kept").await;
    }
    let kms = Kms::open(both(&original)).await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// With a leaked root key, nothing new is wrapped under it, and it cannot be retired before the service's own keys are
/// replaced.
#[tokio::test(flavor = "multi_thread")]
async fn a_compromised_generation() {
    let place = Place::new();
    let kms = Kms::open(both(&place)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let leaked = RetireOptions::default().compromised(true);
    assert_eq!(code(session.retire_root_key(1, &leaked).await), ErrorCode::WrongState, "there is no other");
    move_to(&session, &next()).await;
    let before = count(&place, 1).await;
    let error = session.retire_root_key(1, &leaked).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::WrongState);
    assert!(error.message().contains("signing key") && error.message().contains("integrity key"), "{error}");
    // Once the key is marked as leaked, omitting the flag does not bypass that.
    assert_eq!(code(session.retire_root_key(1, &RetireOptions::default()).await), ErrorCode::WrongState);
    let listed = session.list_root_keys().await.unwrap();
    assert!(listed[0].compromised_at.is_some() && listed[0].state == RootKeyState::Active);
    session.create_key(NewKey::aes("new")).await.unwrap();
    session.rotate_key("k", None).await.unwrap();
    assert_eq!(count(&place, 1).await, before, "nothing new is wrapped under it");
    session.replace_signing_key().await.unwrap();
    let error = session.retire_root_key(1, &leaked).await.unwrap_err();
    assert!(!error.message().contains("signing key"), "{error}");
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// A backup from before the change needs the former key.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_from_before() {
    let place = Place::in_a_file();
    let kms = Kms::open(both(&place)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let sealed = session.encrypt("k", b"x", &Context::new()).await.unwrap();
    let backup = place.folder.path().join("backup.db");
    session.backup(&backup).await.unwrap();
    move_to(&session, &next()).await;
    let retired = session.retire_root_key(1, &RetireOptions::default()).await.unwrap();
    assert_eq!(retired.backups.len(), 1);
    let compared = session.compare_backup(&backup).await.unwrap();
    assert_eq!(compared.retired_root_keys, [1]);
    kms.close().await.unwrap();
    assert_eq!(code(Kms::verify_backup(&only_next(&place), &backup).await), ErrorCode::WrongRootKey);
    assert!(Kms::verify_backup(&both(&place), &backup).await.unwrap().verification.ok);
    for name in ["kms.db", "kms.db-wal", "kms.db-shm"] {
        let _ = std::fs::remove_file(place.folder.path().join(name));
    }
    Kms::restore(&both(&place), &backup).await.unwrap();
    let kms = Kms::open(both(&place)).await.unwrap();
    admin(&kms).decrypt(&sealed.ciphertext, &Context::new()).await.unwrap();
    // The change is repeated.
    move_to(&admin(&kms), &next()).await;
    admin(&kms).retire_root_key(1, &RetireOptions::default()).await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// The scheduler erases what an interrupted retirement has left.
#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_is_resumed() {
    let place = Place::in_a_file();
    let kms = Kms::open(both(&place)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    move_to(&session, &next()).await;
    place.tamper("CREATE TABLE kept AS SELECT * FROM wrappings WHERE generation = 1").await;
    session.retire_root_key(1, &RetireOptions::default()).await.unwrap();
    assert_eq!(count(&place, 1).await, 0);
    // Restores the state in which the process ended before the erasure.
    place.tamper("INSERT INTO wrappings SELECT * FROM kept; DROP TABLE kept").await;
    assert_eq!(count(&place, 1).await, 3);
    assert!(session.verify_audit().await.unwrap().ok);
    kms.run_scheduler().await.unwrap();
    assert_eq!(count(&place, 1).await, 0);
    kms.close().await.unwrap();
}
