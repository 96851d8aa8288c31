//! Tests of rows that are rolled back with their former seals: they are not used although every seal is valid.

use std::path::{Path, PathBuf};

use crate::common::{Place, actor, admin, check_usable, code};
use kms_lib::{Context, ErrorCode, Kms, NewGrant, NewKey, NewToken, Permission, Role};

/// Creates a store in which keys, grants and tokens were revoked, with a copy from before.
struct Taken {
    place: Place,
    old: PathBuf,
    sealed: Vec<u8>,
    sealed_b: Vec<u8>,
    token: String,
}

async fn taken() -> Taken {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    for name in ["a", "b", "c"] {
        session.create_key(NewKey::aes(name)).await.unwrap();
    }
    let sealed = session.encrypt("a", b"secret", &Context::new()).await.unwrap().ciphertext;
    let sealed_b = session.encrypt("b", b"secret", &Context::new()).await.unwrap().ciphertext;
    session.rotate_key("a", None).await.unwrap();
    let granted = [Permission::Encrypt];
    let grant = session.put_grant(NewGrant::new("app", Role::App).on_all_keys().allow(granted)).await.unwrap();
    let token = session.create_token(NewToken::new("app", Role::App)).await.unwrap();
    crate::common::output::secret(token.token.as_bytes());
    tracing::trace!(target: "kms_lib::tests", ?token);
    kms.close().await.unwrap();
    let old = place.folder.path().join("old.db");
    std::fs::copy(place.file(), &old).unwrap();
    let kms = place.open().await;
    let session = admin(&kms);
    session.revoke_version("a", 1).await.unwrap();
    session.disable_key("b").await.unwrap();
    session.revoke_grant(grant.id).await.unwrap();
    session.revoke_credential(token.credential.id).await.unwrap();
    kms.close().await.unwrap();
    Taken { place, old, sealed, sealed_b, token: token.token.to_string() }
}

/// Rolls tables back to their state in another file.
async fn put_back(place: &Place, from: &Path, tables: &[&str]) {
    let mut sql = format!("ATTACH '{}' AS old;", from.display());
    for table in tables {
        sql.push_str(&format!("DELETE FROM \"{table}\"; INSERT INTO \"{table}\" SELECT * FROM old.\"{table}\";"));
    }
    place.tamper(&sql).await;
}

