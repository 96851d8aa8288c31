//! Tests of the blocking interface, for callers without an async runtime: every method, on every engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::common::{Place, code};
use kms_lib::SignatureAlgorithm::RsaPssSha256;
use kms_lib::blocking::{Kms, Session};
use kms_lib::{
    Actor, AuditQuery, BackupOptions, Context, DecryptItem, EncryptItem, ErrorCode, GrantFilter, KeyFilter, KeyState,
    KeyUpdate, NewGrant, NewKey, NewToken, Paging, Permission, Progress, ReencryptItem, RetireOptions, Role,
    RootKeyJob, RootKeySource, SignItem, VerifyItem, VerifyOptions, VersionState, Zeroizing,
};

fn open(place: &Place) -> (Kms, Session) {
    let kms = Kms::open(place.config().deletion_wait(7, 1)).unwrap();
    let session = kms.session(Actor::new("alice", Role::Admin).unwrap());
    assert_eq!(session.actor().principal(), "alice");
    (kms, session)
}

#[test]
fn keys() {
    let place = Place::new();
    let (kms, session) = open(&place);
    let key = session.with_idempotency_key("make users").unwrap().create_key(NewKey::aes("users")).unwrap();
    let again = session.with_idempotency_key("make users").unwrap().create_key(NewKey::aes("users")).unwrap();
    assert_eq!(key.id, again.id);
    session.create_key(NewKey::rsa_signing("invoices")).unwrap();
    assert!(session.public_key("invoices", 1).unwrap().contains("PUBLIC KEY"));
    assert_eq!(session.list_keys(&KeyFilter::new(), &Paging::new(10)).unwrap().items.len(), 2);

    assert_eq!(session.rotate_key("users", Some(1)).unwrap().current_version, 2);
    assert_eq!(session.disable_key("users").unwrap().state, KeyState::Disabled);
    assert_eq!(session.enable_key("users").unwrap().state, KeyState::Enabled);
    session.disable_version("users", 2).unwrap();
    session.enable_version("users", 2).unwrap();
    session.set_window("users", 1, Some(place.now().plus_days(1))).unwrap();
    session.revoke_version("users", 1).unwrap();
    assert_eq!(code(session.public_key("users", 1)), ErrorCode::WrongKeyType);
    session.update_key("users", KeyUpdate::new().rotation_period_days(30)).unwrap();
    session.schedule_deletion("users", Some(3)).unwrap();
    assert_eq!(session.cancel_deletion("users").unwrap().state, KeyState::Enabled);
    assert_eq!(session.trim_key("users").unwrap().state, KeyState::Enabled);
    session.revoke_key("users").unwrap();
    assert_eq!(session.get_key("users").unwrap().state, KeyState::Revoked);
    assert_eq!(session.get_version("users", 2).unwrap().state, VersionState::Revoked);
    let page = session.list_versions("users", &Paging::new(1)).unwrap();
    assert_eq!((page.items[0].version, page.next_cursor), (1, Some("1".into())));
    let states = session.list_versions("users", &Paging::new(10).after("1")).unwrap().items;
    assert!(states.iter().all(|version| version.state == VersionState::Revoked), "{states:?}");
    assert_eq!(code(session.get_key("none")), ErrorCode::KeyNotFound);
    assert!(kms.run_scheduler().unwrap().failed.is_empty());
    kms.close().unwrap();
}

#[test]
fn cryptography() {
    let (place, context) = (Place::new(), Context::from([("row", "1")]));
    let (kms, session) = open(&place);
    session.create_key(NewKey::aes("users")).unwrap();
    session.create_key(NewKey::rsa_encryption("letters")).unwrap();
    session.create_key(NewKey::rsa_signing("invoices")).unwrap();

    let sealed = session.encrypt("users", b"a plaintext", &context).unwrap();
    assert_eq!(session.decrypt(&sealed.ciphertext, &context).unwrap().plaintext.as_slice(), b"a plaintext");
    assert_eq!(session.decrypt_with("users", &sealed.ciphertext, &context).unwrap().version, 1);
    assert_eq!(code(session.decrypt_oaep("letters", 1, &[0; 256])), ErrorCode::DecryptionFailed);
    let letter = session.encrypt("letters", b"a letter", &Context::new()).unwrap();
    assert_eq!(session.decrypt(&letter.ciphertext, &Context::new()).unwrap().plaintext.as_slice(), b"a letter");
    let signed = session.sign("invoices", b"total", RsaPssSha256).unwrap();
    assert!(session.verify("invoices", b"total", &signed.signature, RsaPssSha256, None).unwrap().valid);
    session.sign_with_version("invoices", 1, b"total", RsaPssSha256).unwrap();
    let data_key = session.generate_data_key("users", 32, &context).unwrap();
    assert_eq!(data_key.plaintext.unwrap().len(), 32);
    assert!(session.generate_data_key_without_plaintext("users", 32, &context).unwrap().plaintext.is_none());

    let encrypt = EncryptItem::new("users", b"x", context.clone());
    let encrypted = session.encrypt_batch(&[encrypt]).unwrap().remove(0).unwrap();
    let decrypt = DecryptItem::new(&encrypted.ciphertext, context.clone()).key("users").version(encrypted.version);
    assert_eq!(session.decrypt_item(decrypt.clone()).unwrap().plaintext.as_slice(), b"x");
    assert_eq!(session.decrypt_batch(&[decrypt]).unwrap().remove(0).unwrap().plaintext.as_slice(), b"x");
    let sign = SignItem::new("invoices", b"x", RsaPssSha256);
    let signature = session.sign_batch(&[sign]).unwrap().remove(0).unwrap().signature;
    let verify = VerifyItem::new("invoices", b"x", &signature, RsaPssSha256);
    assert!(session.verify_batch(&[verify]).unwrap().remove(0).unwrap().valid);
    let reencrypt = || {
        ReencryptItem::new(&sealed.ciphertext, context.clone())
            .destination("letters")
            .destination_context(Context::new())
    };
    session.reencrypt(reencrypt()).unwrap();
    session.reencrypt_batch(&[reencrypt()]).unwrap().remove(0).unwrap();
    kms.close().unwrap();
}

