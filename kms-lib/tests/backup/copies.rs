//! Tests of making and verifying backups, and of the owner of a store's files.

use std::error::Error as _;

use crate::common::{Place, actor, admin, check_usable, code};
use crate::{at, backed_up};
use kms_lib::{Config, Context, ErrorCode, Kms, NewKey, Role};

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
    let (kms, to) = backed_up(&place, &place.config()).await;
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
