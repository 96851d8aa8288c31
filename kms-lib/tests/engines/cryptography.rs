//! Tests of encryption, signatures, data keys and re-encryption, and of the records of their results.

use crate::common::{Place, actor, admin, check_usable, code, last_record};
use kms_lib::SignatureAlgorithm::{RsaPkcs1Sha256, RsaPssSha256};
use kms_lib::{
    Action, AuditAck, AuditQuery, Conditions, Context, CryptoProvider, DecryptItem, ErrorCode, KeyType, Kms, NewGrant,
    NewKey, Paging, Permission, ReencryptItem, Role,
};

#[tokio::test]
async fn signatures_verify_with_each_algorithm_and_provider() {
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
            // Verification finds a former version without its number, but not a revoked one.
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
async fn each_provider_decrypts_ciphertexts_of_the_other() {
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
async fn raw_oaep_ciphertexts_of_other_tools_are_decrypted() {
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
