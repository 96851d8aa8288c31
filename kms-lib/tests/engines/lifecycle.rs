//! Tests of the life cycle of keys and versions through the public API, with an adjustable clock.

use crate::common::{Place, actor, admin, check_usable, code, last_record};
use kms_lib::SignatureAlgorithm::{RsaPkcs1Sha256, RsaPssSha256};
use kms_lib::{
    Action, AuditAck, AuditContext, AuditQuery, Conditions, Context, CryptoProvider, DecryptItem, DisabledReason,
    EncryptItem, ErrorCode, KeyDescription, KeyFilter, KeyState, KeyType, KeyUpdate, Kms, NewGrant, NewKey, Paging,
    Permission, ReencryptItem, Role, SchedulerConfig, Status, VersionDescription, VersionState,
};

#[tokio::test]
async fn rotation_and_windows() {
    let place = Place::new();
    let kms = Kms::open(place.config().grace_days(10)).await.unwrap();
    let session = admin(&kms);
    let none = Context::new();
    session.create_key(NewKey::aes("k")).await.unwrap();
    let sealed = session.encrypt("k", b"x", &none).await.unwrap();
    assert_eq!(code(session.rotate_key("k", Some(2)).await), ErrorCode::Conflict);
    let key = session.rotate_key("k", Some(1)).await.unwrap();
    let versions = key.versions.unwrap();
    assert_eq!((versions[0].version, versions[0].state), (2, VersionState::Enabled));
    assert_eq!((versions[1].state, versions[1].grace_period_days), (VersionState::Disabled, Some(10)));
    place.pass_days(9);
    session.decrypt(&sealed.ciphertext, &none).await.unwrap();
    place.pass_days(2);
    assert_eq!(code(session.decrypt(&sealed.ciphertext, &none).await), ErrorCode::VersionDisabled);
    // The window is extended, ended and removed.
    let later = kms_lib::Timestamp::now().plus_days(30);
    session.set_window("k", 1, Some(later)).await.unwrap();
    session.decrypt(&sealed.ciphertext, &none).await.unwrap();
    session.set_window("k", 1, Some(kms_lib::Timestamp::now())).await.unwrap();
    assert_eq!(code(session.decrypt(&sealed.ciphertext, &none).await), ErrorCode::VersionDisabled);
    session.set_window("k", 1, None).await.unwrap();
    place.pass_days(10_000);
    session.decrypt(&sealed.ciphertext, &none).await.unwrap();
    // The key's own grace period overrides the service's; without either, former versions work indefinitely.
    session.create_key(NewKey::aes("short").grace_period_days(0)).await.unwrap();
    let sealed = session.encrypt("short", b"x", &none).await.unwrap();
    session.rotate_key("short", None).await.unwrap();
    assert_eq!(code(session.decrypt(&sealed.ciphertext, &none).await), ErrorCode::VersionDisabled);
    kms.close().await.unwrap();

    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let sealed = session.encrypt("k", b"x", &none).await.unwrap();
    session.rotate_key("k", None).await.unwrap();
    place.pass_days(30_000);
    session.decrypt(&sealed.ciphertext, &none).await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

#[tokio::test]
async fn disabling_and_revoking() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let none = Context::new();
    session.create_key(NewKey::aes("k")).await.unwrap();
    let first = session.encrypt("k", b"1", &none).await.unwrap().ciphertext;
    session.rotate_key("k", None).await.unwrap();
    let second = session.encrypt("k", b"2", &none).await.unwrap().ciphertext;

    session.disable_key("k").await.unwrap();
    // Repeating a change has no effect, and the record says so.
    assert_eq!(session.disable_key("k").await.unwrap().state, KeyState::Disabled);
    assert!(last_record(&session).await.details.unwrap().contains("\"changed\":false"));
    assert_eq!(code(session.encrypt("k", b"x", &none).await), ErrorCode::KeyDisabled);
    assert_eq!(code(session.decrypt(&first, &none).await), ErrorCode::KeyDisabled);
    assert_eq!(code(session.rotate_key("k", None).await), ErrorCode::KeyDisabled);
    session.enable_key("k").await.unwrap();
    session.enable_key("k").await.unwrap();

    session.disable_version("k", 2).await.unwrap();
    session.disable_version("k", 2).await.unwrap();
    session.disable_version("k", 1).await.unwrap();
    assert_eq!(code(session.encrypt("k", b"x", &none).await), ErrorCode::VersionDisabled);
    session.decrypt(&second, &none).await.unwrap();
    assert_eq!(code(session.enable_version("k", 1).await), ErrorCode::VersionNotCurrent);
    session.enable_version("k", 2).await.unwrap();
    session.enable_version("k", 2).await.unwrap();
    session.encrypt("k", b"x", &none).await.unwrap();

    // With the current version revoked, the others still decrypt, and a rotation enables the key.
    let key = session.revoke_version("k", 2).await.unwrap();
    assert_eq!((key.state, key.disabled_reason), (KeyState::Disabled, Some(DisabledReason::CurrentVersionRevoked)));
    assert_eq!(code(session.encrypt("k", b"x", &none).await), ErrorCode::VersionRevoked);
    assert_eq!(code(session.decrypt(&second, &none).await), ErrorCode::VersionRevoked);
    // Revoking a version ends its window; revoking it again changes nothing.
    let ended = version(&key, 2).not_after;
    assert!(ended.is_some_and(|end| end <= place.now()));
    assert_eq!(version(&session.revoke_version("k", 2).await.unwrap(), 2).not_after, ended);
    assert_eq!(code(session.disable_version("k", 2).await), ErrorCode::VersionRevoked);
    session.decrypt(&first, &none).await.unwrap();
    assert_eq!(session.rotate_key("k", None).await.unwrap().state, KeyState::Enabled);
    session.encrypt("k", b"x", &none).await.unwrap();
    assert_eq!(code(session.decrypt(&second, &none).await), ErrorCode::VersionRevoked);

    // Disabled by a caller, then its current version revoked: enabling does not restore that version.
    session.disable_key("k").await.unwrap();
    session.revoke_version("k", 3).await.unwrap();
    assert_eq!(session.enable_key("k").await.unwrap().disabled_reason, Some(DisabledReason::CurrentVersionRevoked));
    session.revoke_key("k").await.unwrap();
    for refused in [
        code(session.encrypt("k", b"x", &none).await),
        code(session.decrypt(&first, &none).await),
        code(session.rotate_key("k", None).await),
        code(session.enable_key("k").await),
        code(session.disable_version("k", 1).await),
    ] {
        assert_eq!(refused, ErrorCode::KeyRevoked);
    }
    assert_eq!(session.revoke_key("k").await.unwrap().state, KeyState::Revoked);
    session.revoke_version("k", 1).await.unwrap();
    assert!(last_record(&session).await.details.unwrap().contains("\"changed\":false"));
    let versions = session.get_key("k").await.unwrap().versions.unwrap();
    assert!(versions.iter().all(|version| version.state == VersionState::Revoked));
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// Finds a version of a key by its number.
fn version(key: &KeyDescription, number: u32) -> VersionDescription {
    key.versions.iter().flatten().find(|version| version.version == number).cloned().unwrap()
}

#[tokio::test]
async fn a_deletion_can_be_asked_for_again_and_does_not_keep_from_revoking() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    for name in ["k", "current"] {
        session.create_key(NewKey::aes(name)).await.unwrap();
    }
    let sealed = session.encrypt("k", b"x", &Context::new()).await.unwrap().ciphertext;
    assert_eq!(code(session.cancel_deletion("k").await), ErrorCode::WrongState);
    let date = session.schedule_deletion("k", Some(10)).await.unwrap().delete_at;
    place.pass_days(1);
    assert_eq!(session.schedule_deletion("k", Some(10)).await.unwrap().delete_at, date);
    assert_eq!(code(session.schedule_deletion("k", Some(11)).await), ErrorCode::KeyPendingDeletion);
    // Revoked while deletion is pending: the date stays, and cancelling does not restore the key.
    let key = session.revoke_key("k").await.unwrap();
    assert_eq!((key.state, key.delete_at), (KeyState::PendingDeletion, date));
    assert_eq!(version(&key, 1).state, VersionState::Revoked);
    session.revoke_key("k").await.unwrap();
    assert_eq!(session.cancel_deletion("k").await.unwrap().state, KeyState::Revoked);
    assert_eq!(code(session.decrypt(&sealed, &Context::new()).await), ErrorCode::KeyRevoked);
    // The same applies to the current version alone.
    session.schedule_deletion("current", None).await.unwrap();
    session.revoke_version("current", 1).await.unwrap();
    let key = session.cancel_deletion("current").await.unwrap();
    assert_eq!((key.state, key.disabled_reason), (KeyState::Disabled, Some(DisabledReason::CurrentVersionRevoked)));
    session.rotate_key("current", None).await.unwrap();
    session.encrypt("current", b"x", &Context::new()).await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// Revoking a key writes one row, however many versions it has; counts, lists and the scheduler show the versions as
/// revoked.
#[tokio::test]
async fn a_revoked_key_has_no_other_versions() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k").grace_period_days(1)).await.unwrap();
    for _ in 0..5 {
        session.rotate_key("k", None).await.unwrap();
    }
    let key = session.revoke_key("k").await.unwrap();
    let details = last_record(&session).await.details.unwrap();
    assert_eq!(details.matches("\"keys\"").count() + details.matches("\"key_versions\"").count(), 1, "{details}");
    assert!(key.versions.unwrap().iter().all(|version| version.state == VersionState::Revoked));
    place.pass_days(5);
    let jobs = SchedulerConfig::disabled().revoke_expired(true);
    let other = Kms::open(place.config().scheduler(jobs)).await.unwrap();
    let report = other.run_scheduler().await.unwrap();
    assert!(report.revoked.is_empty() && report.failed.is_empty(), "{report:?}");
    other.close().await.unwrap();
    kms.close().await.unwrap();
}