#[test]
fn streams() {
    let place = Place::new();
    let (kms, session) = open(&place);
    session.create_key(NewKey::aes("files")).unwrap();
    let (file, context) = (vec![7; 200_000], Context::from([("file", "1")]));
    let mut sealed = Vec::new();
    session.encrypt_reader("files", &context, &mut file.as_slice(), &mut sealed).unwrap();
    let mut opened = Vec::new();
    session.decrypt_reader(&context, &mut sealed.as_slice(), &mut opened).unwrap();
    assert_eq!(opened, file);

    let mut sealed = Vec::new();
    let mut encryptor = session.encrypt_stream("files", &context).unwrap();
    encryptor.update(&file, &mut sealed).unwrap();
    encryptor.finish(&mut sealed).unwrap();
    let (mut decryptor, header) = session.decrypt_stream(&sealed, &context).unwrap().unwrap();
    let mut opened = Zeroizing::default();
    decryptor.update(&sealed[header..], &mut opened).unwrap();
    decryptor.finish(&mut opened).unwrap();
    assert_eq!(*opened, file);
    kms.close().unwrap();
}

#[test]
fn grants_tokens_and_the_log() {
    let place = Place::new();
    let (kms, session) = open(&place);
    let key = session.create_key(NewKey::aes("users")).unwrap();
    let grant =
        session.put_grant(NewGrant::new("app", Role::App).on_key("users").allow([Permission::Encrypt])).unwrap();
    session.create_first_token(NewToken::new("boss", Role::Admin)).unwrap();
    assert_eq!(session.create_first_token(NewToken::new("boss", Role::Admin)).unwrap_err().code(), ErrorCode::Conflict);
    let token = session.create_token(NewToken::new("app", Role::App).label("billing")).unwrap();
    let app = kms.session(kms.authenticate(&token.token).unwrap());
    app.encrypt("users", b"x", &Context::new()).unwrap();
    assert_eq!(session.list_grants(&GrantFilter::new().principal("app"), &Paging::new(10)).unwrap().items.len(), 1);
    let on_key = GrantFilter::new().on_key(key.id).principal("app");
    assert_eq!(session.list_grants(&on_key, &Paging::new(10)).unwrap().items.len(), 1);
    assert_eq!(session.list_grants(&GrantFilter::new().on_all_keys(), &Paging::new(10)).unwrap().items, []);
    assert_eq!(session.list_credentials(&Paging::new(10)).unwrap().items.len(), 2);
    session.revoke_grant(grant.id).unwrap();
    session.revoke_grant_cascading(grant.id).unwrap();
    assert_eq!(session.list_quarantine().unwrap(), []);
    assert_eq!(session.release_quarantine().unwrap(), []);
    assert_eq!(code(app.encrypt("users", b"x", &Context::new())), ErrorCode::AccessDenied);
    session.revoke_credential(token.credential.id).unwrap();
    assert_eq!(code(kms.authenticate(&token.token)), ErrorCode::NotAuthenticated);

    assert!(session.list_imported_audit("mini-kms", &Paging::new(100)).unwrap().items.is_empty());
    assert!(!session.list_audit(&AuditQuery::new(), &Paging::new(100)).unwrap().items.is_empty());
    assert!(session.checkpoint().unwrap().contains('\n'));
    assert_eq!(session.kept_checkpoint(1).unwrap(), None);
    assert!(session.compare_anchors(&[session.checkpoint().unwrap()]).unwrap().ok);
    session.record_anchor_failure("the bucket does not answer").unwrap();
    let pinned = session.audit_public_key().unwrap();
    assert_ne!(session.replace_signing_key().unwrap(), pinned);
    assert_eq!(session.audit_public_keys().unwrap().len(), 2);
    assert!(session.verify_audit().unwrap().ok);
    assert!(session.verify_audit_incrementally().unwrap().ok);
    let options = VerifyOptions::new().pinned_key(pinned);
    assert!(session.verify_audit_with(&options).unwrap().ok);
    assert!(session.list_imported_audit("mini-kms", &Paging::new(1)).unwrap().items.is_empty());
    session.metrics().unwrap();
    session.permit_telemetry().unwrap();
    assert!(kms.is_alive());
    kms.close().unwrap();
    assert_eq!(code(session.metrics()), ErrorCode::Closed);
}

