//! Tests of the quarantine: rows that do not match the log are not used on any node or after any restart, all other
//! rows are still checked against the row commitment, and rows are released only by a recorded command.

use crate::common::{Place, actor, admin, check_usable, code, whole_log};
use kms_lib::{Context, ErrorCode, GrantFilter, Kms, NewGrant, NewKey, NewToken, Paging, Permission, Role, Session};

const ALTERED: &str = "UPDATE grants SET allowed_ops = 'decrypt,encrypt' WHERE principal = 'unused'";
const REPAIRED: &str = "UPDATE grants SET allowed_ops = 'encrypt' WHERE principal = 'unused'";

/// Creates a closed store with two keys, a grant that is not used and one that `app` uses. Returns a ciphertext.
async fn prepared() -> (Place, Vec<u8>) {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    for name in ["a", "b"] {
        session.create_key(NewKey::aes(name)).await.unwrap();
    }
    put(&session, "unused", Permission::Encrypt).await;
    put(&session, "app", Permission::Decrypt).await;
    let sealed = session.encrypt("a", b"secret", &Context::new()).await.unwrap().ciphertext;
    kms.close().await.unwrap();
    (place, sealed)
}

async fn put(session: &Session, principal: &str, permission: Permission) -> kms_lib::GrantId {
    session.put_grant(NewGrant::new(principal, Role::App).on_all_keys().allow([permission])).await.unwrap().id
}

/// An attack that the commitment must detect even while a row is in quarantine: a revocation is undone in the database,
/// and a node that did not see it before must not continue.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_not_hidden_by_a_row_in_quarantine() {
    for table in ["key_versions", "grants", "\"keys\""] {
        let (place, sealed) = prepared().await;
        place.tamper(ALTERED).await;
        let (a, b) = (place.open().await, place.open().await);
        let app = b.session(actor("app", Role::App));
        app.decrypt(&sealed, &Context::new()).await.unwrap();
        place.tamper(&format!("CREATE TABLE former AS SELECT * FROM {table}")).await;
        let session = admin(&a);
        match table {
            "key_versions" => session.revoke_version("a", 1).await.map(drop).unwrap(),
            "grants" => {
                let grant = session
                    .list_grants(&GrantFilter::new().principal("app"), &Paging::new(1))
                    .await
                    .unwrap()
                    .items
                    .remove(0);
                session.revoke_grant(grant.id).await.unwrap();
            }
            _ => session.disable_key("a").await.map(drop).unwrap(),
        }
        place.tamper(&format!("DELETE FROM {table}")).await;
        place.tamper(&format!("INSERT INTO {table} SELECT * FROM former")).await;
        let error = app.decrypt(&sealed, &Context::new()).await.unwrap_err();
        assert!(!error.is_retryable(), "{error}");
        for kms in [a, b] {
            let _ = kms.close().await;
        }
    }
}

/// Every node quarantines the same rows after every restart, and reports them.
#[tokio::test(flavor = "multi_thread")]
async fn the_set_is_the_same_everywhere() {
    let (place, sealed) = prepared().await;
    place.tamper(ALTERED).await;
    let mut listed = Vec::new();
    for _ in 0..3 {
        let (a, b) = (place.open().await, place.open().await);
        for kms in [&a, &b] {
            let rows = admin(kms).list_quarantine().await.unwrap();
            assert_eq!(rows.len(), 1);
            assert_eq!(rows[0].table.as_str(), "grants");
            listed.push(rows);
            let unused = kms.session(actor("unused", Role::App));
            assert_eq!(code(unused.encrypt("b", b"x", &Context::new()).await), ErrorCode::AccessDenied);
            kms.session(actor("app", Role::App)).decrypt(&sealed, &Context::new()).await.unwrap();
        }
        // Changes by one node reach the other one although a row is in quarantine.
        let name = format!("new-{}", listed.len());
        admin(&a).create_key(NewKey::aes(&name)).await.unwrap();
        admin(&b).encrypt(name.as_str(), b"x", &Context::new()).await.unwrap();
        a.close().await.unwrap();
        b.close().await.unwrap();
    }
    assert!(listed.windows(2).all(|pair| pair[0] == pair[1]));
    let kms = place.open().await;
    let session = admin(&kms);
    assert!(!session.verify_audit().await.unwrap().ok);
    let records = whole_log(&session).await;
    assert_eq!(records.iter().filter(|record| record.action == "ROWS_QUARANTINE").count(), 1);
    assert_eq!(code(kms.session(actor("app", Role::App)).list_quarantine().await), ErrorCode::AccessDenied);
    kms.session(actor("carl", Role::Auditor)).list_quarantine().await.unwrap();
    kms.close().await.unwrap();
}