/// The current version has no window. Otherwise data encrypted today could not be decrypted after the next rotation.
#[tokio::test]
async fn the_current_version_takes_no_window() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    for end in [None, Some(place.now().minus_days(1)), Some(place.now().plus_days(1))] {
        assert_eq!(code(session.set_window("k", 1, end).await), ErrorCode::WrongState);
    }
    let sealed = session.encrypt("k", b"x", &Context::new()).await.unwrap().ciphertext;
    let key = session.rotate_key("k", None).await.unwrap();
    assert_eq!(version(&key, 1).not_after, None);
    session.decrypt(&sealed, &Context::new()).await.unwrap();
    session.set_window("k", 1, Some(place.now())).await.unwrap();
    assert_eq!(code(session.decrypt(&sealed, &Context::new()).await), ErrorCode::VersionDisabled);
    kms.close().await.unwrap();
}

/// The record of a change includes what the service decided itself.
#[tokio::test]
async fn records_of_changes_can_be_replayed() {
    let place = Place::new();
    let kms = Kms::open(place.config().grace_days(3)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let details =
        async || -> serde_json::Value { serde_json::from_str(&last_record(&session).await.details.unwrap()).unwrap() };
    let key = session.rotate_key("k", None).await.unwrap();
    let rotated = details().await;
    assert_eq!(rotated["graceDays"], 3);
    assert_eq!(rotated["formerNotAfter"], version(&key, 1).not_after.unwrap().to_string());
    session.update_key("k", KeyUpdate::new().grace_period_days(0)).await.unwrap();
    session.revoke_version("k", 2).await.unwrap();
    let revoked = details().await;
    assert_eq!(revoked["notAfter"], version(&session.get_key("k").await.unwrap(), 2).not_after.unwrap().to_string());
    kms.close().await.unwrap();
}

#[tokio::test]
async fn deletion_and_destruction() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let none = Context::new();
    for name in ["gone", "kept", "revoked"] {
        session.create_key(NewKey::aes(name)).await.unwrap();
    }
    let sealed = session.encrypt("gone", b"x", &none).await.unwrap().ciphertext;
    session.revoke_key("revoked").await.unwrap();
    for name in ["gone", "kept", "revoked"] {
        assert_eq!(session.schedule_deletion(name, Some(7)).await.unwrap().state, KeyState::PendingDeletion);
    }
    assert_eq!(code(session.schedule_deletion("gone", None).await), ErrorCode::KeyPendingDeletion);
    assert_eq!(code(session.decrypt(&sealed, &none).await), ErrorCode::KeyPendingDeletion);
    assert_eq!(session.cancel_deletion("kept").await.unwrap().state, KeyState::Enabled);
    assert_eq!(session.cancel_deletion("revoked").await.unwrap().state, KeyState::Revoked);
    assert_eq!(code(session.cancel_deletion("kept").await), ErrorCode::WrongState);
    place.pass_days(6);
    assert!(kms.run_scheduler().await.unwrap().destroyed.is_empty());
    place.pass_days(2);
    assert_eq!(kms.run_scheduler().await.unwrap().destroyed.len(), 1);
    let key = session.get_key("gone").await.unwrap();
    assert_eq!(key.state, KeyState::Destroyed);
    assert_eq!(code(session.decrypt(&sealed, &none).await), ErrorCode::KeyDestroyed);
    assert_eq!(code(session.cancel_deletion("gone").await), ErrorCode::KeyDestroyed);
    assert_eq!(code(session.create_key(NewKey::aes("gone")).await), ErrorCode::NameTaken);
    check_usable(&kms).await;
    kms.close().await.unwrap();
    let erased = place
        .number(
            "SELECT COUNT(*) FROM key_versions v JOIN \"keys\" k ON k.id = v.key_id
             WHERE k.name = 'gone' AND v.id NOT IN (SELECT subject FROM wrappings)",
        )
        .await;
    assert_eq!(erased, 1);
}

