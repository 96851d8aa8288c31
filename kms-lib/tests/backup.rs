//! Backups made under load, their restoration at other places, and the changes that a restore undoes.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::error::Error as _;
use std::path::Path;

use common::{Place, actor, admin, check_usable, code};
use kms_lib::{
    Action, AuditQuery, Config, Context, ErrorCode, Kms, NewGrant, NewKey, NewToken, Paging, Permission, Role,
};

fn at(place: &Place, name: &str) -> Config {
    Config::new(format!("sqlite:{}", place.folder.path().join(name).display())).root_key_bytes([7; 32])
}

/// Removes a store and the files that belong to it.
fn remove_store(place: &Place) {
    for ending in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{ending}", place.file().display()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_is_complete() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let sealed = session.encrypt("k", b"kept", &Context::new()).await.unwrap().ciphertext;
    let load: Vec<_> = (0..8)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move {
                for _ in 0..100 {
                    session.encrypt("k", b"x", &Context::new()).await.unwrap();
                }
            })
        })
        .collect();
    let to = place.folder.path().join("backup.db");
    let alice = actor("alice", Role::Admin);
    let report = kms.session(alice.clone()).backup(&to).await.unwrap();
    assert!(report.verification.ok && report.checkpoint.starts_with("mini-kms/log/"));
    for task in load {
        task.await.unwrap();
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        assert_eq!(std::fs::metadata(&to).unwrap().mode() & 0o777, 0o600);
    }
    let bytes = std::fs::read(&to).unwrap();
    let config = at(&place, "restored.db");
    let restored = Kms::restore(&config, &to).await.unwrap();
    assert_eq!(restored, report);
    assert_eq!(std::fs::read(&to).unwrap(), bytes, "the backup was written to");
    let copy = Kms::open(config.clone()).await.unwrap();
    assert_eq!(admin(&copy).decrypt(&sealed, &Context::new()).await.unwrap().plaintext.as_slice(), b"kept");
    check_usable(&copy).await;
    copy.close().await.unwrap();

    // Refused: an existing file, a caller without the right, and paths where no file can be.
    assert_eq!(code(kms.session(alice.clone()).backup(&to).await), ErrorCode::InvalidArgument);
    assert_eq!(code(Kms::restore(&config, &to).await), ErrorCode::InvalidArgument);
    // Files that a former store left at the place would become a part of the restored store.
    for ending in ["-wal", "-journal"] {
        let left = place.folder.path().join(format!("former.db{ending}"));
        std::fs::write(&left, b"").unwrap();
        assert_eq!(code(Kms::restore(&at(&place, "former.db"), &to).await), ErrorCode::InvalidArgument);
        std::fs::remove_file(left).unwrap();
    }
    let app = actor("app", Role::App);
    assert_eq!(code(kms.session(app.clone()).backup(&place.folder.path().join("b")).await), ErrorCode::AccessDenied);
    let no_folder = kms.session(alice.clone()).backup(&place.folder.path().join("no/b")).await.unwrap_err();
    assert_eq!(no_folder.code(), ErrorCode::StoreUnavailable);
    let cause = no_folder.source().unwrap().downcast_ref::<std::io::Error>().unwrap();
    assert_eq!(cause.kind(), std::io::ErrorKind::NotFound);
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// A file with the final name is a backup whose record is in the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_has_its_name_only_once_it_is_recorded() {
    let place = Place::in_a_file();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    for i in 0..200 {
        session.encrypt("k", &[i; 64], &Context::new()).await.unwrap();
    }
    let alice = actor("alice", Role::Admin);
    for i in 1..=3 {
        let to = place.folder.path().join(format!("backup-{i}.db"));
        let (kms, alice, path) = (kms.clone(), alice.clone(), to.clone());
        let making = tokio::spawn(async move { kms.session(alice.clone()).backup(&path).await });
        while !to.exists() && !making.is_finished() {
            tokio::time::sleep(std::time::Duration::from_micros(200)).await;
        }
        let recorded = place.number("SELECT COUNT(*) FROM audit_logs WHERE action = 'STORE_BACKUP'").await;
        assert_eq!(recorded, i, "a backup has its final name without its record");
        making.await.unwrap().unwrap();
        assert!(Kms::verify_backup(&place.config(), &to).await.unwrap().verification.ok);
    }
    let left: Vec<_> = std::fs::read_dir(place.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains(".part") || name.contains("backup-1.db-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    // A backup that cannot be recorded leaves no file.
    let nobody = actor("nobody", Role::App);
    let to = place.folder.path().join("backup-4.db");
    assert_eq!(code(kms.session(nobody.clone()).backup(&to).await), ErrorCode::AccessDenied);
    assert!(!to.exists());
    kms.close().await.unwrap();
}

#[tokio::test]
async fn bad_backups_are_refused() {
    let place = Place::new();
    let kms = place.open().await;
    admin(&kms).create_key(NewKey::aes("k")).await.unwrap();
    let to = place.folder.path().join("backup.db");
    kms.session(actor("alice", Role::Admin)).backup(&to).await.unwrap();
    kms.close().await.unwrap();
    let other_key = Config::new(place.url()).root_key_bytes([8; 32]);
    assert_eq!(code(Kms::verify_backup(&other_key, &to).await), ErrorCode::WrongRootKey);
    let good = std::fs::read(&to).unwrap();
    let bad = place.folder.path().join("bad.db");
    for cut in [0, 1, 100, 4096, good.len() / 2, good.len() - 4096] {
        std::fs::write(&bad, &good[..cut]).unwrap();
        let error = code(Kms::restore(&at(&place, "never.db"), &bad).await);
        assert!(matches!(error, ErrorCode::StoreCorrupt | ErrorCode::IntegrityFailure), "cut to {cut}: {error}");
    }
    std::fs::write(&bad, b"no database at all, only some text that is long enough").unwrap();
    assert_eq!(code(Kms::verify_backup(&place.config(), &bad).await), ErrorCode::StoreCorrupt);
    assert_eq!(code(Kms::verify_backup(&place.config(), place.folder.path()).await), ErrorCode::InvalidArgument);
    // Verification of the log detects an altered backup before anything is restored.
    std::fs::write(&bad, &good).unwrap();
    let url = format!("sqlite:{}", bad.display());
    let mut raw = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.unwrap();
    sqlx::query("UPDATE audit_logs SET actor = 'mallory' WHERE seq = 1").execute(&mut raw).await.unwrap();
    sqlx::Connection::close(raw).await.unwrap();
    assert_eq!(code(Kms::restore(&at(&place, "never.db"), &bad).await), ErrorCode::IntegrityFailure);
    assert!(!place.folder.path().join("never.db").exists());
}

#[tokio::test]
async fn a_restore_is_compared_before_and_detected_afterwards() {
    let place = Place::new();
    let water = place.folder.path().join("high-water");
    let config = place.config().high_water(&water);
    let kms = Kms::open(config.clone()).await.unwrap();
    let session = admin(&kms);
    for name in ["a", "b", "c"] {
        session.create_key(NewKey::aes(name)).await.unwrap();
    }
    session.rotate_key("c", None).await.unwrap();
    let granted = [Permission::Encrypt];
    let grant = session.put_grant(NewGrant::new("shop", Role::App).on_all_keys().allow(granted)).await.unwrap();
    let token = session.create_token(NewToken::new("shop", Role::App)).await.unwrap();
    common::output::secret(token.token.as_bytes());
    let to = place.folder.path().join("backup.db");
    let alice = actor("alice", Role::Admin);
    kms.session(alice.clone()).backup(&to).await.unwrap();
    assert_eq!(kms.session(alice.clone()).compare_backup(&to).await.unwrap().lost_records, 1);
    session.revoke_key("a").await.unwrap();
    session.schedule_deletion("b", None).await.unwrap();
    session.revoke_version("c", 1).await.unwrap();
    session.revoke_grant(grant.id).await.unwrap();
    session.revoke_credential(token.credential.id).await.unwrap();
    let back = kms.session(alice.clone()).compare_backup(&to).await.unwrap();
    assert_eq!(back.keys, ["a", "b"]);
    assert_eq!(back.versions, [("a".to_owned(), 1), ("c".to_owned(), 1)]);
    assert_eq!(back.grants, [("shop".to_owned(), "*".to_owned())]);
    assert_eq!(back.credentials, ["shop"]);
    assert_eq!(back.lost_records, 6);
    assert_eq!((back.lost_keys, back.lost_versions), (vec![], vec![]));
    kms.close().await.unwrap();

    // The database is rolled back: a new process detects it.
    remove_store(&place);
    Kms::restore(&config, &to).await.unwrap();
    let error = Kms::open(config.clone()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::RestoreDetected);
    assert!(error.message().contains("rolled back"), "{error}");
    let kms = Kms::open(config.clone().acknowledge_restore(true)).await.unwrap();
    let query = AuditQuery::new().action(Action::RestoreAcknowledge);
    let records = admin(&kms).list_audit(&query, &Paging::default()).await.unwrap().items;
    assert!(records[0].details.as_ref().unwrap().contains("\"noted\":"), "{records:?}");
    check_usable(&kms).await;
    kms.close().await.unwrap();
    // One acknowledgement suffices.
    let kms = Kms::open(config.clone()).await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();

    // A high-water file that is malformed, of another log, or truncated.
    let good = std::fs::read(&water).unwrap();
    for bad in [&b""[..], b"garbage", &[0xff; 100], &good[..good.len() - 10], &[b'x'; 100_000]] {
        std::fs::write(&water, bad).unwrap();
        assert_eq!(code(Kms::open(config.clone()).await), ErrorCode::IntegrityFailure);
    }
    let other = Place::new();
    let kms = Kms::open(other.config().high_water(other.folder.path().join("high-water"))).await.unwrap();
    kms.close().await.unwrap();
    std::fs::copy(other.folder.path().join("high-water"), &water).unwrap();
    assert_eq!(code(Kms::open(config.clone()).await), ErrorCode::IntegrityFailure);
    std::fs::write(&water, &good).unwrap();
    Kms::open(config).await.unwrap().close().await.unwrap();
}

/// A comparison before the restore lists what becomes usable again and what is lost. Afterwards, decrypting with a lost
/// version fails with an error that says so.
#[tokio::test]
async fn a_comparison_lists_what_a_restore_changes_and_loses() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let none = Context::new();
    for name in ["rotated", "off", "version-off", "windowed"] {
        session.create_key(NewKey::aes(name)).await.unwrap();
    }
    session.rotate_key("windowed", None).await.unwrap();
    let wide = [Permission::Encrypt, Permission::Decrypt];
    session.put_grant(NewGrant::new("app", Role::App).on_all_keys().allow(wide)).await.unwrap();
    let alice = actor("alice", Role::Admin);
    let to = place.folder.path().join("backup.db");
    kms.session(alice.clone()).backup(&to).await.unwrap();

    session.rotate_key("rotated", None).await.unwrap();
    let lost = session.encrypt("rotated", b"x", &none).await.unwrap().ciphertext;
    session.encrypt("rotated", b"x", &none).await.unwrap();
    session.disable_key("off").await.unwrap();
    session.disable_version("version-off", 1).await.unwrap();
    session.set_window("windowed", 1, Some(place.now())).await.unwrap();
    session.put_grant(NewGrant::new("app", Role::App).on_all_keys().allow(wide[..1].iter().copied())).await.unwrap();
    session.create_key(NewKey::aes("new")).await.unwrap();
    session.put_grant(NewGrant::new("late", Role::App).on_all_keys().allow(wide[..1].iter().copied())).await.unwrap();
    let token = session.create_token(NewToken::new("late", Role::App)).await.unwrap();
    common::output::secret(token.token.as_bytes());
    let found = kms.session(alice.clone()).compare_backup(&to).await.unwrap();
    assert_eq!(found.disabled_keys, ["off"]);
    assert_eq!(found.disabled_versions, [("version-off".to_owned(), 1)]);
    assert_eq!(found.shortened_windows, [("windowed".to_owned(), 1)]);
    assert_eq!(found.narrowed_grants, [("app".to_owned(), "*".to_owned())]);
    assert_eq!(found.lost_keys, ["new"]);
    let versions: Vec<_> = found.lost_versions.iter().map(|v| (v.key.as_str(), v.version, v.encryptions)).collect();
    assert_eq!(versions, [("new", 1, 0), ("rotated", 2, 2)]);
    assert_eq!(found.lost_grants, [("late".to_owned(), "*".to_owned())]);
    assert_eq!(found.lost_credentials, ["late"]);
    kms.close().await.unwrap();

    // The version number belongs to other material now, and the error says so.
    let lost_store = place.folder.path().join("lost.db");
    std::fs::copy(place.file(), &lost_store).unwrap();
    remove_store(&place);
    Kms::restore(&place.config(), &to).await.unwrap();
    let kms = place.open().await;
    let session = admin(&kms);
    assert_eq!(code(session.decrypt(&lost, &none).await), ErrorCode::VersionNotFound);
    session.rotate_key("rotated", None).await.unwrap();
    let error = session.decrypt(&lost, &none).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::DecryptionFailed);
    assert!(error.message().contains("has other material"), "{error}");
    kms.close().await.unwrap();

    // The lost material is not used, even if it replaces the new one with its former seal.
    let of_version = "version = 2 AND key_id = (SELECT id FROM \"keys\" WHERE name = 'rotated')";
    place
        .tamper(&format!(
            "ATTACH '{}' AS lost; UPDATE wrappings SET (wrapped, seal) = (SELECT wrapped, seal FROM lost.wrappings
             WHERE subject = (SELECT id FROM lost.key_versions WHERE {of_version}))
             WHERE subject = (SELECT id FROM key_versions WHERE {of_version})",
            lost_store.display()
        ))
        .await;
    let kms = place.open().await;
    let session = admin(&kms);
    assert_eq!(code(session.encrypt("rotated", b"x", &none).await), ErrorCode::IntegrityFailure);
    let report = session.verify_audit().await.unwrap();
    assert!(!report.ok && report.faults[0].to_string().contains("material"), "{:?}", report.faults);
    kms.close().await.unwrap();
}

