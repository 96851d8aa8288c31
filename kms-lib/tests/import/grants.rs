//! Tests of imported grants: the permissions that they give, and which of them are imported as denials.

use kms_lib::{
    Actor, Context, ErrorCode, ImportFindingKind, ImportJob, Kms, NewGrant, NewKey, Permission, Role, Session,
};

use crate::common::{admin, code};
use crate::{import, original, place};

const KEY: &str = "7dcc8c2b-e9a3-46ae-8d2e-05acb48fd9dc";

fn app(kms: &Kms, principal: &str) -> Session {
    kms.session(Actor::new(principal, Role::App).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn known_grants_allow_and_unknown_conditions_deny() {
    let original = original!("clean");
    let place = place();
    let kms = place.open().await;
    let report = import(&kms, &original, &ImportJob::default().rotate(true)).await;
    let denied: Vec<_> = report.findings.iter().filter(|it| it.kind == ImportFindingKind::GrantDenied).collect();
    assert_eq!(denied.len(), 1, "{report:?}");
    assert_eq!(denied[0].id, "aef7ca1f-0a6a-4c68-a56b-0f4c62de3f30");
    assert!(denied[0].text.contains("10.0.0.0/8"), "{denied:?}");
    let new = app(&kms, "svc-new");
    let sealed = new.encrypt(KEY, b"x", &Context::new()).await.unwrap();
    new.decrypt(&sealed.ciphertext, &Context::new()).await.unwrap();
    app(&kms, "svc-any").get_key(KEY).await.unwrap();
    let checkout = app(&kms, "svc-checkout");
    let refused = checkout.encrypt("929e82de-2672-4d8b-9dc1-f27306950259", b"x", &Context::new()).await;
    assert_eq!(code(refused), ErrorCode::AccessDenied);
    let grants = admin(&kms).list_grants(&Default::default(), &kms_lib::Paging::new(10)).await.unwrap().items;
    assert_eq!(grants.len(), 4);
    assert!(grants.iter().all(|grant| serde_json::to_value(grant).unwrap()["grantedBy"] == "import:mini-kms"));
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn principals_with_another_meaning_here_are_imported_as_denials() {
    let original = original!("clean");
    let long = "p".repeat(128);
    let principals =
        ["*", "system", "Scheduler", "anonymous", " padded ", "bidi\u{202e}", "Alice", "alice", "", "Bob", &long];
    for (n, principal) in principals.iter().enumerate() {
        original.sql(&format!(
            "SET NAMES utf8mb4; INSERT INTO grants VALUES ('00000000-0000-4000-8000-0000000000{n:02}', '{principal}', \
             'app', '{KEY}', '[\"read\",\"\"]', NULL, '2026-11-23 18:27:07')"
        ));
    }
    let place = place();
    let kms = place.open().await;
    let report = import(&kms, &original, &ImportJob::default().fold_principals(true)).await;
    let denied = |id: usize| {
        let id = format!("00000000-0000-4000-8000-0000000000{id:02}");
        report.findings.iter().any(|it| it.kind == ImportFindingKind::GrantDenied && it.id == id)
    };
    let found: Vec<&str> = (0..principals.len()).filter(|n| denied(*n)).map(|n| principals[n]).collect();
    assert_eq!(found, ["*", "system", "Scheduler", "anonymous", " padded ", "bidi\u{202e}", "Alice", "alice", ""]);
    assert_eq!(report.grants.imported, 4 + principals.len() as u64);
    for (principal, allowed) in [("alice", false), ("Alice", false), ("bob", true), ("Bob", false), (&*long, true)] {
        let read = app(&kms, principal).get_key(KEY).await;
        assert_eq!(read.is_ok(), allowed, "{principal}");
    }
    // The report shows no deceptive characters.
    assert!(report.findings.iter().all(|it| !it.text.contains('\u{202e}')), "{report:?}");
    assert!(admin(&kms).verify_audit().await.unwrap().ok);
    let again = import(&kms, &original, &ImportJob::default().fold_principals(true)).await;
    assert_eq!((again.grants.imported, again.grants.updated), (0, 0), "{again:?}");
    kms.close().await.unwrap();
}

/// A grant that is narrowed at the source in a form that cannot be imported is withdrawn here.
#[tokio::test(flavor = "multi_thread")]
async fn grants_that_cannot_be_imported_any_more_are_withdrawn() {
    let original = original!("clean");
    let changes = ["allowed_ops = '[]'", "allowed_ops = '[\"fly\"]'", "key_id = 'gone'", "allowed_ops = '{}'"];
    for n in 0..changes.len() {
        original.sql(&format!(
            "INSERT INTO grants VALUES ('00000000-0000-4000-8000-0000000000{n:02}', 'app-{n}', 'app', '{KEY}', \
             '[\"read\"]', NULL, '2026-11-23 18:27:07')"
        ));
    }
    let place = place();
    let kms = place.open().await;
    import(&kms, &original, &ImportJob::default()).await;
    for (n, change) in changes.iter().enumerate() {
        app(&kms, &format!("app-{n}")).get_key(KEY).await.unwrap();
        let id = format!("00000000-0000-4000-8000-0000000000{n:02}");
        original.sql(&format!("UPDATE grants SET {change} WHERE id = '{id}'"));
    }
    let report = import(&kms, &original, &ImportJob::default()).await;
    let counts = report.grants;
    assert_eq!((counts.refused, counts.ignored, counts.withdrawn), (1, 3, 4), "{report:?}");
    for n in 0..changes.len() {
        assert_eq!(code(app(&kms, &format!("app-{n}")).get_key(KEY).await), ErrorCode::AccessDenied, "{n}");
    }
    kms.close().await.unwrap();
}

/// An imported grant allows no more than it allowed at the source.
#[tokio::test(flavor = "multi_thread")]
async fn no_grant_reaches_further_than_at_the_source() {
    let original = original!("clean");
    original.sql(&format!(
        "INSERT INTO grants VALUES ('00000000-0000-4000-8000-000000000001', 'app', 'app', '{KEY}', \
         '[\"decrypt\", \"grant\", \"delete\", \"manage\"]', NULL, '2026-11-23 18:27:07')"
    ));
    let place = place();
    let kms = place.open().await;
    admin(&kms).create_key(NewKey::aes("payroll")).await.unwrap();
    for _ in 0..2 {
        let report = import(&kms, &original, &ImportJob::default()).await;
        let about = |text: &str| report.findings.iter().any(|it| it.text.contains(text));
        assert!(about("did not come from this source") && about("manage"), "{report:?}");
        assert_eq!(code(app(&kms, "svc-any").get_key("payroll").await), ErrorCode::AccessDenied);
        let delegated = NewGrant::new("other", Role::App).on_key(KEY).allow([Permission::Decrypt]);
        assert_eq!(code(app(&kms, "app").put_grant(delegated).await), ErrorCode::AccessDenied);
    }
    kms.close().await.unwrap();
}

/// A grant that was imported before and gains permissions at the source is decided again.
#[tokio::test(flavor = "multi_thread")]
async fn no_grant_gains_keys_from_elsewhere() {
    let original = original!("clean");
    let add = |id: u32, principal: &str, key: &str| {
        original.sql(&format!(
            "INSERT INTO grants VALUES ('00000000-0000-4000-8000-0000000000{id:02}', '{principal}', 'app', '{key}', \
             '[\"read\"]', NULL, '2026-11-23 18:27:07')"
        ));
    };
    add(1, "on-a-key", KEY);
    for (id, principal) in [(2, "other-name"), (3, "more"), (4, "Carol"), (5, "carol"), (6, "as-it-was")] {
        add(id, principal, "*");
    }
    add(7, "loosened", "*");
    original.sql("UPDATE grants SET conditions = '{\"sourceIp\":[\"10.0.0.0/8\"]}' WHERE principal = 'loosened'");
    let place = place();
    let kms = place.open().await;
    import(&kms, &original, &ImportJob::default()).await;
    let own = admin(&kms).create_key(NewKey::aes("payroll")).await.unwrap().id.to_string();
    app(&kms, "on-a-key").get_key(KEY).await.unwrap();
    let set = |id: u32, change: &str| {
        original.sql(&format!("UPDATE grants SET {change} WHERE id = '00000000-0000-4000-8000-0000000000{id:02}'"));
    };
    set(1, "key_id = '*'");
    set(2, "principal = 'mallory'");
    set(3, "allowed_ops = '[\"read\",\"decrypt\"]'");
    set(7, "conditions = NULL");
    original.sql("SET NAMES utf8mb4; DELETE FROM grants WHERE principal = 'carol' COLLATE utf8mb4_bin");
    for _ in 0..2 {
        let report = import(&kms, &original, &ImportJob::default()).await;
        for id in [1, 2, 3, 4, 7] {
            let id = format!("00000000-0000-4000-8000-0000000000{id:02}");
            let is_denied = |it: &&kms_lib::ImportFinding| it.id == id && it.kind == ImportFindingKind::GrantDenied;
            let finding = report.findings.iter().find(is_denied);
            assert!(finding.is_some_and(|it| it.text.contains("did not come from this source")), "{id} {report:?}");
        }
        for principal in ["on-a-key", "mallory", "other-name", "more", "Carol", "carol", "loosened"] {
            assert_eq!(code(app(&kms, principal).get_key(&own).await), ErrorCode::AccessDenied, "{principal}");
        }
        // The decision at the first import is kept.
        app(&kms, "as-it-was").get_key(&own).await.unwrap();
    }
    kms.close().await.unwrap();
}

/// A grant on all keys also covers the keys of a source that is imported later. The report lists it.
#[tokio::test(flavor = "multi_thread")]
async fn grants_of_another_source_on_all_keys_are_named() {
    let (first, second) = (original!("clean"), original!("forked"));
    let place = place();
    let kms = place.open().await;
    import(&kms, &first, &ImportJob::default()).await;
    second.sql("UPDATE grants SET id = UUID()");
    let report = import(&kms, &second, &ImportJob::default().name("second")).await;
    let about = |it: &&kms_lib::ImportFinding| it.text.contains("import:mini-kms") && it.text.contains("svc-any");
    assert_eq!(report.findings.iter().filter(about).count(), 1, "{report:?}");
    let again = import(&kms, &first, &ImportJob::default()).await;
    assert!(again.findings.iter().all(|it| !it.text.contains("import:")), "{again:?}");
    kms.close().await.unwrap();
}

/// Ids that differ only in case are one id here, even if the source distinguishes them.
#[tokio::test(flavor = "multi_thread")]
async fn ids_that_differ_in_case_are_one_id() {
    let original = original!("clean");
    let id = "abcdef00-0000-4000-8000-00000000000";
    original.sql(&format!(
        "ALTER TABLE grants MODIFY id VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL; \
         INSERT INTO grants SELECT IF(seq = 1, '{id}1', UPPER('{id}1')), CONCAT('app-', seq), 'app', '{KEY}', \
           '[\"read\"]', NULL, '2026-11-23 18:27:07' FROM seq_1_to_2"
    ));
    let folder = tempfile::tempdir().unwrap();
    let grant = |id: String| {
        serde_json::json!({ "id": id, "principal": "app", "role": "app", "keyId": "*", "allowedOps": ["read"],
            "conditions": {}, "createdAt": "2026-11-23T18:27:07.000Z" })
    };
    let grants = serde_json::json!([grant(format!("{id}2")), grant(format!("{id}2").to_uppercase())]);
    for (name, rows) in [("keys", "[]"), ("key_versions", "[]"), ("audit_logs", "[]"), ("grants", &*grants.to_string())]
    {
        std::fs::write(folder.path().join(format!("{name}.json")), rows).unwrap();
    }
    let place = place();
    let kms = place.open().await;
    let report = import(&kms, &original, &ImportJob::default()).await;
    assert_eq!((report.grants.refused, report.grants.imported), (2, 4), "{report:?}");
    let files = kms_lib::ImportSource::parse(folder.path().to_str().unwrap()).unwrap();
    let report = admin(&kms).import_mini_kms(&files, &ImportJob::default().name("files")).await.unwrap();
    assert_eq!((report.grants.refused, report.grants.imported), (2, 0), "{report:?}");
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_grants_are_refused_and_listed() {
    let original = original!("clean");
    for (n, (key, ops)) in [
        ("not-a-key", "[\"read\"]"),
        ("00000000-0000-4000-8000-00000000dead", "[\"read\"]"),
        (KEY, "[]"),
        (KEY, "[\"fly\"]"),
        (KEY, "{\"read\": true}"),
        (KEY, "[\"read\", \"fly\", \"create\"]"),
    ]
    .into_iter()
    .enumerate()
    {
        original.sql(&format!(
            "INSERT INTO grants VALUES ('00000000-0000-4000-8000-0000000000{n:02}', 'app-{n}', 'app', '{key}', \
             '{ops}', '{{}}', '2026-11-23 18:27:07')"
        ));
    }
    let place = place();
    let kms = place.open().await;
    let report = import(&kms, &original, &ImportJob::default()).await;
    let refused = report.findings.iter().filter(|it| it.kind == ImportFindingKind::GrantRefused).count();
    let counts = report.grants;
    assert_eq!((refused, counts.refused, counts.ignored, counts.imported), (5, 1, 4, 5), "{report:?}");
    let changed: Vec<_> = report.findings.iter().filter(|it| it.kind == ImportFindingKind::GrantChanged).collect();
    assert!(changed.iter().any(|it| it.text.contains("fly")) && changed.len() >= 2, "{changed:?}");
    app(&kms, "app-5").get_key(KEY).await.unwrap();
    // A grant that an admin withdrew here is not restored.
    admin(&kms).revoke_grant("00000000-0000-4000-8000-000000000005".parse().unwrap()).await.unwrap();
    import(&kms, &original, &ImportJob::default()).await;
    assert_eq!(code(app(&kms, "app-5").get_key(KEY).await), ErrorCode::AccessDenied);
    kms.close().await.unwrap();
}
