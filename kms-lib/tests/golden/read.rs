//! Reading golden stores: a copy of each is opened, verified, used and verified again.

use std::path::Path;

use kms_lib::audit::export::ExportVerifier;
use kms_lib::{
    Action, AuditQuery, Config, Context, DecryptItem, Kms, NewKey, Paging, Permission, Role, Session, Timestamp,
};
use serde_json::Value;

use crate::common::{Place, actor, admin, check_usable, code, output, whole_log};
use crate::facts::{self, Facts, RootKey};
use crate::make;

#[tokio::test(flavor = "multi_thread")]
async fn every_golden_store_is_read() {
    for folder in facts::golden() {
        check_local(&folder).await;
    }
}

/// Checks a store under each of its local root keys and, unless one is in AWS KMS, under all of them together.
pub async fn check_local(folder: &Path) {
    let all = facts::of(folder).root_keys;
    let local = all.iter().filter_map(|root| match root {
        RootKey::Local { key, .. } => Some(key.as_str()),
        RootKey::AwsKms { .. } => None,
    });
    let local: Vec<&str> = local.collect();
    assert!(!local.is_empty(), "{}: no local root key", folder.display());
    for key in &local {
        check(folder, all.len() == 1, |config| config.root_key(key).unwrap()).await;
    }
    if let [one, other] = local[..] {
        check(folder, true, |config| config.root_key(one).unwrap().add_root_key(other).unwrap()).await;
    }
}

/// Checks a store under the root keys that the function adds to the configuration. Only if these are all root keys of
/// the store, keys can be created and rotated.
pub async fn check(folder: &Path, are_all: bool, root_keys: impl Fn(Config) -> Config) {
    let facts = facts::of(folder);
    note_secrets(&facts);
    let place = copy(folder, facts.closed_at);
    let config = || root_keys(place.config()).high_water(place.folder.path().join("high-water"));
    let name = folder.display();

    let kms = Kms::open_read_only(config()).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
    let report = admin(&kms).verify_audit().await.unwrap();
    assert_eq!(report.ok, facts.repair.is_none(), "{name}: {:?}", report.faults);
    assert_eq!(report.size, facts.size, "{name}");
    kms.close().await.unwrap();

    let kms = Kms::open(config()).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
    let session = admin(&kms);
    assert_contains(&make::describe(&session).await, &facts.described, &name.to_string());
    if let Some(repair) = &facts.repair {
        place.tamper(repair).await;
        assert_eq!(session.release_quarantine().await.unwrap().len(), 1, "{name}");
    }
    check_log(&session, folder, &facts).await;
    check_cryptography(&session, &facts).await;
    check_rights(&kms, &facts).await;
    check_idempotency(&session, &facts).await;
    if are_all {
        check_changes(&session).await;
        check_usable(&kms).await;
    }
    kms.close().await.unwrap();

    let kms = Kms::open(config()).await.unwrap();
    check_cryptography(&admin(&kms), &facts).await;
    check_erasure(&kms, &facts).await;
    assert!(admin(&kms).verify_audit_incrementally().await.unwrap().ok, "{name}");
    kms.close().await.unwrap();
}

/// The scheduler completes the erasure of a key that was interrupted.
async fn check_erasure(kms: &Kms, facts: &Facts) {
    let pending = kms_lib::KeyFilter::new().state(kms_lib::KeyState::PendingDeletion);
    let keys = admin(kms).list_keys(&pending, &Paging::new(100)).await.unwrap().items;
    let due = keys.into_iter().filter(|key| key.delete_at.is_some_and(|time| time <= facts.closed_at));
    let due: Vec<_> = due.map(|key| key.id).collect();
    if !due.is_empty() {
        assert_eq!(kms.run_scheduler().await.unwrap().destroyed, due);
    }
}