/// Copies a store's file and its write-ahead log. False if the log was empty, or if one of the files changed meanwhile.
fn copy_files(from: &Path, to: &Path) -> bool {
    let files = ["", "-wal"].map(|ending| {
        let source = format!("{}{ending}", from.display());
        std::fs::copy(&source, format!("{}{ending}", to.display())).unwrap();
        (source, std::fs::read(format!("{}{ending}", to.display())).unwrap())
    });
    !files[1].1.is_empty() && files.iter().all(|(source, copied)| std::fs::read(source).unwrap() == *copied)
}

/// A copy of a store's files is not a backup, because only one of the files would be restored.
#[tokio::test]
async fn a_copy_of_files_is_not_a_backup() {
    let place = Place::new();
    let kms = place.open().await;
    let copy = place.folder.path().join("copy.db");
    // An idle ledger empties the write-ahead log, and the store would be one file.
    for attempt in 0.. {
        admin(&kms).create_key(NewKey::aes(format!("k{attempt}"))).await.unwrap();
        if copy_files(&place.file(), &copy) {
            break;
        }
    }
    kms.close().await.unwrap();
    let config = at(&place, "restored.db");
    assert_eq!(code(Kms::verify_backup(&config, &copy).await), ErrorCode::InvalidArgument);
    assert_eq!(code(Kms::restore(&config, &copy).await), ErrorCode::InvalidArgument);
    assert!(!place.folder.path().join("restored.db").exists());
    // Moved together to the place of the store, the files are a store.
    let kms = Kms::open(at(&place, "copy.db")).await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn a_restore_follows_no_link_and_replaces_no_file() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    let place = Place::new();
    let kms = place.open().await;
    admin(&kms).create_key(NewKey::aes("k")).await.unwrap();
    let to = place.folder.path().join("backup.db");
    kms.session(actor("alice", Role::Admin)).backup(&to).await.unwrap();
    kms.close().await.unwrap();
    std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o444)).unwrap();
    let before = std::fs::read(&to).unwrap();
    // A dangling link at the place of the store, and a link to the backup where a restore writes its temporary file.
    symlink(place.folder.path().join("nowhere"), place.folder.path().join("link.db")).unwrap();
    assert_eq!(code(Kms::restore(&at(&place, "link.db"), &to).await), ErrorCode::InvalidArgument);
    symlink(&to, place.folder.path().join("new.db.restoring")).unwrap();
    Kms::restore(&at(&place, "new.db"), &to).await.unwrap();
    assert_eq!(std::fs::metadata(place.folder.path().join("new.db")).unwrap().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read(&to).unwrap(), before);
    // The file that an interrupted restore left is a valid backup.
    let left = place.folder.path().join("x.db.restoring");
    std::fs::copy(&to, &left).unwrap();
    Kms::restore(&at(&place, "x.db"), &left).await.unwrap();
    for name in ["new.db", "x.db"] {
        let kms = Kms::open(at(&place, name)).await.unwrap();
        check_usable(&kms).await;
        kms.close().await.unwrap();
    }
    let names: Vec<_> = std::fs::read_dir(place.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    let parts = names.iter().filter(|name| name.to_string_lossy().ends_with(".restoring")).count();
    assert_eq!(parts, 2, "files were added: {names:?}");
}

