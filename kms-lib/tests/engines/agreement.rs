//! Tests that the fields passed with a ciphertext must agree with it, and that contexts for unknown keys are not
//! recorded in clear.

use crate::common::{Place, actor, admin, code, last_record, whole_log};
use kms_lib::internals::CIPHERTEXT_HEADER as HEADER;
use kms_lib::limits::{AES_GCM_IV_BYTES as NONCE, AES_GCM_TAG_BYTES as TAG};
use kms_lib::{
    Action, AuditContext, Context, DecryptItem, ErrorCode, GrantFilter, GrantScope, KeyId, KeyRef, KeyUpdate, NewGrant,
    NewKey, NewToken, Paging, Permission, ReencryptItem, Role, Session,
};

/// The error code of an item, which must be the same for a single call and in a batch.
async fn refused(session: &Session, item: DecryptItem<'_>) -> ErrorCode {
    let alone = code(session.decrypt_item(item.clone()).await);
    let batch = [item, DecryptItem::new(b"rubbish", Context::new())];
    let batched = code(session.decrypt_batch(&batch).await.unwrap().swap_remove(0));
    assert_eq!(alone, batched);
    alone
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_passed_beside_a_ciphertext_must_agree_with_it() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let key = session.create_key(NewKey::aes("k")).await.unwrap().id;
    let other = session.create_key(NewKey::aes("other")).await.unwrap().id;
    let app = kms.session(actor("app", Role::App));
    session.put_grant(NewGrant::new("app", Role::App).on_key(key).allow([Permission::Decrypt])).await.unwrap();
    let all = kms.session(actor("all", Role::App));
    session.put_grant(NewGrant::new("all", Role::App).on_all_keys().allow([Permission::Decrypt])).await.unwrap();
    let nobody = kms.session(actor("nobody", Role::App));
    let sealed = session.encrypt("k", b"x", &Context::new()).await.unwrap().ciphertext;
    session.rotate_key("k", None).await.unwrap();
    let item = || DecryptItem::new(&sealed, Context::new());

    let wrong: [KeyRef; 4] = [other.into(), "other".into(), KeyId::random().into(), "unknown".into()];
    for named in wrong {
        let item = item().key(named.clone());
        assert_eq!(refused(&session, item.clone()).await, ErrorCode::InvalidCiphertext, "{named:?}");
        assert_eq!(refused(&all, item.clone()).await, ErrorCode::InvalidCiphertext, "{named:?}");
        // A caller that may decrypt with the ciphertext's key, but not with the named one, learns nothing about the
        // mismatch.
        for caller in [&app, &nobody] {
            assert_eq!(refused(caller, item.clone()).await, ErrorCode::AccessDenied, "{named:?}");
        }
        let mut rubbish = item;
        rubbish.ciphertext = b"rubbish";
        assert_eq!(refused(&session, rubbish.clone()).await, ErrorCode::InvalidCiphertext, "{named:?}");
        assert_eq!(refused(&app, rubbish).await, ErrorCode::AccessDenied, "{named:?}");
    }
    for named in [None, Some(KeyRef::from(key)), Some("k".into())] {
        let mut item = item();
        item.key = named.clone();
        let (iv, tag) = (&sealed[HEADER..HEADER + NONCE], &sealed[sealed.len() - TAG..]);
        let whole = item.clone().version(1).iv(iv).auth_tag(tag);
        for caller in [&session, &all, &app] {
            assert_eq!(caller.decrypt_item(whole.clone()).await.unwrap().plaintext.as_slice(), b"x");
        }
        for contradiction in [
            item.clone().version(2),
            item.clone().version(0),
            item.clone().iv(&[0; 12]),
            item.clone().iv(&[]),
            item.clone().auth_tag(&tag[1..]),
        ] {
            assert_eq!(refused(&app, contradiction.clone()).await, ErrorCode::InvalidCiphertext, "{contradiction:?}");
            if named.is_some() {
                assert_eq!(refused(&nobody, contradiction).await, ErrorCode::AccessDenied);
            }
        }
    }
    // The record names the key that the caller named.
    let item = item().key("other");
    assert_eq!(code(session.decrypt_item(item).await), ErrorCode::InvalidCiphertext);
    assert_eq!(last_record(&session).await.key_id, Some(other));
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_another_node_has_just_given_is_known() {
    let place = Place::new();
    let (one, two) = (place.open().await, place.open().await);
    for name in ["a", "b", "c"] {
        admin(&one).create_key(NewKey::aes(name)).await.unwrap();
        let sealed = admin(&one).encrypt(name, b"x", &Context::new()).await.unwrap().ciphertext;
        let opened = admin(&two).decrypt_with(name, &sealed, &Context::new()).await.unwrap();
        assert_eq!(opened.plaintext.as_slice(), b"x");
    }
    one.close().await.unwrap();
    two.close().await.unwrap();
}

/// A caller with a withdrawn credential gets `NotAuthenticated`, even if the ciphertext is malformed.
#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_credential_comes_before_a_malformed_ciphertext() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let made = session.create_token(NewToken::new("gone", Role::Admin)).await.unwrap();
    let gone = kms.session(kms.authenticate(&made.token).await.unwrap());
    session.revoke_credential(made.credential.id).await.unwrap();
    for key in [None, Some(KeyRef::from("unknown")), Some(KeyId::random().into())] {
        let mut item = DecryptItem::new(b"rubbish", Context::new());
        item.key = key;
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
    let clear = session.create_key(NewKey::aes("clear")).await.unwrap().id;
    session.create_key(NewKey::aes("private").audit_context(AuditContext::Hmac)).await.unwrap();
    let context = Context::from([("patient", SECRET)]);
    let sealed = session.encrypt("private", b"x", &context).await.unwrap().ciphertext;
    let open = || Context::from([("patient", "in the open")]);
    session.encrypt("clear", b"x", &open()).await.unwrap();
    let cut = &sealed[..sealed.len() / 2];
    let mut foreign = sealed.clone();
    foreign[5] ^= 1;
    for ciphertext in [cut, &sealed[..1], b"", b"rubbish", &foreign] {
        // The named key: none, the right one, one whose contexts are recorded in clear, and an unknown one.
        for key in [None, Some(KeyRef::from("private")), Some("clear".into()), Some("unknown".into())] {
            let mut item = DecryptItem::new(ciphertext, context.clone());
            item.key = key;
            session.decrypt_item(item.clone()).await.unwrap_err();
            for done in session.decrypt_batch(&[item.clone(), item]).await.unwrap() {
                done.unwrap_err();
            }
        }
        let item = ReencryptItem::new(ciphertext, context.clone()).destination("private");
        session.reencrypt(item.clone()).await.unwrap_err();
        session.reencrypt_batch(&[item.clone(), item]).await.unwrap()[0].as_ref().unwrap_err();
    }
    let item = DecryptItem::new(&sealed, context.clone()).key("clear");
    session.decrypt_item(item).await.unwrap_err();
    for unknown in [KeyRef::from("unknown"), KeyId::random().into()] {
        session.encrypt(&unknown, b"x", &context).await.unwrap_err();
        session.generate_data_key(&unknown, 32, &context).await.unwrap_err();
    }
    // If a row of the key is damaged, the setting for recording its contexts is not trusted either.
    session.update_key("clear", KeyUpdate::new().grace_period_days(3)).await.unwrap();
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
    session.create_key(NewKey::aes("k")).await.unwrap();
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

/// An app that may make grants on a key may refer to it by name without the permission to read it.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_grant_on_a_key_may_name_it() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let key = session.create_key(NewKey::aes("k")).await.unwrap().id;
    session.create_key(NewKey::aes("other")).await.unwrap();
    let delegate = kms.session(actor("delegate", Role::App));
    let may = [Permission::Grant, Permission::Encrypt];
    session.put_grant(NewGrant::new("delegate", Role::App).on_key("k").allow(may)).await.unwrap();
    let put = async |session: &Session, name: &str| {
        session.put_grant(NewGrant::new("friend", Role::App).on_key(name).allow([Permission::Encrypt])).await
    };
    assert_eq!(put(&delegate, "k").await.unwrap().key_id, GrantScope::Key(key));
    assert_eq!(code(delegate.get_key("k").await), ErrorCode::AccessDenied);
    for hidden in ["other", "unknown"] {
        assert_eq!(code(put(&delegate, hidden).await), ErrorCode::AccessDenied);
    }
    assert_eq!(put(&session, "k").await.unwrap().key_id, GrantScope::Key(key));
    assert_eq!(code(put(&session, "unknown").await), ErrorCode::KeyNotFound);
    // A reader may look up the key, but not make grants.
    let reader = kms.session(actor("auditor", Role::Auditor));
    assert_eq!(code(put(&reader, "k").await), ErrorCode::AccessDenied);
    assert_eq!(code(put(&reader, "unknown").await), ErrorCode::KeyNotFound);
    let nobody = kms.session(actor("nobody", Role::App));
    assert_eq!(code(put(&nobody, "k").await), ErrorCode::AccessDenied);
    // A grant without a scope is refused, and so is a filter by a name that no key has.
    let nowhere = NewGrant::new("friend", Role::App).allow([Permission::Encrypt]);
    assert_eq!(code(session.put_grant(nowhere).await), ErrorCode::InvalidArgument);
    let on = async |filter: GrantFilter| session.list_grants(&filter, &Paging::default()).await;
    assert_eq!(on(GrantFilter::new().on_key("k")).await.unwrap().items.len(), 3);
    assert_eq!(on(GrantFilter::new().on_key(key).principal("friend")).await.unwrap().items.len(), 2);
    assert_eq!(on(GrantFilter::new().on_all_keys()).await.unwrap().items, []);
    assert_eq!(code(on(GrantFilter::new().on_key("unknown")).await), ErrorCode::KeyNotFound);
    kms.close().await.unwrap();
}