/// Registers the secrets of a store, which no output may contain.
fn note_secrets(facts: &Facts) {
    for root_key in &facts.root_keys {
        let (RootKey::Local { key: secret, .. } | RootKey::AwsKms { material: secret, .. }) = root_key;
        output::secret(secret.trim_start_matches("hex:").trim_start_matches("passphrase:").as_bytes());
    }
    facts.tokens.iter().for_each(|token| output::secret(token.token.as_bytes()));
    facts.ciphertexts.iter().for_each(|it| output::secret(&it.plaintext.0));
}

/// A copy of a store, with a clock that continues where the store was closed.
fn copy(folder: &Path, closed_at: Timestamp) -> Place {
    let place = Place::in_a_file();
    std::fs::copy(folder.join("store.sqlite"), place.file()).unwrap();
    std::fs::copy(folder.join("high-water"), place.folder.path().join("high-water")).unwrap();
    make::set_clock(&place, closed_at.plus_seconds(1));
    place
}

/// Asserts that everything in `golden` is in `found`. Later versions may describe more.
fn assert_contains(found: &Value, golden: &Value, place: &str) {
    match (found, golden) {
        (Value::Object(found), Value::Object(golden)) => {
            for (name, value) in golden {
                let place = format!("{place}.{name}");
                assert_contains(found.get(name).unwrap_or(&Value::Null), value, &place);
            }
        }
        (Value::Array(found), Value::Array(golden)) => {
            assert_eq!(found.len(), golden.len(), "{place}");
            for (n, (found, golden)) in found.iter().zip(golden).enumerate() {
                assert_contains(found, golden, &format!("{place}[{n}]"));
            }
        }
        _ => assert_eq!(found, golden, "{place}"),
    }
}

/// The log has the records of the export, and the export verifies against every verifier key of the log.
async fn check_log(session: &Session, folder: &Path, facts: &Facts) {
    let export = std::fs::read_to_string(folder.join("log.jsonl")).unwrap();
    let mut records = whole_log(session).await;
    records.truncate(usize::try_from(facts.size).unwrap());
    let mut found = records.iter();
    for line in export.lines().filter(|line| !line.starts_with("{\"checkpoint\"")) {
        let expected: Value = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_value(found.next().unwrap()).unwrap(), expected);
    }
    for key in &facts.verifier_keys {
        let mut verifier = ExportVerifier::new(key).unwrap();
        export.lines().for_each(|line| verifier.push_line(line));
        let report = verifier.finish();
        assert!(report.ok && report.signed == facts.size, "{report:?}");
        let options = kms_lib::VerifyOptions::new().pinned_key(key);
        assert!(session.verify_audit_with(&options).await.unwrap().ok);
    }
    let anchors = [facts.checkpoint.clone()];
    let anchored = session.compare_anchors(&anchors).await.unwrap();
    assert!(anchored.ok && anchored.anchored == facts.size, "{anchored:?}");
    // The indexes of the log find the records of a key and of an actor.
    if let Some(key) = records.iter().find_map(|record| record.key_id) {
        let of_key = records.iter().filter(|record| record.key_id == Some(key)).count();
        let query = AuditQuery::new().key(key);
        assert_eq!(all(session, &query.until(facts.closed_at)).await, of_key);
    }
    let of_alice = records.iter().filter(|record| record.actor == "alice").count();
    assert_eq!(all(session, &AuditQuery::new().actor("alice").until(facts.closed_at)).await, of_alice);
}

/// The number of records that match a query.
async fn all(session: &Session, query: &AuditQuery) -> usize {
    let (mut paging, mut count) = (Paging::new(1_000), 0);
    loop {
        let page = session.list_audit(query, &paging).await.unwrap();
        count += page.items.len();
        paging.cursor = page.next_cursor;
        if paging.cursor.is_none() {
            return count;
        }
    }
}