#[tokio::test]
async fn signatures_in_every_way() {
    let place = Place::new();
    for provider in [CryptoProvider::AwsLc, CryptoProvider::RustCrypto] {
        let kms = Kms::open(place.config().crypto_provider(provider)).await.unwrap();
        let session = admin(&kms);
        let name = format!("signing-{provider}");
        session.create_key(NewKey::rsa_signing(&name)).await.unwrap();
        for algorithm in [RsaPkcs1Sha256, RsaPssSha256] {
            let signed = session.sign(&name, b"payload", algorithm).await.unwrap();
            let other = if algorithm == RsaPkcs1Sha256 { RsaPssSha256 } else { RsaPkcs1Sha256 };
            let valid = async |payload: &[u8], algorithm, version| {
                session.verify(&name, payload, &signed.signature, algorithm, version).await.map(|v| v.valid)
            };
            assert!(valid(b"payload", algorithm, None).await.unwrap());
            assert!(valid(b"payload", algorithm, Some(signed.version)).await.unwrap());
            assert!(!valid(b"other", algorithm, None).await.unwrap());
            assert!(!valid(b"payload", other, None).await.unwrap());
            // Verification finds a former version without being told its number, but not a revoked one.
            let current = session.rotate_key(&name, None).await.unwrap().current_version;
            let found = session.verify(&name, b"payload", &signed.signature, algorithm, None).await.unwrap();
            assert_eq!((found.valid, found.version), (true, signed.version));
            assert!(!valid(b"payload", algorithm, Some(current)).await.unwrap());
            assert_eq!(
                code(session.sign_with_version(&name, signed.version, b"x", algorithm).await),
                ErrorCode::VersionNotCurrent
            );
            session.sign_with_version(&name, current, b"x", algorithm).await.unwrap();
            session.revoke_version(&name, signed.version).await.unwrap();
            assert!(!valid(b"payload", algorithm, None).await.unwrap());
            assert_eq!(code(valid(b"payload", algorithm, Some(signed.version)).await), ErrorCode::VersionRevoked);
            // The public key can still be read.
            let pem = session.public_key(&name, signed.version).await.unwrap();
            assert!(pem.starts_with("-----BEGIN PUBLIC KEY-----"));
        }
        assert_eq!(code(session.encrypt(&name, b"x", &Context::new()).await), ErrorCode::WrongPurpose);
        session.create_key(NewKey::aes(format!("aes-{provider}"))).await.unwrap();
        let aes = format!("aes-{provider}");
        assert_eq!(code(session.sign(&aes, b"x", RsaPssSha256).await), ErrorCode::WrongKeyType);
        assert_eq!(code(session.public_key(&aes, 1).await), ErrorCode::WrongKeyType);
        check_usable(&kms).await;
        kms.close().await.unwrap();
    }
}