/// A row that was repaired in the database stays in quarantine until a recorded command releases it.
#[tokio::test(flavor = "multi_thread")]
async fn rows_come_back_only_by_command() {
    let (place, _) = prepared().await;
    place.tamper(ALTERED).await;
    let kms = place.open().await;
    // The row is still wrong, so nothing is released.
    assert_eq!(admin(&kms).release_quarantine().await.unwrap(), []);
    kms.close().await.unwrap();
    place.tamper(REPAIRED).await;
    let encrypt = |kms: &Kms| {
        let session = kms.session(actor("unused", Role::App));
        async move { session.encrypt("b", b"x", &Context::new()).await }
    };
    let (kms, other) = (place.open().await, place.open().await);
    assert_eq!(code(encrypt(&kms).await), ErrorCode::AccessDenied);
    let session = admin(&kms);
    assert!(session.verify_audit().await.unwrap().ok);
    assert_eq!(session.list_quarantine().await.unwrap().len(), 1);
    for role in [Role::App, Role::Auditor] {
        assert_eq!(code(kms.session(actor("eve", role)).release_quarantine().await), ErrorCode::AccessDenied);
    }
    assert_eq!(session.release_quarantine().await.unwrap().len(), 1);
    for kms in [&kms, &other] {
        encrypt(kms).await.unwrap();
        assert_eq!(admin(kms).list_quarantine().await.unwrap(), []);
        check_usable(kms).await;
    }
    kms.close().await.unwrap();
    other.close().await.unwrap();
    let kms = place.open().await;
    encrypt(&kms).await.unwrap();
    // A row that is altered again is quarantined again.
    kms.close().await.unwrap();
    place.tamper(ALTERED).await;
    let kms = place.open().await;
    assert_eq!(code(encrypt(&kms).await), ErrorCode::AccessDenied);
    let records = whole_log(&admin(&kms)).await;
    let done = |action: &str| records.iter().filter(|r| r.action == action && r.status == "SUCCESS").count();
    assert_eq!((done("ROWS_QUARANTINE"), done("ROWS_RELEASE")), (2, 1));
    kms.close().await.unwrap();
}

/// A quarantined key also takes its versions out of use, and a quarantined version its key; other keys work.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_out_with_all_its_versions() {
    for sql in [
        "UPDATE \"keys\" SET state = 'DISABLED' WHERE name = 'a'",
        "UPDATE \"keys\" SET name = 'z' WHERE name = 'a'",
        "UPDATE key_versions SET state = 'DISABLED' WHERE key_id = (SELECT id FROM \"keys\" WHERE name = 'a')",
        "DELETE FROM key_versions WHERE key_id = (SELECT id FROM \"keys\" WHERE name = 'a')",
    ] {
        let (place, sealed) = prepared().await;
        place.tamper(sql).await;
        for _ in 0..2 {
            let kms = place.open().await;
            let session = admin(&kms);
            assert_eq!(code(session.decrypt(&sealed, &Context::new()).await), ErrorCode::IntegrityFailure, "{sql}");
            session.encrypt("b", b"x", &Context::new()).await.unwrap();
            session.create_key(NewKey::aes(format!("k{}", kms_lib::KeyId::random()))).await.unwrap();
            kms.close().await.unwrap();
        }
    }
}