#[test]
fn root_keys() {
    let place = Place::new();
    let next = [8; 32];
    crate::common::output::secret(&next);
    let kms = Kms::open(place.config().add_root_key_bytes(next)).unwrap();
    let session = kms.session(Actor::new("alice", Role::Admin).unwrap());
    session.create_key(NewKey::aes("users")).unwrap();
    let (source, job) = (RootKeySource::from_bytes(next), RootKeyJob::default());
    assert!(session.verify_planned_root_key(&source, &job).unwrap().is_complete());
    assert_eq!(session.add_root_key(&source).unwrap().generation, 2);
    session.plan_rewrap().unwrap();
    assert!(session.rewrap(&job).unwrap().is_complete());
    assert!(session.verify_root_key(2, &job).unwrap().is_complete());
    session.retire_root_key(1, &RetireOptions::default()).unwrap();
    assert_eq!(session.replace_integrity_key().unwrap().number, 2);
    assert_eq!(session.list_root_keys().unwrap().len(), 2);
    kms.close().unwrap();
}

/// Backups are made of SQLite stores only; database servers have tools of their own.
#[test]
fn backups() {
    let place = Place::in_a_file();
    let (kms, session) = open(&place);
    session.create_key(NewKey::aes("users")).unwrap();
    let file = |name: &str| place.folder.path().join(name);
    assert!(session.backup(file("backup.db")).unwrap().verification.ok);
    let told = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&told);
    let progress = Progress::calling(move |done, _| counter.store(done, Ordering::SeqCst));
    let options = BackupOptions::new().progress(&progress);
    session.backup_with(file("again.db"), &options).unwrap();
    assert!(progress.total() > 2 && progress.done() == progress.total(), "{progress:?}");
    assert_eq!(told.load(Ordering::SeqCst), progress.done());
    session.revoke_key("users").unwrap();
    assert_eq!(session.compare_backup(file("backup.db")).unwrap().keys, ["users"]);
    kms.ready().unwrap();
    assert!(kms.telemetry().unwrap().records > 2);
    kms.close().unwrap();

    let at = |name: &str| place.config().store_url(format!("sqlite:{}", file(name).display()));
    assert!(Kms::verify_backup(&place.config(), file("backup.db")).unwrap().verification.ok);
    Kms::verify_backup_with(&place.config(), file("again.db"), &options).unwrap();
    Kms::restore(&at("first.db"), file("backup.db")).unwrap();
    Kms::restore_with(&at("second.db"), file("again.db"), &options).unwrap();
    for name in ["first.db", "second.db"] {
        let kms = Kms::open_read_only(at(name)).unwrap();
        let session = kms.session(Actor::new("alice", Role::Admin).unwrap());
        assert_eq!(session.get_key("users").unwrap().state, KeyState::Enabled);
        assert_eq!(code(session.revoke_key("users")), ErrorCode::StoreReadOnly);
        kms.close().unwrap();
    }
}

/// Threads share one service, and it is opened again after it was closed.
#[test]
fn threads() {
    let place = Place::new();
    let (kms, session) = open(&place);
    session.create_key(NewKey::aes("users")).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    session.encrypt("users", b"x", &Context::new()).unwrap();
                }
            });
        }
    });
    kms.close().unwrap();
    let (kms, session) = open(&place);
    assert!(session.verify_audit().unwrap().ok);
    kms.close().unwrap();
}

/// Fails if a blocking method is not used in this file, because it would be untested on database servers.
#[test]
fn every_mirrored_method_is_used_above() {
    let mirrored =
        include_str!("../../src/blocking.rs").split_once("\nmirror! {\n").unwrap().1.split_once("\n}\n").unwrap().0;
    let names: Vec<&str> = mirrored
        .lines()
        .filter_map(|line| line.strip_prefix("    ")?.split_once('(').map(|(name, _)| name))
        .filter(|name| !name.is_empty() && !name.contains(' '))
        .collect();
    assert!(names.len() > 40, "{names:?}");
    let here = include_str!("blocking.rs");
    for name in names {
        assert!(here.contains(&format!(".{name}(")), "{name} is not used");
    }
}