#[tokio::test]
async fn each_provider_opens_what_the_other_made() {
    let place = Place::new();
    let none = Context::new();
    let mut sealed = Vec::new();
    for (making, provider) in [(true, CryptoProvider::AwsLc), (false, CryptoProvider::RustCrypto)] {
        let kms = Kms::open(place.config().crypto_provider(provider)).await.unwrap();
        let session = admin(&kms);
        for (name, key_type) in [("a", KeyType::Aes256Gcm), ("r", KeyType::Rsa2048)] {
            if making {
                let new = NewKey::new(name, key_type, kms_lib::KeyPurpose::Encryption);
                session.create_key(new).await.unwrap();
                sealed.push(session.encrypt(name, b"made by the other", &none).await.unwrap().ciphertext);
            }
        }
        for ciphertext in &sealed {
            let opened = session.decrypt(ciphertext, &none).await.unwrap();
            assert_eq!(opened.plaintext.as_slice(), b"made by the other");
        }
        kms.close().await.unwrap();
    }
}

#[tokio::test]
async fn data_keys_and_reencryption() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("old")).await.unwrap();
    session.create_key(NewKey::rsa_encryption("new")).await.unwrap();
    let context = Context::from([("tenant", "acme")]);
    let made = session.generate_data_key("old", 32, &context).await.unwrap();
    let plaintext = made.plaintext.unwrap();
    assert_eq!(session.decrypt(&made.ciphertext, &context).await.unwrap().plaintext, plaintext);
    let hidden = session.generate_data_key_without_plaintext("old", 64, &context).await.unwrap();
    assert!(hidden.plaintext.is_none());
    assert_eq!(session.decrypt(&hidden.ciphertext, &context).await.unwrap().plaintext.len(), 64);

    let other = Context::from([("tenant", "other")]);
    let item =
        ReencryptItem::new(&made.ciphertext, context.clone()).destination("new").destination_context(other.clone());
    let again = session.reencrypt(item.clone()).await.unwrap();
    assert_eq!(session.decrypt(&again.encrypted.ciphertext, &other).await.unwrap().plaintext, plaintext);
    session.rotate_key("old", None).await.unwrap();
    let same = ReencryptItem::new(&made.ciphertext, context.clone());
    let again = session.reencrypt(same).await.unwrap();
    assert_eq!((again.source_version, again.encrypted.version), (1, 2));
    // One item fails without affecting the others.
    let to = |ciphertext, context| ReencryptItem::new(ciphertext, context).destination("new");
    let wrong = to(&made.ciphertext, Context::new());
    let garbage = to(b"garbage", context.clone());
    let results = session.reencrypt_batch(&[item.clone(), wrong, garbage]).await.unwrap();
    assert!(results[0].is_ok());
    assert_eq!(results[1].as_ref().unwrap_err().code(), ErrorCode::DecryptionFailed);
    assert_eq!(results[2].as_ref().unwrap_err().code(), ErrorCode::InvalidCiphertext);
    let nul = Context::from([("n", "a\0b")]);
    let bad = to(&made.ciphertext, nul.clone());
    let bad_destination = item.clone().destination_context(nul);
    let results = session.reencrypt_batch(&[item.clone(), bad, bad_destination, item.clone()]).await.unwrap();
    let codes: Vec<_> = results.iter().map(|result| result.as_ref().err().map(kms_lib::Error::code)).collect();
    let invalid = Some(ErrorCode::InvalidArgument);
    assert_eq!(codes, [None, invalid, invalid, None]);
    // Both permissions are needed.
    let app = kms.session(actor("app", Role::App));
    let permissions = [Permission::Encrypt];
    session.put_grant(NewGrant::new("app", Role::App).on_all_keys().allow(permissions)).await.unwrap();
    assert_eq!(code(app.reencrypt(item.clone()).await), ErrorCode::AccessDenied);
    // The same applies within one key: nothing is done, and the single record says so.
    let permissions = [Permission::Decrypt];
    session.put_grant(NewGrant::new("app", Role::App).on_all_keys().allow(permissions)).await.unwrap();
    let within = ReencryptItem::new(&made.ciphertext, context.clone()).destination_context(other.clone());
    assert_eq!(code(app.reencrypt(within).await), ErrorCode::AccessDenied);
    let record = last_record(&session).await;
    assert_eq!((record.action.as_str(), record.status.as_str()), ("REENCRYPT", "FAILURE"));
    let details: serde_json::Value = serde_json::from_str(record.details.as_deref().unwrap()).unwrap();
    assert_eq!((&details["errors"]["AccessDenied"], &details["versions"]), (&2.into(), &serde_json::Value::Null));
    // Nothing is done either if the plaintext does not fit the destination.
    let long = session.encrypt("old", &[1; 300], &context).await.unwrap();
    let too_long = to(&long.ciphertext, context.clone());
    assert_eq!(code(session.reencrypt(too_long).await), ErrorCode::PlaintextTooLong);
    let records = session.list_audit(&AuditQuery::new(), &Paging::new(2)).await.unwrap().items;
    assert!(records.iter().all(|record| (record.action.as_str(), record.status.as_str()) == ("REENCRYPT", "FAILURE")));
    let permissions = [Permission::Encrypt, Permission::Decrypt];
    session.put_grant(NewGrant::new("app", Role::App).on_all_keys().allow(permissions)).await.unwrap();
    app.reencrypt(item).await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