/// Checks that revoked grants, versions and tokens have no effect, and that everything else works.
async fn check_refused(taken: &Taken, kms: &Kms, expected: &[&str]) {
    let session = admin(kms);
    let none = Context::new();
    let decrypted = code(session.decrypt(&taken.sealed, &none).await);
    let altered = expected.contains(&"key_versions");
    assert_eq!(decrypted, if altered { ErrorCode::IntegrityFailure } else { ErrorCode::VersionRevoked });
    let decrypted = code(session.decrypt(&taken.sealed_b, &none).await);
    let altered = expected.contains(&"keys");
    assert_eq!(decrypted, if altered { ErrorCode::IntegrityFailure } else { ErrorCode::KeyDisabled });
    let app = kms.session(actor("app", Role::App));
    assert_eq!(code(app.encrypt("c", b"x", &none).await), ErrorCode::AccessDenied);
    assert_eq!(code(kms.authenticate(&taken.token).await), ErrorCode::NotAuthenticated);
    // Other keys are usable.
    let sealed = session.encrypt("c", b"x", &none).await.unwrap();
    session.decrypt(&sealed.ciphertext, &none).await.unwrap();
    let report = session.verify_audit().await.unwrap();
    assert_eq!(report.ok, expected.is_empty(), "{:?}", report.faults);
    let text = report.faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    for table in expected {
        assert!(text.contains(&format!("of {table} ")), "{table}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_put_back_with_their_former_seals_are_not_used() {
    let taken = taken().await;
    let present = taken.place.folder.path().join("present.db");
    for tables in [
        &["grants"][..],
        &["credentials"],
        &["key_versions"],
        &["keys"],
        &["grants", "credentials", "key_versions", "keys"],
    ] {
        std::fs::copy(taken.place.file(), &present).unwrap();
        put_back(&taken.place, &taken.old, tables).await;
        let kms = taken.place.open().await;
        check_refused(&taken, &kms, tables).await;
        // Later changes do not make rolled-back rows valid.
        let name = format!("while-{}", tables.join("-"));
        admin(&kms).create_key(NewKey::aes(name)).await.unwrap();
        check_refused(&taken, &kms, tables).await;
        kms.close().await.unwrap();
        let kms = taken.place.open().await;
        check_refused(&taken, &kms, tables).await;
        kms.close().await.unwrap();
        // Repaired by restoring the file, without the later changes.
        std::fs::copy(&present, taken.place.file()).unwrap();
        let kms = taken.place.open().await;
        check_refused(&taken, &kms, &[]).await;
        check_usable(&kms).await;
        kms.close().await.unwrap();
    }
}

/// Removed rows count like rolled-back ones, and nothing is used that cannot be verified.
#[tokio::test(flavor = "multi_thread")]
async fn where_the_log_is_altered_too_nothing_is_used() {
    let taken = taken().await;
    put_back(&taken.place, &taken.old, &["grants"]).await;
    taken.place.tamper("UPDATE audit_logs SET actor = 'mallory' WHERE seq = 2").await;
    let kms = taken.place.open().await;
    let session = admin(&kms);
    assert_eq!(code(session.encrypt("c", b"x", &Context::new()).await), ErrorCode::IntegrityFailure);
    assert_eq!(code(kms.authenticate(&taken.token).await), ErrorCode::NotAuthenticated);
    let app = kms.session(actor("app", Role::App));
    assert_eq!(code(app.encrypt("c", b"x", &Context::new()).await), ErrorCode::AccessDenied);
    assert_eq!(session.verify_audit().await.unwrap().broken_at, Some(2));
    kms.close().await.unwrap();
}

/// An incremental verification detects the rollback although it does not read the record of the last change.
#[tokio::test(flavor = "multi_thread")]
async fn an_incremental_verification_finds_rows_put_back() {
    let taken = taken().await;
    let kms = taken.place.open().await;
    let session = admin(&kms);
    // Writes records past a stored checkpoint.
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move {
                for _ in 0..130 {
                    session.encrypt("c", b"x", &Context::new()).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(session.verify_audit().await.unwrap().ok);
    let report = session.verify_audit_incrementally().await.unwrap();
    assert!(report.ok && report.from > 8_000, "{report:?}");
    // Rolled back under the running service, which has the right rows in memory.
    put_back(&taken.place, &taken.old, &["grants"]).await;
    let report = session.verify_audit_incrementally().await.unwrap();
    assert!(!report.ok && report.faults[0].to_string().contains("of grants "), "{:?}", report.faults);
    kms.close().await.unwrap();

    // Only the service itself determines up to which record the log was verified.
    let place = Place::new();
    std::fs::copy(taken.place.folder.path().join("old.db"), place.file()).unwrap();
    place.tamper("INSERT INTO meta VALUES ('audit.verified_size', '8')").await;
    let kms = place.open().await;
    assert_eq!(admin(&kms).verify_audit_incrementally().await.unwrap().from, 0);
    kms.close().await.unwrap();
}

/// A row that is rolled back immediately after its change is noticed by a process that learns of the change only
/// afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_hidden_from_another_process_is_noticed() {
    let taken = taken().await;
    let kms = taken.place.open().await;
    let granted = [Permission::Encrypt];
    let grant = admin(&kms).put_grant(NewGrant::new("app", Role::App).on_all_keys().allow(granted)).await.unwrap();
    let other = taken.place.open().await;
    let app = other.session(actor("app", Role::App));
    app.encrypt("c", b"x", &Context::new()).await.unwrap();
    let before = taken.place.folder.path().join("before.db");
    kms.session(actor("alice", Role::Admin)).backup(&before).await.unwrap();
    admin(&kms).revoke_grant(grant.id).await.unwrap();
    // Restored so that the other process never sees the revoked grant.
    put_back(&taken.place, &before, &["grants"]).await;
    let refused = code(app.encrypt("c", b"x", &Context::new()).await);
    assert!(matches!(refused, ErrorCode::IntegrityFailure | ErrorCode::AccessDenied), "{refused}");
    other.close().await.unwrap();
    kms.close().await.unwrap();
}
