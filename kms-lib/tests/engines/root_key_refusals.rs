//! Tests of refused calls about root keys, of tampered wrappings and generations, and of compromised generations.

use crate::common::{Place, ROOT_KEY, actor, admin, check_usable, code, last_record};
use crate::two_root_keys::{both, move_to, next};
use kms_lib::{Context, ErrorCode, Kms, NewKey, RetireOptions, Role, RootKeyJob, RootKeySource, RootKeyState, Session};

async fn assert_recorded(session: &Session, action: &str, flag: &str) {
    let record = last_record(session).await;
    assert_eq!(record.action, action);
    assert!(record.details.unwrap().contains(&format!("\"{flag}\":true")));
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_calls_are_refused() {
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
    assert!(retire(1).await.unwrap_err().message().contains("3 items"), "not wrapped");
    session.rewrap(&RootKeyJob::default()).await.unwrap();
    assert!(retire(1).await.unwrap_err().message().contains("3 items"), "not verified");
    let dry = session.verify_root_key(2, &RootKeyJob::default().dry_run(true)).await.unwrap();
    assert!(dry.is_complete() && dry.done == 3);
    assert_recorded(&session, "ROOT_KEY_VERIFY", "dryRun").await;
    session.rewrap(&RootKeyJob::default().dry_run(true)).await.unwrap();
    assert_recorded(&session, "REWRAP_END", "dryRun").await;
    assert_eq!(code(retire(1).await), ErrorCode::WrongState, "a dry run does not count");
    session.verify_root_key(2, &RootKeyJob::default()).await.unwrap();
    // A version added after the verification is not verified.
    session.rotate_key("k", None).await.unwrap();
    assert!(retire(1).await.unwrap_err().message().contains("1 items"));
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
async fn only_admins_may_change_root_keys() {
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

/// A wrapping that unwraps to other material is reported instead of trying the next one.
#[tokio::test(flavor = "multi_thread")]
async fn altered_wrappings_are_not_used() {
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
    assert!(session.retire_root_key(1, &RetireOptions::default()).await.unwrap_err().message().contains("items"));
    // Material that is missing only under the former key does not count either.
    place.tamper("DELETE FROM wrappings WHERE generation = 1").await;
    session.encrypt("b", b"x", &Context::new()).await.unwrap();
    place.tamper(&format!("DELETE FROM wrappings WHERE subject IN ({})", of("a"))).await;
    assert!(!session.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

/// An attacker with write access to the database cannot make the service wrap under the attacker's key.
#[tokio::test(flavor = "multi_thread")]
async fn altered_generations_are_not_used() {
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
    assert_eq!(original.wrappings_under(2).await, 0);
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
async fn a_compromised_generation_wraps_nothing_new() {
    let place = Place::new();
    let kms = Kms::open(both(&place)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let leaked = RetireOptions::default().compromised(true);
    assert_eq!(code(session.retire_root_key(1, &leaked).await), ErrorCode::WrongState, "there is no other");
    move_to(&session, &next()).await;
    let before = place.wrappings_under(1).await;
    let error = session.retire_root_key(1, &leaked).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::WrongState);
    assert!(error.message().contains("signing key") && error.message().contains("integrity key"), "{error}");
    // Once the key is marked as leaked, omitting the flag does not bypass that.
    assert_eq!(code(session.retire_root_key(1, &RetireOptions::default()).await), ErrorCode::WrongState);
    let listed = session.list_root_keys().await.unwrap();
    assert!(listed[0].compromised_at.is_some() && listed[0].state == RootKeyState::Active);
    session.create_key(NewKey::aes("new")).await.unwrap();
    session.rotate_key("k", None).await.unwrap();
    assert_eq!(place.wrappings_under(1).await, before, "nothing new is wrapped under it");
    session.replace_signing_key().await.unwrap();
    let error = session.retire_root_key(1, &leaked).await.unwrap_err();
    assert!(!error.message().contains("signing key"), "{error}");
    check_usable(&kms).await;
    kms.close().await.unwrap();
}