#[tokio::test]
async fn raw_oaep_from_another_tool() {
    use rsa::pkcs8::DecodePublicKey;
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let key = session.create_key(NewKey::rsa_encryption("r")).await.unwrap();
    let pem = session.public_key("r", 1).await.unwrap();
    let public = rsa::PublicKey::from_public_key_pem(&pem).unwrap();
    let padding = rsa::Oaep::<sha2::Sha256>::new();
    let sealed = public.encrypt(&mut rand::rng(), padding, b"from elsewhere").unwrap();
    assert_eq!(session.decrypt_oaep("r", 1, &sealed).await.unwrap().plaintext.as_slice(), b"from elsewhere");
    // A grant that requires a context does not permit calls without one.
    let app = kms.session(actor("app", Role::App));
    let conditions = Conditions::new().encryption_context_subset(Context::new());
    let permissions = [Permission::Encrypt, Permission::Decrypt];
    session
        .put_grant(NewGrant::new("app", Role::App).on_key(key.id).allow(permissions).conditions(conditions))
        .await
        .unwrap();
    app.encrypt("r", b"x", &Context::new()).await.unwrap();
    assert_eq!(code(app.decrypt_oaep("r", 1, &sealed).await), ErrorCode::AccessDenied);
    kms.close().await.unwrap();
}

