//! Tests of restoring backups, and of comparing a backup with the store before.

use std::path::Path;

use crate::common::{Place, admin, check_usable, code};
use crate::{at, backed_up, backup, remove_store};
use kms_lib::{Action, AuditQuery, Context, ErrorCode, Kms, NewGrant, NewKey, NewToken, Paging, Permission, Role};

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
    crate::common::output::secret(token.token.as_bytes());
    let to = backup(&place, &kms).await;
    assert_eq!(session.compare_backup(&to).await.unwrap().lost_records, 1);
    session.revoke_key("a").await.unwrap();
    session.schedule_deletion("b", None).await.unwrap();
    session.revoke_version("c", 1).await.unwrap();
    session.revoke_grant(grant.id).await.unwrap();
    session.revoke_credential(token.credential.id).await.unwrap();
    let back = session.compare_backup(&to).await.unwrap();
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

/// Copying the file of an open store would release SQLite's locks on it, whatever name it is copied by.
#[tokio::test]
async fn the_file_of_an_open_store_is_not_restored() {
    let place = Place::new();
    let (kms, _) = backed_up(&place, &place.config()).await;
    let link = place.folder.path().join("link.db");
    std::fs::hard_link(place.file(), &link).unwrap();
    let to = at(&place, "new.db");
    assert_eq!(code(Kms::restore(&to, &place.file()).await), ErrorCode::StoreInUse);
    assert_eq!(code(Kms::restore(&to, &link).await), ErrorCode::StoreInUse);
    kms.close().await.unwrap();
    Kms::restore(&to, &link).await.unwrap();
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
    let to = backup(&place, &kms).await;

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
    crate::common::output::secret(token.token.as_bytes());
    let found = session.compare_backup(&to).await.unwrap();
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
    let (kms, to) = backed_up(&place, &place.config()).await;
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