/// The store was rolled back and then used by a process without the high-water file, until it had more records than the
/// file names.
#[tokio::test]
async fn a_store_that_was_rolled_back_and_used_is_noticed() {
    let place = Place::new();
    let water = place.folder.path().join("high-water");
    let config = place.config().high_water(&water);
    let kms = Kms::open(config.clone()).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("a")).await.unwrap();
    let to = place.folder.path().join("backup.db");
    kms.session(actor("alice", Role::Admin)).backup(&to).await.unwrap();
    session.revoke_key("a").await.unwrap();
    kms.close().await.unwrap();
    // A store that was used without the file, but not rolled back, is accepted.
    let kms = place.open().await;
    check_usable(&kms).await;
    kms.close().await.unwrap();
    Kms::open(config.clone()).await.unwrap().close().await.unwrap();

    // No new store is created where one is missing.
    remove_store(&place);
    let missing = Kms::open(config.clone()).await.unwrap_err();
    assert_eq!(missing.code(), ErrorCode::StoreUnavailable, "{missing}");
    assert!(missing.message().contains("is missing") && !place.file().exists(), "{missing}");

    Kms::restore(&config, &to).await.unwrap();
    let kms = place.open().await;
    for _ in 0..50 {
        admin(&kms).encrypt("a", b"x", &Context::new()).await.unwrap();
    }
    kms.close().await.unwrap();
    let error = Kms::open(config.clone()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::RestoreDetected, "{error}");
    assert!(error.message().contains("used since"), "{error}");
    Kms::open(config.clone().acknowledge_restore(true)).await.unwrap().close().await.unwrap();
    Kms::open(config).await.unwrap().close().await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn a_store_is_recognized_through_a_link() {
    let place = Place::new();
    let link = place.folder.path().join("link.db");
    std::os::unix::fs::symlink(place.file(), &link).unwrap();
    let kms = place.open().await;
    let linked = Kms::open(at(&place, "link.db")).await.unwrap();
    admin(&linked).create_key(NewKey::aes("k")).await.unwrap();
    admin(&kms).encrypt("k", b"x", &Context::new()).await.unwrap();
    linked.close().await.unwrap();
    kms.close().await.unwrap();
}