#[tokio::test]
async fn lists_filters_and_pages() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    for i in 0..25 {
        session.create_key(NewKey::aes(format!("key-{i:02}"))).await.unwrap();
    }
    session.create_key(NewKey::rsa_signing("signing")).await.unwrap();
    session.disable_key("key-07").await.unwrap();
    let mut names = Vec::new();
    let mut paging = Paging::new(10);
    loop {
        let page = session.list_keys(&KeyFilter::new(), &paging).await.unwrap();
        assert!(page.items.len() <= 10);
        names.extend(page.items.into_iter().map(|key| key.name));
        paging.cursor = page.next_cursor;
        if paging.cursor.is_none() {
            break;
        }
    }
    assert_eq!(names.len(), 26);
    assert!(names.is_sorted());
    let count = async |filter: KeyFilter| session.list_keys(&filter, &Paging::new(1_000)).await.unwrap().items.len();
    assert_eq!(count(KeyFilter::new().state(KeyState::Disabled)).await, 1);
    assert_eq!(count(KeyFilter::new().key_type(KeyType::Rsa2048)).await, 1);
    assert_eq!(count(KeyFilter::new().name_prefix("key-1")).await, 10);

    // An app lists the keys that it may read, and gets the creator's permissions on keys that it creates.
    let app = kms.session(actor("app", Role::App));
    assert!(app.list_keys(&KeyFilter::new(), &Paging::new(100)).await.unwrap().items.is_empty());
    assert_eq!(code(app.create_key(NewKey::aes("mine")).await), ErrorCode::AccessDenied);
    let create = [Permission::Create];
    session.put_grant(NewGrant::new("app", Role::App).on_all_keys().allow(create)).await.unwrap();
    let mine = app.create_key(NewKey::aes("mine")).await.unwrap();
    assert_eq!(app.list_keys(&KeyFilter::new(), &Paging::new(100)).await.unwrap().items.len(), 1);
    app.rotate_key(mine.id, None).await.unwrap();
    app.encrypt("mine", b"x", &Context::new()).await.unwrap();
    assert_eq!(
        code(app.update_key("mine", KeyUpdate::new().audit_context(AuditContext::Hmac)).await),
        ErrorCode::AccessDenied
    );
    app.revoke_key("mine").await.unwrap();
    assert_eq!(code(app.schedule_deletion("mine", None).await), ErrorCode::AccessDenied);
    assert_eq!(code(app.get_key("key-01").await), ErrorCode::AccessDenied);
    assert_eq!(code(app.get_key("no such key").await), ErrorCode::AccessDenied);
    for refused in [code(app.list_audit(&AuditQuery::new(), &Paging::default()).await), code(app.metrics().await)] {
        assert_eq!(refused, ErrorCode::AccessDenied);
    }

    // Lists of the log: pages in both directions, filters, and times.
    let all = async |query: AuditQuery| {
        let mut paging = Paging::new(7);
        let mut rows = Vec::new();
        loop {
            let page = session.list_audit(&query, &paging).await.unwrap();
            rows.extend(page.items);
            paging.cursor = page.next_cursor;
            if paging.cursor.is_none() {
                return rows;
            }
        }
    };
    let forward = all(AuditQuery::new().oldest_first()).await;
    let mut backward = all(AuditQuery::new()).await;
    backward.reverse();
    assert_eq!(forward, backward);
    let created = all(AuditQuery::new().action(Action::KeyCreate)).await;
    assert_eq!(created.len(), 28);
    let failed = all(AuditQuery::new().status(Status::Failure)).await;
    assert_eq!(failed.len(), 7);
    let by_app = all(AuditQuery::new().actor("app")).await;
    assert!(by_app.iter().all(|row| row.actor == "app") && by_app.len() == 11, "{}", by_app.len());
    let by_name = AuditQuery::new().key("no such key");
    let auditor = kms.session(kms_lib::Actor::new("reader", Role::Auditor).unwrap());
    assert_eq!(auditor.list_audit(&by_name, &Paging::default()).await.unwrap_err().code(), ErrorCode::KeyNotFound);
    let of_mine = all(AuditQuery::new().key(mine.id)).await;
    assert_eq!(all(AuditQuery::new().key(mine.name.as_str())).await, of_mine);
    assert!(of_mine.iter().all(|row| row.key_id == Some(mine.id)) && of_mine.len() == 6, "{of_mine:#?}");
    let middle = forward[20].timestamp;
    let since = all(AuditQuery::new().since(middle)).await;
    assert!(since.iter().all(|row| row.timestamp >= middle) && since.len() >= forward.len() - 20);
    let until = all(AuditQuery::new().until(middle)).await;
    assert!(until.iter().all(|row| row.timestamp < middle) && since.len() + until.len() == forward.len());
    kms.close().await.unwrap();
}

#[tokio::test]
async fn records_say_what_happened_and_nothing_secret() {
    let place = Place::new();
    let kms = place.open().await;
    let session = kms.session(actor("alice", Role::Admin).with_source_ip("10.0.0.9".parse().unwrap()));
    session.create_key(NewKey::aes("k")).await.unwrap();
    session.create_key(NewKey::aes("other")).await.unwrap();
    let context = Context::from([("tenant", "acme")]);
    let sealed = session.encrypt("k", b"very secret plaintext", &context).await.unwrap();
    let record = last_record(&session).await;
    assert_eq!((record.seq, record.hash), (sealed.receipt.seq, sealed.receipt.hash));
    let details = record.details.unwrap();
    assert!(details.contains("\"context\":{\"tenant\":\"acme\"}") && details.contains("\"sourceIp\":\"10.0.0.9\""));
    session.update_key("k", KeyUpdate::new().audit_context(AuditContext::Hmac)).await.unwrap();
    session.encrypt("k", b"very secret plaintext", &context).await.unwrap();
    let details = last_record(&session).await.details.unwrap();
    assert!(details.contains("contextHmac") && !details.contains("acme"), "{details}");

    // A batch writes one record per key.
    let item = |key: &str| EncryptItem::new(key, b"x", Context::new());
    session.encrypt_batch(&[item("k"), item("other"), item("k"), item("missing")]).await.unwrap();
    let page = session.list_audit(&AuditQuery::new(), &Paging::new(3)).await.unwrap();
    let items: Vec<_> = page.items.iter().map(|row| (row.status.as_str(), row.key_id.is_some())).collect();
    assert_eq!(items, [("FAILURE", false), ("SUCCESS", true), ("SUCCESS", true)]);
    assert!(page.items[2].details.as_ref().unwrap().contains("\"items\":2"));

    // Failures are recorded too.
    let outsider = kms.session(actor("outsider", Role::App));
    let mut flipped = sealed.ciphertext.clone();
    *flipped.last_mut().unwrap() ^= 1;
    session.disable_key("other").await.unwrap();
    for (refused, action, error) in [
        (code(outsider.encrypt("k", b"x", &context).await), "ENCRYPT", "AccessDenied"),
        (code(session.encrypt("missing", b"x", &context).await), "ENCRYPT", "KeyNotFound"),
        (code(session.decrypt(&flipped, &context).await), "DECRYPT", "DecryptionFailed"),
        (code(session.decrypt(b"junk", &context).await), "DECRYPT", "InvalidCiphertext"),
        (code(session.rotate_key("other", None).await), "KEY_ROTATE", "KeyDisabled"),
        (code(outsider.get_key("k").await), "KEY_READ", "AccessDenied"),
        (code(outsider.verify_audit().await), "AUDIT_VERIFY", "AccessDenied"),
        (code(session.create_key(NewKey::aes("k")).await), "KEY_CREATE", "NameTaken"),
        (code(session.revoke_grant(kms_lib::GrantId::random()).await), "GRANT_WITHDRAW", "GrantNotFound"),
    ] {
        assert_eq!(refused.as_str(), error);
        let query = AuditQuery::new().status(Status::Failure);
        let failures = session.list_audit(&query, &Paging::default()).await.unwrap().items;
        let found = failures.iter().any(|row| {
            row.action == action && row.details.as_ref().unwrap().contains(&format!("\"error\":\"{error}\""))
        });
        assert!(found, "{action} {error} is not recorded");
    }
    let metrics = session.metrics().await.unwrap();
    assert!(metrics.audit.failed_operations_last24h >= 9);
    assert_eq!(metrics.usage.encryptions_last24h, 5);
    check_usable(&kms).await;
    kms.close().await.unwrap();
    for entry in std::fs::read_dir(place.folder.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(21).any(|window| window == b"very secret plaintext"));
    }
}

