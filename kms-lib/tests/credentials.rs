//! Tokens: who has one is known by it, until it is withdrawn or expires, and only its hash is stored.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use common::Place;
use kms_lib::session::AuditQuery;
use kms_lib::types::audit::Action;
use kms_lib::{Actor, Clock, Context, CreateKey, ErrorCode, Kms, Role, Timestamp};

#[tokio::test]
async fn a_token_is_good_until_it_is_withdrawn_or_expires() {
    let place = Place::new();
    let days = Arc::new(AtomicU32::new(0));
    let clock = Clock::new({
        let days = Arc::clone(&days);
        move || Timestamp::now().plus_days(days.load(Ordering::SeqCst))
    });
    let config = place.config().clock(clock.apart());
    let kms = Kms::open(config.clone()).await.unwrap();
    let admin = kms.session(Actor::new("root", Role::Admin).unwrap());
    admin.create_key(CreateKey::aes("k")).await.unwrap();
    let expires = Timestamp::now().plus_days(10);
    let made = admin.create_token("Night", Role::Admin, Some("night shift"), Some(expires)).await.unwrap();
    let actor = kms.authenticate(&made.token).await.unwrap();
    assert_eq!((actor.principal(), actor.role()), ("Night", Role::Admin));
    let operator = kms.session(actor.clone());
    let sealed = operator.encrypt("k", b"x", &Context::new()).await.unwrap();

    // Another process knows it at once.
    let other = Kms::open(config.clone()).await.unwrap();
    let second = admin.create_token("second", Role::Auditor, None, None).await.unwrap();
    assert_eq!(other.authenticate(&second.token).await.unwrap().role(), Role::Auditor);

    // Withdrawn in one process: refused in the other too, also for an actor who was recognised before.
    other.session(Actor::new("root", Role::Admin).unwrap()).withdraw_credential(made.credential.id).await.unwrap();
    let error = operator.decrypt(&sealed.ciphertext, &Context::new()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotAuthenticated);
    let error = operator.get_key("k").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotAuthenticated);
    assert_eq!(kms.authenticate(&made.token).await.unwrap_err().code(), ErrorCode::NotAuthenticated);
    let error = admin.withdraw_credential(made.credential.id).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::CredentialNotFound);
    let listed = admin.list_credentials(10, None).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].principal, "second");

    // Expiry.
    let third = admin.create_token("third", Role::Admin, None, Some(expires)).await.unwrap();
    let third_actor = kms.authenticate(&third.token).await.unwrap();
    days.store(11, Ordering::SeqCst);
    assert_eq!(kms.authenticate(&third.token).await.unwrap_err().code(), ErrorCode::NotAuthenticated);
    let error = kms.session(third_actor).encrypt("k", b"x", &Context::new()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotAuthenticated);

    // The token is nowhere in the store.
    assert!(admin.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
    other.close().await.unwrap();
    let secret = &made.token.as_bytes()[26..];
    for entry in std::fs::read_dir(place.folder.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
    assert!(!format!("{made:?}").contains(made.token.as_str()));
}

#[tokio::test]
async fn what_is_no_token_is_refused() {
    let place = Place::new();
    let config = place.config();
    let kms = Kms::open(config.clone()).await.unwrap();
    let admin = kms.session(Actor::new("root", Role::Admin).unwrap());
    let made = admin.create_token("app", Role::App, None, None).await.unwrap();
    let token = made.token.as_str();
    let mut bad: Vec<String> =
        ["", "kms_", "Bearer x", "kms_\0", &"x".repeat(100_000), &token[1..], &token[..67]].map(str::to_owned).to_vec();
    bad.push(format!("{token}A"));
    bad.push(format!("KMS_{}", &token[4..]));
    for at in 4..token.len() {
        let mut altered = token.as_bytes().to_vec();
        altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
        bad.push(String::from_utf8(altered).unwrap());
    }
    for text in bad {
        assert_eq!(kms.authenticate(&text).await.unwrap_err().code(), ErrorCode::NotAuthenticated);
    }
    for reserved in ["scheduler", "system", "anonymous", "", "a\0b"] {
        let error = admin.create_token(reserved, Role::Admin, None, None).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
    }
    let past = Some(Timestamp::from_micros(1));
    assert!(admin.create_token("app", Role::App, None, past).await.is_err());
    assert!(admin.create_token("app", Role::App, Some("a\nb"), None).await.is_err());
    // Only admins make tokens; auditors see them.
    let app = kms.session(kms.authenticate(token).await.unwrap());
    assert_eq!(app.create_token("x", Role::Admin, None, None).await.unwrap_err().code(), ErrorCode::AccessDenied);
    let auditor = kms.session(Actor::new("eve", Role::Auditor).unwrap());
    assert_eq!(auditor.list_credentials(10, None).await.unwrap().len(), 1);
    assert_eq!(auditor.withdraw_credential(made.credential.id).await.unwrap_err().code(), ErrorCode::AccessDenied);
    kms.close().await.unwrap();

    // A credential raised to admin in the database is not accepted.
    place.tamper("UPDATE credentials SET role = 'admin'").await;
    let kms = Kms::open(config).await.unwrap();
    assert_eq!(kms.authenticate(token).await.unwrap_err().code(), ErrorCode::NotAuthenticated);
    let report = kms.session(Actor::new("root", Role::Admin).unwrap()).verify_audit().await.unwrap();
    assert!(!report.ok && report.faults[0].to_string().contains("credentials"), "{:?}", report.faults);
    kms.close().await.unwrap();
}

/// Nodes that start together on an empty database make one first token.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_first_token_is_made_once() {
    let place = Place::new();
    let nodes = [place.open().await, place.open().await, place.open().await];
    let making: Vec<_> = nodes
        .iter()
        .cycle()
        .take(9)
        .map(|kms| {
            let operator = kms.session(Actor::operator());
            tokio::spawn(async move { operator.create_first_token("Root", Some("first token"), None).await })
        })
        .collect();
    let mut made = Vec::new();
    for call in making {
        match call.await.unwrap() {
            Ok(token) => made.push(token),
            Err(error) => assert_eq!((error.code(), error.is_retryable()), (ErrorCode::Conflict, false)),
        }
    }
    assert_eq!(made.len(), 1);
    let actor = nodes[2].authenticate(&made[0].token).await.unwrap();
    assert_eq!((actor.principal(), actor.role()), ("Root", Role::Admin));
    let root = nodes[1].session(actor);
    assert_eq!(root.list_credentials(10, None).await.unwrap().len(), 1);
    // Nor is there another first one once it is withdrawn, or after a restart.
    let operator = nodes[0].session(Actor::operator());
    let credential = made[0].credential.id;
    operator.withdraw_credential(credential).await.unwrap();
    let again = operator.create_first_token("Root", None, None).await;
    assert_eq!(again.unwrap_err().code(), ErrorCode::Conflict);
    for node in &nodes {
        node.close().await.unwrap();
    }
    let kms = place.open().await;
    let again = kms.session(Actor::operator()).create_first_token("Root", None, None).await;
    assert_eq!(again.unwrap_err().code(), ErrorCode::Conflict);
    // The record says what the token is for.
    let query = AuditQuery { action: Some(Action::CredentialCreate), ascending: true, ..AuditQuery::default() };
    let records = kms.session(Actor::operator()).list_audit(&query).await.unwrap().records;
    let details =
        records.iter().filter(|record| record.status == "SUCCESS").filter_map(|record| record.details.as_deref());
    let details: Vec<&str> = details.collect();
    assert!(details.len() == 1 && details[0].contains(r#""label":"first token""#), "{details:?}");
    kms.close().await.unwrap();
}
