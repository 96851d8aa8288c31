//! Tests of several root keys: adding one, wrapping all key material under it, verifying the wrappings, and retiring
//! the former one, while other nodes work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{Place, admin, check_usable, code, last_record};
use crate::two_root_keys::{both, move_to, next, only_next};
use kms_lib::SignatureAlgorithm::RsaPssSha256;
use kms_lib::{
    Context, ErrorCode, Kms, NewKey, RetireOptions, RootKeyJob, RootKeyProgress, RootKeySource, RootKeyState,
};

/// Moves through a passphrase, base64, hexadecimal and a file as root key; data from the first one remains readable.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_moves_between_root_keys_of_any_form() {
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
        assert_eq!((retired.root_key.wrappings, place.wrappings_under(generation - 1).await), (0, 0));
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
    assert_eq!((place.wrappings_under(1).await, place.wrappings_under(2).await), (3, 2));
    session.create_key(NewKey::aes("after")).await.unwrap();
    session.rotate_key("before", None).await.unwrap();
    session.replace_signing_key().await.unwrap();
    assert_eq!((place.wrappings_under(1).await, place.wrappings_under(2).await), (5, 4));
    let plan = session.plan_rewrap().await.unwrap();
    let calls: Vec<_> = plan.calls.iter().map(|call| (call.generation, call.unwraps, call.wraps)).collect();
    assert_eq!((plan.materials, calls), (1, vec![(1, 1, 0), (2, 0, 1)]));
    let progress = Arc::new(RootKeyProgress::default());
    let dry = RootKeyJob::default().dry_run(true).progress(progress.clone());
    assert_eq!(session.rewrap(&dry).await.unwrap().done, 1);
    assert_eq!((progress.total(), progress.done(), progress.failed()), (5, 5, 0));
    assert_eq!(place.wrappings_under(2).await, 4);
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
    assert_eq!((place.wrappings_under(1).await, place.wrappings_under(2).await), (3, 3));
    assert_eq!(session.rewrap(&RootKeyJob::default()).await.unwrap().done, 0);
    assert_eq!(place.wrappings_under(2).await, 3);
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// A node with only the former key can continue with everything that does not need the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_the_new_key_creates_no_versions() {
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

/// Two concurrent rewraps on two nodes, while a third node creates and rotates keys; then the former key is retired.
#[tokio::test(flavor = "multi_thread")]
async fn two_rewraps_under_load() {
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
    assert_eq!(place.wrappings_under(1).await, 0);
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

/// A backup from before the change needs the former key.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_opens_with_the_root_keys_of_its_time() {
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
    assert_eq!(place.wrappings_under(1).await, 0);
    // Restores the state in which the process ended before the erasure.
    place.tamper("INSERT INTO wrappings SELECT * FROM kept; DROP TABLE kept").await;
    assert_eq!(place.wrappings_under(1).await, 3);
    assert!(session.verify_audit().await.unwrap().ok);
    kms.run_scheduler().await.unwrap();
    assert_eq!(place.wrappings_under(1).await, 0);
    kms.close().await.unwrap();
}