#[tokio::test]
async fn the_scheduler() {
    let place = Place::new();
    let scheduler = SchedulerConfig::disabled().revoke_expired(true);
    let kms = Kms::open(place.config().scheduler(scheduler)).await.unwrap();
    let session = admin(&kms);
    let none = Context::new();
    for name in ["due-1", "due-2", "due-3"] {
        session.create_key(NewKey::aes(name).rotation_period_days(30).grace_period_days(5)).await.unwrap();
    }
    session.create_key(NewKey::aes("never")).await.unwrap();
    session.create_key(NewKey::aes("disabled").rotation_period_days(30)).await.unwrap();
    session.disable_key("disabled").await.unwrap();
    let unused = session.encrypt("due-1", b"x", &none).await.unwrap().ciphertext;
    let used = session.encrypt("due-2", b"x", &none).await.unwrap().ciphertext;
    place.pass_days(31);
    assert_eq!(session.metrics().await.unwrap().keys.rotation_alerts.len(), 3);
    let report = kms.run_scheduler().await.unwrap();
    assert_eq!((report.rotated.len(), report.failed.len()), (3, 0));
    assert!(report.verification.unwrap().ok);
    assert_eq!(session.get_key("never").await.unwrap().current_version, 1);
    assert_eq!(kms.run_scheduler().await.unwrap().rotated.len(), 0);
    // One version is used after its replacement and the other is not; only the unused one is revoked when its window
    // ends.
    session.decrypt(&used, &none).await.unwrap();
    let ending = session.metrics().await.unwrap().keys.windows_ending;
    assert!(ending.len() == 1 && ending[0].name == "due-2", "{ending:?}");
    place.pass_days(6);
    let report = kms.run_scheduler().await.unwrap();
    assert_eq!(report.revoked.len(), 2, "{report:?}");
    assert_eq!(code(session.decrypt(&unused, &none).await), ErrorCode::VersionRevoked);
    assert_eq!(code(session.decrypt(&used, &none).await), ErrorCode::VersionDisabled);

    // A key whose row was tampered with does not affect the others.
    place.pass_days(31);
    kms.close().await.unwrap();
    place.tamper("UPDATE \"keys\" SET metadata = '{}' WHERE name = 'due-1'").await;
    let kms = place.open().await;
    let report = kms.run_scheduler().await.unwrap();
    assert_eq!((report.rotated.len(), report.failed.len()), (2, 1));
    assert_eq!(report.failed[0].1.code(), ErrorCode::IntegrityFailure);
    let query = AuditQuery::new().actor("scheduler").status(Status::Failure);
    assert!(!admin(&kms).list_audit(&query, &Paging::default()).await.unwrap().items.is_empty());
    kms.close().await.unwrap();
}

/// Two services with schedulers on one store: each due key is rotated once.
#[tokio::test(flavor = "multi_thread")]
async fn two_schedulers_rotate_each_key_once() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    for i in 0..20 {
        session.create_key(NewKey::aes(format!("key-{i}")).rotation_period_days(1)).await.unwrap();
    }
    let other = place.open().await;
    place.pass_days(2);
    let (first, second) = tokio::join!(kms.run_scheduler(), other.run_scheduler());
    assert_eq!(first.unwrap().rotated.len() + second.unwrap().rotated.len(), 20);
    for i in 0..20 {
        assert_eq!(session.get_key(format!("key-{i}")).await.unwrap().current_version, 2);
    }
    check_usable(&kms).await;
    kms.close().await.unwrap();
    other.close().await.unwrap();
}