/// A store that is restored to a new place has no high-water file there. The file of the former place reveals the
/// rollback.
#[tokio::test]
async fn a_restore_to_a_new_place_is_noticed() {
    let place = Place::new();
    let folder = place.folder.path().join("marks");
    std::fs::create_dir(&folder).unwrap();
    let config = place.config().high_water(folder.join("high-water-kms.db"));
    let kms = Kms::open(config.clone()).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("a")).await.unwrap();
    let to = place.folder.path().join("backup.db");
    kms.session(actor("alice", Role::Admin)).backup(&to).await.unwrap();
    session.revoke_key("a").await.unwrap();
    // High-water files of other stores, and malformed ones, are ignored.
    let other = Place::new();
    let theirs = Kms::open(other.config().high_water(folder.join("high-water-other.db"))).await.unwrap();
    std::fs::write(folder.join("high-water-garbage"), b"garbage").unwrap();
    theirs.close().await.unwrap();
    kms.close().await.unwrap();

    let elsewhere = at(&place, "elsewhere.db").high_water(folder.join("high-water-elsewhere.db"));
    Kms::restore(&elsewhere, &to).await.unwrap();
    assert_eq!(code(Kms::open(elsewhere.clone()).await), ErrorCode::RestoreDetected);
    Kms::open(elsewhere.clone().acknowledge_restore(true)).await.unwrap().close().await.unwrap();
    // One acknowledgement suffices. The former store is unchanged.
    Kms::open(elsewhere.clone()).await.unwrap().close().await.unwrap();
    Kms::open(config).await.unwrap().close().await.unwrap();
    // At a third place, the file of the former store counts again: an acknowledgement holds for one place only.
    let kms = Kms::open(elsewhere).await.unwrap();
    let next = place.folder.path().join("next.backup");
    kms.session(actor("alice", Role::Admin)).backup(&next).await.unwrap();
    kms.close().await.unwrap();
    let third = at(&place, "third.db").high_water(folder.join("high-water-third.db"));
    std::fs::remove_file(folder.join("high-water-elsewhere.db")).unwrap();
    Kms::restore(&third, &next).await.unwrap();
    assert_eq!(code(Kms::open(third.clone()).await), ErrorCode::RestoreDetected);
    Kms::open(third.acknowledge_restore(true)).await.unwrap().close().await.unwrap();
}