/// Surplus rows without a valid seal have no effect.
#[tokio::test(flavor = "multi_thread")]
async fn a_surplus_row_is_in_nobodys_way() {
    let (place, sealed) = prepared().await;
    let columns = "created_at, origin, fingerprint, revision, seal";
    let sql = format!(
        "INSERT INTO key_versions (id, key_id, version, state, {columns})
         SELECT key_id, key_id, 9, 'ENABLED', {columns} FROM key_versions"
    );
    place.tamper(&sql).await;
    let kms = place.open().await;
    let session = admin(&kms);
    session.decrypt(&sealed, &Context::new()).await.unwrap();
    assert_eq!(session.list_quarantine().await.unwrap(), []);
    assert!(!session.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

/// If the quarantine itself was altered, it is unknown which rows to exclude, so nothing is used.
#[tokio::test(flavor = "multi_thread")]
async fn an_altered_quarantine_makes_everything_unusable() {
    for sql in [
        "DELETE FROM quarantine",
        "UPDATE quarantine SET released_at = created_at",
        "UPDATE quarantine SET row_id = id",
    ] {
        let (place, sealed) = prepared().await;
        place.tamper(ALTERED).await;
        place.open().await.close().await.unwrap();
        place.tamper(REPAIRED).await;
        place.tamper(sql).await;
        let kms = place.open().await;
        let session = admin(&kms);
        assert_eq!(code(session.decrypt(&sealed, &Context::new()).await), ErrorCode::IntegrityFailure, "{sql}");
        assert!(!session.verify_audit().await.unwrap().ok, "{sql}");
        kms.close().await.unwrap();
    }
}

/// The name of an unusable key stays taken, whatever was done to its row. Otherwise a caller that may create keys could
/// take over the name and read what other callers encrypt under it.
#[tokio::test(flavor = "multi_thread")]
async fn names_of_quarantined_keys_stay_taken() {
    for sql in [
        "DELETE FROM \"keys\" WHERE name = 'a'",
        "UPDATE \"keys\" SET state = 'DISABLED' WHERE name = 'a'",
        "UPDATE \"keys\" SET name = 'z' WHERE name = 'a'",
    ] {
        let (place, _) = prepared().await;
        place.tamper(sql).await;
        for _ in 0..2 {
            let (kms, other) = (place.open().await, place.open().await);
            for kms in [&kms, &other] {
                let session = admin(kms);
                assert_eq!(code(session.create_key(NewKey::aes("a")).await), ErrorCode::NameTaken, "{sql}");
                let encrypted = session.encrypt("a", b"x", &Context::new()).await;
                assert_eq!(code(encrypted), ErrorCode::IntegrityFailure, "{sql}");
                let listed = session.list_quarantine().await.unwrap();
                assert_eq!(listed[0].key_name.as_deref(), Some("a"), "{sql}");
            }
            kms.close().await.unwrap();
            other.close().await.unwrap();
        }
    }
}

/// Nodes that open concurrently quarantine the same rows, whichever is first, and none takes a later alteration for a
/// temporary one.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_open_at_once_agree() {
    for _ in 0..3 {
        let (place, sealed) = prepared().await;
        place.tamper(ALTERED).await;
        place.tamper("DELETE FROM \"keys\" WHERE name = 'b'").await;
        let open = || {
            let config = place.config();
            tokio::spawn(async move { Kms::open(config).await.unwrap() })
        };
        let (a, b, c) = (open(), open(), open());
        let nodes = [a.await.unwrap(), b.await.unwrap(), c.await.unwrap()];
        for kms in &nodes {
            assert_eq!(admin(kms).list_quarantine().await.unwrap().len(), 2);
            kms.session(actor("app", Role::App)).decrypt(&sealed, &Context::new()).await.unwrap();
            assert_eq!(code(admin(kms).encrypt("b", b"x", &Context::new()).await), ErrorCode::IntegrityFailure);
        }
        let records = whole_log(&admin(&nodes[0])).await;
        let is_first = |details: &Option<String>| details.as_ref().is_some_and(|text| text.contains("\"rows\""));
        let quarantines = records.iter().filter(|record| record.action == "ROWS_QUARANTINE");
        assert_eq!(quarantines.filter(|record| is_first(&record.details)).count(), 1);
        // A revoked grant is restored without the knowledge of the other nodes.
        let grant = admin(&nodes[0])
            .list_grants(&GrantFilter::new().principal("app"), &Paging::new(1))
            .await
            .unwrap()
            .items
            .remove(0)
            .id;
        place.tamper("CREATE TABLE former AS SELECT * FROM grants WHERE principal = 'app'").await;
        admin(&nodes[0]).revoke_grant(grant).await.unwrap();
        place.tamper("DELETE FROM grants WHERE principal = 'app'").await;
        place.tamper("INSERT INTO grants SELECT * FROM former").await;
        for kms in &nodes[1..] {
            let error = kms.session(actor("app", Role::App)).decrypt(&sealed, &Context::new()).await.unwrap_err();
            assert!(!error.is_retryable(), "{error}");
        }
        for kms in nodes {
            let _ = kms.close().await;
        }
    }
}

/// A store whose log was altered has no commitment. Grants made in it are not used until it has been reopened and
/// verified, because a restored revoked grant would look the same.
#[tokio::test(flavor = "multi_thread")]
async fn no_new_rights_are_used_where_the_log_was_altered() {
    let (place, _) = prepared().await;
    place.tamper("UPDATE audit_logs SET actor = 'eve' WHERE seq = 2").await;
    place.tamper(ALTERED).await;
    let (kms, other) = (place.open().await, place.open().await);
    let session = admin(&kms);
    put(&session, "maker", Permission::Create).await;
    let token = session.create_token(NewToken::new("root", Role::Admin)).await.unwrap();
    for kms in [&kms, &other] {
        let created = kms.session(actor("maker", Role::App)).create_key(NewKey::aes("m")).await;
        assert_eq!(code(created), ErrorCode::AccessDenied);
        assert_eq!(code(kms.authenticate(token.token.as_str()).await), ErrorCode::NotAuthenticated);
    }
    kms.close().await.unwrap();
    other.close().await.unwrap();
}

/// A grant that replaced a quarantined one still replaces it after that one is released.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_was_replaced_meanwhile_is_released_as_withdrawn() {
    let (place, _) = prepared().await;
    place.tamper(ALTERED).await;
    let kms = place.open().await;
    let narrowed = put(&admin(&kms), "unused", Permission::Read).await;
    kms.close().await.unwrap();
    place
        .tamper("UPDATE grants SET allowed_ops = 'encrypt' WHERE principal = 'unused' AND allowed_ops <> 'read'")
        .await;
    let (kms, other) = (place.open().await, place.open().await);
    let session = admin(&kms);
    assert_eq!(session.release_quarantine().await.unwrap().len(), 1);
    for kms in [&kms, &other] {
        let granted =
            admin(kms).list_grants(&GrantFilter::new().principal("unused"), &Paging::new(10)).await.unwrap().items;
        assert_eq!(granted.iter().map(|grant| grant.id).collect::<Vec<_>>(), [narrowed]);
        let unused = kms.session(actor("unused", Role::App));
        assert_eq!(code(unused.encrypt("b", b"x", &Context::new()).await), ErrorCode::AccessDenied);
        check_usable(kms).await;
    }
    kms.close().await.unwrap();
    other.close().await.unwrap();
}