/// The scheduler wakes up on its own.
#[tokio::test(flavor = "multi_thread")]
async fn the_scheduler_runs_at_its_time() {
    let place = Place::new();
    let scheduler = SchedulerConfig::new().cron("* * * * *");
    let kms = Kms::open(place.config().scheduler(scheduler)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k").rotation_period_days(1)).await.unwrap();
    session.create_key(NewKey::aes("doomed")).await.unwrap();
    session.schedule_deletion("doomed", None).await.unwrap();
    // The scheduler checks its clock at least twice a minute, and is waiting for the next minute now.
    place.pass_days(40);
    kms.close().await.unwrap();
    let scheduler = SchedulerConfig::new().cron("* * * * *");
    // Starts just before a full minute.
    let now = kms_lib::Timestamp::now().micros() / 1_000_000 % 60;
    place.pass_seconds(59 - now);
    let kms = Kms::open(place.config().scheduler(scheduler)).await.unwrap();
    let session = admin(&kms);
    for round in 0.. {
        if session.get_key("k").await.unwrap().current_version == 2 {
            break;
        }
        // A busy machine may have missed the minute; then the scheduler checks its clock within half a minute.
        if round == 30 {
            place.pass_seconds(60);
        }
        assert!(round < 1_200, "the scheduler did not wake up");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    // The clock was changed recently, so the scheduler erases nothing automatically. An explicit run does.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(session.get_key("doomed").await.unwrap().state, KeyState::PendingDeletion);
    assert_eq!(kms.run_scheduler().await.unwrap().destroyed.len(), 1);
    kms.close().await.unwrap();
}

#[tokio::test]
async fn queued_results_reach_the_log() {
    let place = Place::in_a_file();
    let kms = Kms::open(place.config().audit_ack(AuditAck::Queued)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    for _ in 0..500 {
        let sealed = session.encrypt("k", b"x", &Context::new()).await.unwrap();
        assert!(sealed.receipt.seq == 0 || sealed.receipt.seq > 2);
    }
    // A change is logged after all results that were released before it.
    session.rotate_key("k", None).await.unwrap();
    let count = session.get_key("k").await.unwrap().versions.unwrap()[1].encryptions;
    assert_eq!(count, Some(500));
    let query = AuditQuery::new().action(Action::QueuedAckOn);
    assert_eq!(session.list_audit(&query, &Paging::default()).await.unwrap().items.len(), 1);
    session.encrypt("k", b"x", &Context::new()).await.unwrap();
    // Closing writes the remaining records.
    kms.close().await.unwrap();
    let kms = place.open().await;
    assert_eq!(admin(&kms).get_key("k").await.unwrap().versions.unwrap()[0].encryptions, Some(1));
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// With thousands of versions, an encryption still loads only one.
#[tokio::test]
async fn many_versions() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let first = session.encrypt("k", b"first", &Context::new()).await.unwrap();
    for _ in 0..300 {
        session.rotate_key("k", None).await.unwrap();
    }
    session.encrypt("k", b"x", &Context::new()).await.unwrap();
    assert_eq!(session.decrypt(&first.ciphertext, &Context::new()).await.unwrap().plaintext.as_slice(), b"first");
    session.revoke_key("k").await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// Equal items of a batch share a decision, but fail individually if another process changes the key meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_overtaken_fails_item_by_item() {
    let place = Place::new();
    let (one, two) = (place.open().await, place.open().await);
    let none = Context::new();
    let first = admin(&one);
    first.create_key(NewKey::aes("k")).await.unwrap();
    let old = first.encrypt("k", b"x", &none).await.unwrap().ciphertext;
    first.rotate_key("k", None).await.unwrap();
    let mut altered = first.encrypt("k", b"x", &none).await.unwrap().ciphertext;
    *altered.last_mut().unwrap() ^= 1;
    // The version is known to both services at first, and its change only to the second.
    admin(&two).decrypt(&old, &none).await.unwrap();
    admin(&two).revoke_version("k", 1).await.unwrap();
    let item = |ciphertext, key: Option<&str>| {
        let item = DecryptItem::new(ciphertext, Context::new());
        match key {
            Some(key) => item.key(key),
            None => item,
        }
    };
    let items =
        [item(&old[..], None), item(&old[..], None), item(&altered[..], None), item(&b"rubbish"[..], Some("k"))];
    let codes: Vec<ErrorCode> = first.decrypt_batch(&items).await.unwrap().into_iter().map(code).collect();
    assert_eq!(
        codes,
        [
            ErrorCode::VersionRevoked,
            ErrorCode::VersionRevoked,
            ErrorCode::DecryptionFailed,
            ErrorCode::InvalidCiphertext
        ]
    );
    let record = last_record(&first).await;
    let details = record.details.unwrap();
    assert!(details.contains("\"VersionRevoked\":2") && !details.contains("\"versions\""), "{details}");
    one.close().await.unwrap();
    two.close().await.unwrap();
}