/// The log has other records than those that the high-water file covers, and in one case a checkpoint of the former
/// log.
#[tokio::test]
async fn a_fork_of_the_log_is_noticed() {
    for forged in [false, true] {
        let place = Place::new();
        let water = place.folder.path().join("high-water");
        let config = place.config().high_water(&water);
        let kms = Kms::open(config.clone()).await.unwrap();
        let session = admin(&kms);
        session.create_key(NewKey::aes("a")).await.unwrap();
        let to = place.folder.path().join("backup.db");
        kms.session(actor("alice", Role::Admin)).backup(&to).await.unwrap();
        kms.close().await.unwrap();
        let former = place.folder.path().join("former.db");
        std::fs::copy(place.file(), &former).unwrap();
        remove_store(&place);
        Kms::restore(&config, &to).await.unwrap();
        let kms = place.open().await;
        let more = if forged { 20 } else { 1 };
        for _ in 0..more {
            admin(&kms).encrypt("a", b"x", &Context::new()).await.unwrap();
        }
        kms.close().await.unwrap();
        if forged {
            let insert = format!(
                "ATTACH '{}' AS former; INSERT INTO audit_checkpoints \
                 SELECT seq, frontier, hash, checkpoint FROM former.audit_head",
                former.display()
            );
            place.tamper(&insert).await;
        }
        assert_eq!(code(Kms::open(config.clone()).await), ErrorCode::RestoreDetected);
        Kms::open(config.clone().acknowledge_restore(true)).await.unwrap().close().await.unwrap();
        Kms::open(config).await.unwrap().close().await.unwrap();
    }
}

