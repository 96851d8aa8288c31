//! What is passed beside a ciphertext must agree with it, and contexts of keys that are not known stay out of the log.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Place, actor, admin, code, last_record, whole_log};
use kms_lib::crypto::ciphertext::HEADER;
use kms_lib::crypto::provider::{NONCE, TAG};
use kms_lib::session::{DecryptItem, ReencryptItem};
use kms_lib::types::audit::Action;
use kms_lib::types::key::AuditContext;
use kms_lib::{
    Conditions, Context, CreateKey, ErrorCode, GrantScope, KeyId, KeyRef, Permission, Role, Session, UpdateKey,
};

/// The codes of an item alone and in a batch, which must be the same.
async fn refused(session: &Session, item: DecryptItem<'_>) -> ErrorCode {
    let alone = code(session.decrypt_item(item.clone()).await);
    let batch = [item, DecryptItem { ciphertext: b"rubbish", ..DecryptItem::default() }];
    let batched = code(session.decrypt_batch(&batch).await.unwrap().swap_remove(0));
    assert_eq!(alone, batched);
    alone
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_passed_beside_a_ciphertext_must_agree_with_it() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let key = session.create_key(CreateKey::aes("k")).await.unwrap().id;
    let other = session.create_key(CreateKey::aes("other")).await.unwrap().id;
    let app = kms.session(actor("app", Role::App));
    let scope = GrantScope::Key(key);
    session.put_grant("app", Role::App, scope, &[Permission::Decrypt], Conditions::default()).await.unwrap();
    let all = kms.session(actor("all", Role::App));
    let everything = GrantScope::AllKeys;
    session.put_grant("all", Role::App, everything, &[Permission::Decrypt], Conditions::default()).await.unwrap();
    let nobody = kms.session(actor("nobody", Role::App));
    let sealed = session.encrypt("k", b"x", &Context::new()).await.unwrap().ciphertext;
    session.rotate_key("k", None).await.unwrap();
    let item = || DecryptItem { ciphertext: &sealed, ..DecryptItem::default() };

    let wrong: [KeyRef; 4] = [other.into(), "other".into(), KeyId::random().into(), "unknown".into()];
    for named in wrong {
        let item = DecryptItem { key: Some(named.clone()), ..item() };
        assert_eq!(refused(&session, item.clone()).await, ErrorCode::InvalidCiphertext, "{named:?}");
        assert_eq!(refused(&all, item.clone()).await, ErrorCode::InvalidCiphertext, "{named:?}");
        // Who may decrypt with the ciphertext's key, but not with the named one, learns nothing of that.
        for caller in [&app, &nobody] {
            assert_eq!(refused(caller, item.clone()).await, ErrorCode::AccessDenied, "{named:?}");
        }
        let rubbish = DecryptItem { ciphertext: b"rubbish", ..item };
        assert_eq!(refused(&session, rubbish.clone()).await, ErrorCode::InvalidCiphertext, "{named:?}");
        assert_eq!(refused(&app, rubbish).await, ErrorCode::AccessDenied, "{named:?}");
    }
    for named in [None, Some(KeyRef::from(key)), Some("k".into())] {
        let item = DecryptItem { key: named.clone(), ..item() };
        let (iv, tag) = (&sealed[HEADER..HEADER + NONCE], &sealed[sealed.len() - TAG..]);
        let whole = DecryptItem { version: Some(1), iv: Some(iv), auth_tag: Some(tag), ..item.clone() };
        for caller in [&session, &all, &app] {
            assert_eq!(caller.decrypt_item(whole.clone()).await.unwrap().plaintext.as_slice(), b"x");
        }
        for contradiction in [
            DecryptItem { version: Some(2), ..item.clone() },
            DecryptItem { version: Some(0), ..item.clone() },
            DecryptItem { iv: Some(&[0; 12]), ..item.clone() },
            DecryptItem { iv: Some(&[]), ..item.clone() },
            DecryptItem { auth_tag: Some(&tag[1..]), ..item.clone() },
        ] {
            assert_eq!(refused(&app, contradiction.clone()).await, ErrorCode::InvalidCiphertext, "{contradiction:?}");
            if named.is_some() {
                assert_eq!(refused(&nobody, contradiction).await, ErrorCode::AccessDenied);
            }
        }
    }
    // The record names the key that the caller named.
    let item = DecryptItem { key: Some("other".into()), ..item() };
    assert_eq!(code(session.decrypt_item(item).await), ErrorCode::InvalidCiphertext);
    assert_eq!(last_record(&session).await.key_id, Some(other));
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_another_node_has_just_given_is_known() {
    let place = Place::new();
    let (one, two) = (place.open().await, place.open().await);
    for name in ["a", "b", "c"] {
        admin(&one).create_key(CreateKey::aes(name)).await.unwrap();
        let sealed = admin(&one).encrypt(name, b"x", &Context::new()).await.unwrap().ciphertext;
        let opened = admin(&two).decrypt_with(name, &sealed, &Context::new()).await.unwrap();
        assert_eq!(opened.plaintext.as_slice(), b"x");
    }
    one.close().await.unwrap();
    two.close().await.unwrap();
}

/// Withdrawn credentials are told so, whatever is wrong with the ciphertext.
#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_credential_comes_before_a_malformed_ciphertext() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let made = session.create_token("gone", Role::Admin, None, None).await.unwrap();
    let gone = kms.session(kms.authenticate(&made.token).await.unwrap());
    session.withdraw_credential(made.credential.id).await.unwrap();
    for key in [None, Some(KeyRef::from("unknown")), Some(KeyId::random().into())] {
        let item = DecryptItem { ciphertext: b"rubbish", key, ..DecryptItem::default() };
        assert_eq!(refused(&gone, item).await, ErrorCode::NotAuthenticated);
    }
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn contexts_of_unknown_keys_reach_the_log_as_hmac() {
    const SECRET: &str = "a-name-that-must-not-be-in-the-log";
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let clear = session.create_key(CreateKey::aes("clear")).await.unwrap().id;
    session
        .create_key(CreateKey { audit_context: Some(AuditContext::Hmac), ..CreateKey::aes("private") })
        .await
        .unwrap();
    let context = Context::from([("patient", SECRET)]);
    let sealed = session.encrypt("private", b"x", &context).await.unwrap().ciphertext;
    let open = || Context::from([("patient", "in the open")]);
    session.encrypt("clear", b"x", &open()).await.unwrap();
    let cut = &sealed[..sealed.len() / 2];
    let mut foreign = sealed.clone();
    foreign[5] ^= 1;
    for ciphertext in [cut, &sealed[..1], b"", b"rubbish", &foreign] {
        // Named beside it: nothing, the key, and another key whose contexts are recorded in clear.
        for key in [None, Some(KeyRef::from("private")), Some("clear".into()), Some("unknown".into())] {
            let item = DecryptItem { ciphertext, context: context.clone(), key, ..DecryptItem::default() };
            session.decrypt_item(item.clone()).await.unwrap_err();
            for done in session.decrypt_batch(&[item.clone(), item]).await.unwrap() {
                done.unwrap_err();
            }
        }
        let item = ReencryptItem {
            ciphertext,
            context: context.clone(),
            destination: Some("private".into()),
            destination_context: None,
        };
        session.reencrypt(item.clone()).await.unwrap_err();
        session.reencrypt_batch(&[item.clone(), item]).await.unwrap()[0].as_ref().unwrap_err();
    }
    let item =
        DecryptItem { ciphertext: &sealed, context: context.clone(), key: Some("clear".into()), ..Default::default() };
    session.decrypt_item(item).await.unwrap_err();
    for unknown in [KeyRef::from("unknown"), KeyId::random().into()] {
        session.encrypt(&unknown, b"x", &context).await.unwrap_err();
        session.generate_data_key(&unknown, 32, &context).await.unwrap_err();
    }
    // A key of which a row is damaged: how its contexts are recorded is not known either.
    session.update_key("clear", UpdateKey { grace_period_days: Some(Some(3)), ..UpdateKey::default() }).await.unwrap();
    place.tamper("UPDATE key_versions SET grace_period_days = 4").await;
    kms.close().await.unwrap();
    let kms = place.open().await;
    let session = admin(&kms);
    assert_eq!(code(session.encrypt(clear, b"x", &context).await), ErrorCode::IntegrityFailure);
    let rows = whole_log(&session).await;
    let leaks: Vec<_> =
        rows.iter().filter(|row| row.details.as_deref().is_some_and(|text| text.contains(SECRET))).collect();
    assert!(leaks.is_empty(), "{leaks:?}");
    assert!(rows.iter().any(|row| row.details.as_deref().is_some_and(|text| text.contains("in the open"))));
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_data_keys_say_how_long_they_are_and_whether_they_were_returned() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(CreateKey::aes("k")).await.unwrap();
    session.generate_data_key("k", 48, &Context::new()).await.unwrap();
    let record = last_record(&session).await;
    assert_eq!(record.action, Action::GenerateDataKey.as_str());
    let details = record.details.unwrap();
    assert!(details.contains(r#""dataKeyBytes":48"#) && details.contains(r#""plaintextReturned":true"#), "{details}");
    session.generate_data_key_without_plaintext("k", 16, &Context::new()).await.unwrap();
    let details = last_record(&session).await.details.unwrap();
    assert!(details.contains(r#""dataKeyBytes":16"#) && details.contains(r#""plaintextReturned":false"#), "{details}");
    session.encrypt("k", b"x", &Context::new()).await.unwrap();
    let details = last_record(&session).await.details.unwrap();
    assert!(!details.contains("dataKey") && !details.contains("plaintext"), "{details}");
    kms.close().await.unwrap();
}

/// An app that may make grants on a key need not be allowed to read it to name it by its name.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_grant_on_a_key_may_name_it() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let key = session.create_key(CreateKey::aes("k")).await.unwrap().id;
    session.create_key(CreateKey::aes("other")).await.unwrap();
    let delegate = kms.session(actor("delegate", Role::App));
    let scope = GrantScope::Key(key);
    let may = [Permission::Grant, Permission::Encrypt];
    session.put_grant("delegate", Role::App, scope, &may, Conditions::default()).await.unwrap();
    assert_eq!(delegate.find_key_to_grant("k").await.unwrap(), key);
    assert_eq!(code(delegate.get_key("k").await), ErrorCode::AccessDenied);
    for hidden in ["other", "unknown"] {
        assert_eq!(code(delegate.find_key_to_grant(hidden).await), ErrorCode::AccessDenied);
    }
    assert_eq!(session.find_key_to_grant("k").await.unwrap(), key);
    assert_eq!(code(session.find_key_to_grant("unknown").await), ErrorCode::KeyNotFound);
    let reader = kms.session(actor("auditor", Role::Auditor));
    assert_eq!(reader.find_key_to_grant("k").await.unwrap(), key);
    let nobody = kms.session(actor("nobody", Role::App));
    assert_eq!(code(nobody.find_key_to_grant("k").await), ErrorCode::AccessDenied);
    kms.close().await.unwrap();
}