/// Every ciphertext and stream decrypts to its plaintext, and every signature is valid, unless the state of the version
/// forbids it.
async fn check_cryptography(session: &Session, facts: &Facts) {
    for it in &facts.ciphertexts {
        let opened = session.decrypt(&it.ciphertext.0, &it.context).await;
        match it.refused {
            Some(refused) => assert_eq!(code(opened), refused, "{it:?}"),
            None => {
                let opened = opened.unwrap();
                assert_eq!((opened.key, opened.version), (it.key, it.version));
                assert_eq!(*opened.plaintext, it.plaintext.0, "{it:?}");
            }
        }
    }
    for it in &facts.streams {
        let mut plaintext = Vec::new();
        let read = session.decrypt_reader(&it.context, &mut it.ciphertext.0.as_slice(), &mut plaintext).await.unwrap();
        assert_eq!((read.key, read.version), (it.key, it.version));
        assert_eq!(plaintext, facts::pattern(it.length));
    }
    for it in &facts.signatures {
        for version in [Some(it.version), None] {
            let checked = session.verify(it.key, &it.message.0, &it.signature.0, it.algorithm, version).await.unwrap();
            assert!(checked.valid && checked.version == it.version, "{it:?}");
        }
        let altered = session.verify(it.key, b"altered", &it.signature.0, it.algorithm, None).await.unwrap();
        assert!(!altered.valid);
    }
    for it in &facts.imported {
        let mut item = DecryptItem::imported(it.key, &it.ciphertext.0, it.aad.as_deref()).version(it.version);
        item.iv = it.iv.as_ref().map(|iv| iv.0.as_slice());
        item.auth_tag = it.auth_tag.as_ref().map(|tag| tag.0.as_slice());
        let opened = session.decrypt_item(item).await;
        match it.refused {
            Some(refused) => assert_eq!(code(opened), refused, "{it:?}"),
            None => assert_eq!(*opened.unwrap().plaintext, it.plaintext.0, "{it:?}"),
        }
    }
}

/// Tokens authenticate their principals or are refused, and grants allow and deny what they did.
async fn check_rights(kms: &Kms, facts: &Facts) {
    for token in &facts.tokens {
        match kms.authenticate(&token.token).await {
            Ok(actor) => {
                assert!(token.valid, "{token:?}");
                assert_eq!((actor.principal(), actor.role()), (token.principal.as_str(), token.role));
            }
            Err(error) => assert!(!token.valid && error.code() == kms_lib::ErrorCode::NotAuthenticated, "{error:?}"),
        }
    }
    for it in &facts.decisions {
        let actor = actor(&it.principal, Role::App).with_source_ip(it.source_ip.parse().unwrap());
        let encrypted = kms.session(actor).encrypt(it.key.as_str(), b"a message", &it.context).await;
        assert_eq!(encrypted.is_ok(), it.allowed, "{it:?}: {encrypted:?}");
    }
}

/// A request that is repeated with its idempotency key gets the first answer.
async fn check_idempotency(session: &Session, facts: &Facts) {
    let Some(it) = &facts.idempotent else { return };
    let repeated = session.with_idempotency_key(&it.idempotency_key).unwrap();
    assert_eq!(repeated.create_key(NewKey::aes(it.name.as_str())).await.unwrap().id, it.id);
    let other = repeated.create_key(NewKey::aes("another-name")).await;
    assert_eq!(code(other), kms_lib::ErrorCode::IdempotencyConflict);
}

/// Keys that are in use are rotated and used, and the signing key and the integrity key are replaced.
async fn check_changes(session: &Session) {
    let enabled = kms_lib::KeyFilter::new().state(kms_lib::KeyState::Enabled);
    for key in session.list_keys(&enabled, &Paging::new(100)).await.unwrap().items {
        if key.open_import.is_some() {
            continue;
        }
        session.rotate_key(key.id, None).await.unwrap();
        if key.purpose == kms_lib::KeyPurpose::Encryption {
            let sealed = session.encrypt(key.id, b"a message", &Context::new()).await.unwrap();
            session.decrypt(&sealed.ciphertext, &Context::new()).await.unwrap();
        }
    }
    session.replace_signing_key().await.unwrap();
    session.replace_integrity_key().await.unwrap();
    let granted = kms_lib::NewGrant::new("new", Role::App).on_all_keys().allow([Permission::Encrypt]);
    session.put_grant(granted).await.unwrap();
    let opened = AuditQuery::new().action(Action::KeyRotate);
    assert!(all(session, &opened).await > 0);
}
