//! Tests of access tokens: a token authenticates its holder until it is revoked or expires, and only its hash is
//! stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::common::{Place, admin, code};
use kms_lib::{Action, Actor, AuditQuery, Clock, Context, ErrorCode, Kms, NewKey, NewToken, Paging, Role, Timestamp};

#[tokio::test]
async fn a_token_is_good_until_it_is_withdrawn_or_expires() {
    let place = Place::new();
    let days = Arc::new(AtomicU32::new(0));
    let clock = Clock::new({
        let days = Arc::clone(&days);
        move || Timestamp::now().plus_days(days.load(Ordering::SeqCst))
    });
    let config = place.config().clock(clock.skip_skew_check());
    let kms = Kms::open(config.clone()).await.unwrap();
    let admin = kms.session(Actor::new("root", Role::Admin).unwrap());
    admin.create_key(NewKey::aes("k")).await.unwrap();
    let expires = Timestamp::now().plus_days(10);
    let made =
        admin.create_token(NewToken::new("Night", Role::Admin).label("night shift").expires_at(expires)).await.unwrap();
    let actor = kms.authenticate(&made.token).await.unwrap();
    assert_eq!((actor.principal(), actor.role()), ("Night", Role::Admin));
    let operator = kms.session(actor.clone());
    let sealed = operator.encrypt("k", b"x", &Context::new()).await.unwrap();

    // Another process accepts the token immediately.
    let other = Kms::open(config.clone()).await.unwrap();
    let second = admin.create_token(NewToken::new("second", Role::Auditor)).await.unwrap();
    assert_eq!(other.authenticate(&second.token).await.unwrap().role(), Role::Auditor);

    // Revoked in one process: refused in the other one too, even for an actor that was authenticated before.
    other.session(Actor::new("root", Role::Admin).unwrap()).revoke_credential(made.credential.id).await.unwrap();
    let error = operator.decrypt(&sealed.ciphertext, &Context::new()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotAuthenticated);
    let error = operator.get_key("k").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotAuthenticated);
    assert_eq!(kms.authenticate(&made.token).await.unwrap_err().code(), ErrorCode::NotAuthenticated);
    let error = admin.revoke_credential(made.credential.id).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::CredentialNotFound);
    let listed = admin.list_credentials(&Paging::new(10)).await.unwrap().items;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].principal, "second");

    // A token is refused after its expiry.
    let third = admin.create_token(NewToken::new("third", Role::Admin).expires_at(expires)).await.unwrap();
    let third_actor = kms.authenticate(&third.token).await.unwrap();
    days.store(11, Ordering::SeqCst);
    assert_eq!(kms.authenticate(&third.token).await.unwrap_err().code(), ErrorCode::NotAuthenticated);
    let error = kms.session(third_actor).encrypt("k", b"x", &Context::new()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotAuthenticated);

    // The store does not contain the token.
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
    let made = admin.create_token(NewToken::new("app", Role::App)).await.unwrap();
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
        let error = admin.create_token(NewToken::new(reserved, Role::Admin)).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
    }
    let past = Some(Timestamp::from_micros(1));
    assert!(admin.create_token(NewToken::new("app", Role::App).expires_at(past)).await.is_err());
    assert!(admin.create_token(NewToken::new("app", Role::App).label("a\nb")).await.is_err());
    // Only admins create tokens; auditors can list them.
    let app = kms.session(kms.authenticate(token).await.unwrap());
    assert_eq!(app.create_token(NewToken::new("x", Role::Admin)).await.unwrap_err().code(), ErrorCode::AccessDenied);
    let auditor = kms.session(Actor::new("eve", Role::Auditor).unwrap());
    assert_eq!(auditor.list_credentials(&Paging::new(10)).await.unwrap().items.len(), 1);
    assert_eq!(auditor.revoke_credential(made.credential.id).await.unwrap_err().code(), ErrorCode::AccessDenied);
    kms.close().await.unwrap();

    // A credential whose role was changed to admin in the database is not accepted.
    place.tamper("UPDATE credentials SET role = 'admin'").await;
    let kms = Kms::open(config).await.unwrap();
    assert_eq!(kms.authenticate(token).await.unwrap_err().code(), ErrorCode::NotAuthenticated);
    let report = kms.session(Actor::new("root", Role::Admin).unwrap()).verify_audit().await.unwrap();
    assert!(!report.ok && report.faults[0].to_string().contains("credentials"), "{:?}", report.faults);
    kms.close().await.unwrap();
}