/// Files that root creates beside a store must be accessible to the user who owns the store.
#[cfg(unix)]
#[tokio::test]
async fn files_beside_a_store_belong_to_its_owner() {
    use std::os::unix::fs::{MetadataExt, chown};
    let place = Place::in_a_file();
    place.open().await.close().await.unwrap();
    if chown(place.file(), Some(65_534), Some(65_534)).is_err() {
        eprintln!("SKIPPED: only root can change the owner of files");
        return;
    }
    let claim = format!("{}-claim", place.file().display());
    std::fs::remove_file(&claim).unwrap();
    let kms = place.open().await;
    while !admin(&kms).metrics().await.unwrap().storage.reserved {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let owner = |path: &str| {
        let file = std::fs::metadata(path).unwrap();
        (file.uid(), file.gid(), file.mode() & 0o777)
    };
    assert_eq!(owner(&claim), (65_534, 65_534, 0o600));
    // The reserve existed already. Without it, the service creates one.
    kms.close().await.unwrap();
    let reserve = format!("{}-reserve", place.file().display());
    std::fs::remove_file(&reserve).unwrap();
    let kms = place.open().await;
    while !admin(&kms).metrics().await.unwrap().storage.reserved {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(owner(&reserve), (65_534, 65_534, 0o600));
    kms.close().await.unwrap();
}
