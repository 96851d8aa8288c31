//! Tests at compile time that the futures can be sent to other threads. `surface.rs` checks that no method is missing.

use kms_lib::SignatureAlgorithm::RsaPssSha256;
use kms_lib::{
    Actor, AuditQuery, BackupOptions, Config, Context, DecryptItem, EncryptItem, Error, GrantFilter, KeyFilter,
    KeyUpdate, Kms, NewGrant, NewKey, NewToken, Paging, Progress, ReencryptItem, RetireOptions, Role, RootKeyJob,
    RootKeySource, Session, SignItem, StreamDecryptor, StreamEncryptor, VerifyItem, VerifyOptions, blocking,
};

fn send_and_sync<T: Send + Sync>() {}

#[test]
fn handles_are_shared_between_threads() {
    send_and_sync::<Kms>();
    send_and_sync::<Session>();
    send_and_sync::<blocking::Kms>();
    send_and_sync::<blocking::Session>();
    send_and_sync::<Config>();
    send_and_sync::<Error>();
    send_and_sync::<Progress>();
    send_and_sync::<StreamEncryptor>();
    send_and_sync::<StreamDecryptor>();
}

/// The future of each method can be spawned on a multi-threaded runtime.
fn send<T: Send>(_: T) {}

#[expect(dead_code, reason = "compiled, never called")]
fn futures_of_the_service(kms: &Kms, config: &Config) {
    send(Kms::open(config.clone()));
    send(Kms::open_read_only(config.clone()));
    send(kms.authenticate(""));
    send(kms.ready());
    send(kms.telemetry());
    send(kms.run_scheduler());
    send(Kms::verify_backup(config, ""));
    send(Kms::verify_backup_with(config, "", &BackupOptions::new()));
    send(Kms::restore(config, ""));
    send(Kms::restore_with(config, "", &BackupOptions::new()));
    send(kms.close());
}

#[expect(dead_code, reason = "compiled, never called")]
fn futures_of_an_import(session: &Session, source: &kms_lib::ImportSource) {
    send(session.import_mini_kms(source, &kms_lib::ImportJob::default()));
    send(session.list_imported_audit("", &Paging::default()));
}

#[expect(dead_code, reason = "compiled, never called")]
fn futures_about_keys(session: &Session) {
    let paging = &Paging::default();
    send(session.create_key(NewKey::aes("k")));
    send(session.get_key("k"));
    send(session.list_keys(&KeyFilter::new(), paging));
    send(session.public_key("k", 1));
    send(session.list_versions("k", paging));
    send(session.get_version("k", 1));
    send(session.rotate_key("k", None));
    send(session.enable_key("k"));
    send(session.disable_key("k"));
    send(session.revoke_key("k"));
    send(session.enable_version("k", 1));
    send(session.disable_version("k", 1));
    send(session.revoke_version("k", 1));
    send(session.set_window("k", 1, None));
    send(session.update_key("k", KeyUpdate::new()));
    send(session.schedule_deletion("k", None));
    send(session.cancel_deletion("k"));
    send(session.trim_key("k"));
}

#[expect(dead_code, reason = "compiled, never called")]
fn futures_of_cryptography(session: &Session, context: &Context) {
    let item = || DecryptItem::new(b"", Context::new());
    send(session.encrypt("k", b"", context));
    send(session.decrypt(b"", context));
    send(session.decrypt_with("k", b"", context));
    send(session.decrypt_item(item()));
    send(session.decrypt_oaep("k", 1, b""));
    send(session.sign("k", b"", RsaPssSha256));
    send(session.sign_with_version("k", 1, b"", RsaPssSha256));
    send(session.verify("k", b"", b"", RsaPssSha256, None));
    send(session.generate_data_key("k", 32, context));
    send(session.generate_data_key_without_plaintext("k", 32, context));
    send(session.reencrypt(ReencryptItem::new(b"", Context::new())));
    send(session.encrypt_batch(&[EncryptItem::new("k", b"", Context::new())]));
    send(session.decrypt_batch(&[item()]));
    send(session.sign_batch(&[SignItem::new("k", b"", RsaPssSha256)]));
    send(session.verify_batch(&[VerifyItem::new("k", b"", b"", RsaPssSha256)]));
    send(session.reencrypt_batch(&[ReencryptItem::new(b"", Context::new())]));
    send(session.encrypt_stream("k", context));
    send(session.decrypt_stream(b"", context));
    send(session.encrypt_reader("k", context, &mut tokio::io::empty(), &mut tokio::io::sink()));
    send(session.decrypt_reader(context, &mut tokio::io::empty(), &mut tokio::io::sink()));
}

#[expect(dead_code, reason = "compiled, never called")]
fn futures_of_administration(session: &Session) {
    let paging = &Paging::default();
    let id = kms_lib::GrantId::random();
    send(session.put_grant(NewGrant::new("app", Role::App)));
    send(session.revoke_grant(id));
    send(session.revoke_grant_cascading(id));
    send(session.list_grants(&GrantFilter::new(), paging));
    send(session.create_token(NewToken::new("app", Role::App)));
    send(session.create_first_token(NewToken::new("boss", Role::Admin)));
    send(session.revoke_credential(kms_lib::CredentialId::random()));
    send(session.list_credentials(paging));
    send(session.list_quarantine());
    send(session.release_quarantine());
    send(session.list_audit(&AuditQuery::new(), paging));
    send(session.checkpoint());
    send(session.audit_public_key());
    send(session.audit_public_keys());
    send(session.replace_signing_key());
    send(session.verify_audit());
    send(session.verify_audit_incrementally());
    send(session.verify_audit_with(&VerifyOptions::new()));
    send(session.compare_anchors(&[]));
    send(session.record_anchor_failure(""));
    send(session.kept_checkpoint(1));
    send(session.permit_telemetry());
    send(session.metrics());
    send(session.backup(""));
    let source = &RootKeySource::from_bytes([1; 32]);
    send(session.list_root_keys());
    send(session.add_root_key(source));
    send(session.plan_rewrap());
    let job = &RootKeyJob::default();
    send(session.rewrap(job));
    send(session.verify_root_key(1, job));
    send(session.verify_planned_root_key(source, job));
    send(session.retire_root_key(1, &RetireOptions::default()));
    send(session.replace_integrity_key());
    send(session.backup_with("", &BackupOptions::new()));
    send(session.compare_backup(""));
}

/// A future is actually spawned, so that this is tested at run time, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_works_on_any_thread() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::new(format!("sqlite:{}", folder.path().join("kms.db").display())).root_key_bytes([7; 32]);
    let kms = Kms::open(config).await.unwrap();
    let session = kms.session(Actor::new("alice", Role::Admin).unwrap());
    session.create_key(NewKey::aes("k")).await.unwrap();
    let working = (0..8).map(|_| {
        let session = session.clone();
        tokio::spawn(async move { session.encrypt("k", b"x", &Context::new()).await })
    });
    for done in working.collect::<Vec<_>>() {
        done.await.unwrap().unwrap();
    }
    kms.close().await.unwrap();
}