/// Nodes that start together on an empty database create one first token.
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
            tokio::spawn(async move {
                operator.create_first_token(NewToken::new("Root", Role::Admin).label("first token")).await
            })
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
    assert_eq!(root.list_credentials(&Paging::new(10)).await.unwrap().items.len(), 1);
    // No other first token is created after its revocation or after a restart.
    let operator = nodes[0].session(Actor::operator());
    let credential = made[0].credential.id;
    operator.revoke_credential(credential).await.unwrap();
    let again = operator.create_first_token(NewToken::new("Root", Role::Admin)).await;
    assert_eq!(again.unwrap_err().code(), ErrorCode::Conflict);
    for node in &nodes {
        node.close().await.unwrap();
    }
    let kms = place.open().await;
    let again = kms.session(Actor::operator()).create_first_token(NewToken::new("Root", Role::Admin)).await;
    assert_eq!(again.unwrap_err().code(), ErrorCode::Conflict);
    // The audit record says what the token is for.
    let query = AuditQuery::new().oldest_first().action(Action::CredentialCreate);
    let records = kms.session(Actor::operator()).list_audit(&query, &Paging::default()).await.unwrap().items;
    let details =
        records.iter().filter(|record| record.status == "SUCCESS").filter_map(|record| record.details.as_deref());
    let details: Vec<&str> = details.collect();
    assert!(details.len() == 1 && details[0].contains(r#""label":"first token""#), "{details:?}");
    kms.close().await.unwrap();
}

/// The last record of a removal, and the number of rows that are left.
async fn removals(place: &Place, session: &kms_lib::Session) -> (usize, i64) {
    let query = AuditQuery::new().action(Action::CredentialRemove);
    let records = session.list_audit(&query, &Paging::new(100)).await.unwrap().items;
    (records.len(), place.number("SELECT COUNT(*) FROM credentials").await)
}

/// Tokens that ended long ago are removed in steps, on every node, while both nodes keep writing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_ended_long_ago_are_removed() {
    let place = Place::new();
    let (kms, other) = (place.open().await, place.open().await);
    let (session, of_other) = (admin(&kms), admin(&other));
    session.create_key(NewKey::aes("k")).await.unwrap();
    let mut tokens = Vec::new();
    for n in 0..150i64 {
        let new = NewToken::new("night", Role::App).expires_at(place.now().plus_days(1).plus_seconds(n as u32 / 10));
        tokens.push(session.create_token(new).await.unwrap());
    }
    let lasting = session.create_token(NewToken::new("day", Role::Admin)).await.unwrap();
    let withdrawn = session.create_token(NewToken::new("day", Role::Admin)).await.unwrap();
    session.revoke_credential(withdrawn.credential.id).await.unwrap();
    assert!(other.authenticate(&tokens[0].token).await.is_ok());
    // They are kept for thirty days after their end.
    place.pass_days(30);
    kms.run_scheduler().await.unwrap();
    let (records, rows) = removals(&place, &session).await;
    assert_eq!((records, rows), (0, 152));
    let copy = place.is_a_file().then(|| {
        let new = Place::in_a_file();
        for ending in ["", "-wal"] {
            let from = format!("{}{ending}", place.file().display());
            std::fs::copy(from, format!("{}{ending}", new.file().display())).unwrap();
        }
        new
    });
    place.pass_days(2);
    kms.run_scheduler().await.unwrap();
    // 151 tokens ended; the one that ended last stays. One step removes 64.
    let (records, rows) = removals(&place, &session).await;
    assert_eq!((records, rows), (3, 2));
    // The other node follows: it drops the rows and keeps writing, and the row commitment of both is the same.
    assert_eq!(other.authenticate(&tokens[0].token).await.unwrap_err().code(), ErrorCode::NotAuthenticated);
    of_other.encrypt("k", b"x", &Context::new()).await.unwrap();
    of_other.rotate_key("k", None).await.unwrap();
    session.rotate_key("k", None).await.unwrap();
    let error = session.revoke_credential(tokens[5].credential.id).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::CredentialNotFound);
    assert!(kms.authenticate(&lasting.token).await.is_ok() && other.authenticate(&lasting.token).await.is_ok());
    assert_eq!(of_other.list_credentials(&Paging::new(10)).await.unwrap().items.len(), 2);
    // Nothing is removed twice, and the store still knows that it had tokens.
    other.run_scheduler().await.unwrap();
    assert_eq!(removals(&place, &session).await, (3, 2));
    assert_eq!(code(session.create_first_token(NewToken::new("x", Role::Admin)).await), ErrorCode::Conflict);
    // Later ones are removed, too, and the row that stayed.
    let last = of_other.create_token(NewToken::new("night", Role::App)).await.unwrap();
    of_other.revoke_credential(last.credential.id).await.unwrap();
    place.pass_days(31);
    other.run_scheduler().await.unwrap();
    assert_eq!(removals(&place, &session).await, (4, 2));
    for session in [&session, &of_other] {
        session.rotate_key("k", None).await.unwrap();
        let report = session.verify_audit().await.unwrap();
        assert!(report.ok, "{:?}", report.faults);
    }
    kms.close().await.unwrap();
    other.close().await.unwrap();
    let kms = place.open().await;
    assert!(admin(&kms).verify_audit().await.unwrap().ok);
    assert_eq!(admin(&kms).list_credentials(&Paging::new(10)).await.unwrap().items.len(), 1);
    kms.close().await.unwrap();
    // A removed row that is put back is noticed.
    if let Some(copy) = copy {
        let sql = "INSERT INTO credentials SELECT * FROM old.credentials o WHERE o.withdrawn_at IS NULL
                   AND o.expires_at IS NOT NULL AND o.id NOT IN (SELECT id FROM credentials) LIMIT 1";
        place.tamper(&format!("ATTACH '{}' AS old; {sql}", copy.file().display())).await;
        let kms = place.open().await;
        let report = admin(&kms).verify_audit().await.unwrap();
        assert!(!report.ok && report.faults[0].to_string().contains("credentials"), "{:?}", report.faults);
        assert_eq!(kms.authenticate(&tokens[0].token).await.unwrap_err().code(), ErrorCode::NotAuthenticated);
        kms.close().await.unwrap();
    }
}
