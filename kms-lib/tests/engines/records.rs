//! Tests of lists, and of the contents of audit records.

use crate::common::{Place, actor, admin, check_usable, code, last_record};
use kms_lib::{
    Action, AuditContext, AuditQuery, Context, EncryptItem, ErrorCode, KeyFilter, KeyState, KeyType, KeyUpdate,
    NewGrant, NewKey, Paging, Permission, Role, Status,
};

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
async fn records_describe_operations_without_secrets() {
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
