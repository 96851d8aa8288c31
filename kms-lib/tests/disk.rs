//! Full and read-only disks, and files that are removed or replaced while in use: requests fail closed, the service
//! resumes, and no acknowledged operation is lost.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use common::{Place, actor, admin, check_usable, code, whole_log};
use kms_lib::{
    AuditAck, Config, Context, Error, ErrorCode, Kms, NewGrant, NewKey, NewToken, Permission, Role, Session,
};
use sqlx::{Connection, SqliteConnection};

/// A small file system. The tests may run as root, whom only a file system can keep from writing. Tests that need one
/// are skipped where mounting is not permitted.
struct Disk {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

fn run(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

impl Disk {
    fn new(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small");
        std::fs::create_dir(&path).unwrap();
        let mounted = run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", path.to_str().unwrap()]);
        if !mounted {
            eprintln!("SKIPPED: mounting is not permitted, so a full disk is not tested");
        }
        mounted.then_some(Self { path, _folder: folder })
    }
    fn remount(&self, option: &str) {
        assert!(run("mount", &["-o", &format!("remount,{option}"), self.path.to_str().unwrap()]));
    }
    fn config(&self) -> Config {
        Config::new(format!("sqlite:{}", self.path.join("kms.db").display())).root_key_bytes([7; 32])
    }
    /// Fills the file system with another file.
    fn stuff(&self) {
        let _ = Command::new("dd")
            .args(["if=/dev/zero", "bs=4k", &format!("of={}", self.path.join("stuffing").display())])
            .output();
    }
    fn unstuff(&self) {
        std::fs::remove_file(self.path.join("stuffing")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("umount", &["-l", self.path.to_str().unwrap()]);
    }
}

/// Encrypts until an encryption fails, and returns the error.
async fn fill(session: &Session) -> Error {
    let context = Context::from([("filler", "x".repeat(1_900))]);
    loop {
        if let Err(error) = session.encrypt("k", b"x", &context).await {
            return error;
        }
    }
}

#[tokio::test]
async fn read_only_and_full_stores() {
    let Some(disk) = Disk::new("2m") else { return };
    let kms = Kms::open(disk.config()).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let full = fill(&session).await;
    assert_eq!(full.code(), ErrorCode::StoreFull, "{full}");
    assert!(full.is_retryable());
    // There is space again: the service resumes, and no acknowledged operation is lost.
    disk.remount("size=32m");
    check_usable(&kms).await;
    kms.close().await.unwrap();
    disk.remount("ro");
    let error = code(Kms::open(disk.config()).await);
    assert!(matches!(error, ErrorCode::StoreReadOnly | ErrorCode::StoreUnavailable), "{error}");
    disk.remount("rw");
    let kms = Kms::open(disk.config()).await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

#[tokio::test]
async fn a_store_is_created_once_there_is_space() {
    let Some(disk) = Disk::new("2m") else { return };
    disk.stuff();
    let error = Kms::open(disk.config()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::StoreFull, "{error}");
    disk.unstuff();
    let kms = Kms::open(disk.config()).await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// A process that starts on a disk filled by something else uses the reserve.
#[tokio::test]
async fn a_store_on_a_full_disk_can_be_opened_to_revoke() {
    for ack in [AuditAck::Durable, AuditAck::Queued] {
        open_to_revoke(ack).await;
    }
}

async fn open_to_revoke(ack: AuditAck) {
    let Some(disk) = Disk::new("24m") else { return };
    let config = disk.config().disk_space(8 << 20, 4 << 20).high_water(disk.path.join("high-water")).audit_ack(ack);
    let kms = Kms::open(config.clone()).await.unwrap();
    admin(&kms).create_key(NewKey::aes("k")).await.unwrap();
    while !admin(&kms).metrics().await.unwrap().storage.reserved {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    kms.close().await.unwrap();
    disk.stuff();
    let kms = Kms::open(config.clone()).await.unwrap();
    assert_eq!(code(admin(&kms).encrypt("k", b"x", &Context::new()).await), ErrorCode::StoreFull);
    admin(&kms).revoke_key("k").await.unwrap();
    kms.close().await.unwrap();
    disk.unstuff();
    let kms = Kms::open(config).await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// One of two processes on a disk empties the reserve. The other must not use up the space.
#[tokio::test(flavor = "multi_thread")]
async fn the_reserve_of_two_processes() {
    let Some(disk) = Disk::new("24m") else { return };
    let config = disk.config().disk_space(8 << 20, 4 << 20);
    let one = Kms::open(config.clone()).await.unwrap();
    let two = Kms::open(config).await.unwrap();
    admin(&one).create_key(NewKey::aes("k")).await.unwrap();
    for kms in [&one, &two] {
        while !admin(kms).metrics().await.unwrap().storage.reserved {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        admin(kms).encrypt("k", b"x", &Context::new()).await.unwrap();
    }
    disk.stuff();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(fill(&admin(&one)).await.code(), ErrorCode::StoreFull);
    assert_eq!(code(admin(&two).encrypt("k", b"x", &Context::new()).await), ErrorCode::StoreFull);
    let state = admin(&two).metrics().await.unwrap().storage;
    assert!(state.full && !state.reserved, "{state:?}");
    admin(&two).revoke_key("k").await.unwrap();
    two.close().await.unwrap();
    one.close().await.unwrap();
}

/// An incomplete copy must not look like a backup.
#[tokio::test]
async fn a_backup_without_space_leaves_no_file() {
    let Some(disk) = Disk::new("2m") else { return };
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let context = Context::from([("filler", "x".repeat(1_900))]);
    for _ in 0..2_000 {
        session.encrypt("k", b"x", &context).await.unwrap();
    }
    let to = disk.path.join("backup.db");
    let error = code(kms.session(actor("alice", Role::Admin)).backup(&to).await);
    assert_eq!(error, ErrorCode::StoreFull);
    let left: Vec<_> = std::fs::read_dir(&disk.path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
    disk.remount("size=64m");
    assert!(kms.session(actor("alice", Role::Admin)).backup(&to).await.unwrap().verification.ok);
    kms.close().await.unwrap();
    // An incomplete restore must not look like a store.
    disk.stuff();
    assert_eq!(code(Kms::restore(&disk.config(), &to).await), ErrorCode::StoreFull);
    let mut left: Vec<_> = std::fs::read_dir(&disk.path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["backup.db", "stuffing"]);
    disk.unstuff();
    assert!(Kms::restore(&disk.config(), &to).await.unwrap().verification.ok);
}

/// The indexes of the log lack many records of many keys, each of which would cost a page: that waits for a disk with
/// room, and then the indexes catch up.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_with_many_keys_can_revoke_before_its_indexes_grow() {
    let Some(disk) = Disk::new("64m") else { return };
    let config = disk.config().disk_space(8 << 20, 2 << 20);
    let kms = Kms::open(config.clone()).await.unwrap();
    for name in ["k", "gone"] {
        admin(&kms).create_key(NewKey::aes(name)).await.unwrap();
    }
    let (session, none) = (admin(&kms), Context::new());
    for _ in 0..150 {
        let encryptions = (0..60).map(|_| session.encrypt("k", b"x", &none));
        assert!(futures_util::future::join_all(encryptions).await.iter().all(Result::is_ok));
    }
    kms.close().await.unwrap();
    let mut raw = SqliteConnection::connect(&format!("sqlite:{}", disk.path.join("kms.db").display())).await.unwrap();
    // Nothing verifies the log here, so random keys will do.
    sqlx::raw_sql(
        "UPDATE audit_logs SET key_id = randomblob(16);
         DELETE FROM audit_keys; DELETE FROM audit_actors; UPDATE audit_head SET indexed = 0;
         WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 200000)
         INSERT INTO audit_keys SELECT randomblob(16), n FROM n ORDER BY 1",
    )
    .execute(&mut raw)
    .await
    .unwrap();
    let indexed = async |raw: &mut SqliteConnection| -> i64 {
        sqlx::query_scalar("SELECT indexed FROM audit_head").fetch_one(raw).await.unwrap()
    };
    let kms = Kms::open(config).await.unwrap();
    let session = admin(&kms);
    while !session.metrics().await.unwrap().storage.reserved {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    disk.stuff();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(fill(&session).await.code(), ErrorCode::StoreFull);
    let before = indexed(&mut raw).await;
    for _ in 0..10 {
        session.revoke_key("gone").await.unwrap();
    }
    assert!(session.metrics().await.unwrap().storage.full);
    assert_eq!(indexed(&mut raw).await, before);
    disk.unstuff();
    while indexed(&mut raw).await < 9_000 {
        session.encrypt("k", b"x", &none).await.unwrap();
    }
    kms.close().await.unwrap();
}

/// The reserve is for changes that revoke permissions and keys, in both modes of acknowledgement.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_can_still_revoke() {
    for ack in [AuditAck::Durable, AuditAck::Queued] {
        let Some(disk) = Disk::new("24m") else { return };
        let reserve = disk.path.join("kms.db-reserve");
        let mut kms = Kms::open(disk.config().audit_ack(ack).disk_space(8 << 20, 4 << 20)).await.unwrap();
        let mut session = admin(&kms);
        for name in ["k", "gone", "off"] {
            session.create_key(NewKey::aes(name)).await.unwrap();
        }
        let read = [Permission::Read];
        let grant = session.put_grant(NewGrant::new("app", Role::App).on_all_keys().allow(read)).await.unwrap();
        let token = session.create_token(NewToken::new("bob", Role::App)).await.unwrap();
        let sealed = session.encrypt("gone", b"x", &Context::new()).await.unwrap();
        let before = session.metrics().await.unwrap().storage;
        assert!(!before.full && before.free_bytes.is_some(), "{before:?}");
        while !reserve.exists() || std::fs::metadata(&reserve).unwrap().len() < 4 << 20 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Another file fills the disk, and then the service fills the free space in its own files.
        disk.stuff();
        // The service checks the disk every second. Until then, it might release results whose records find no space.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let full = fill(&session).await;
        assert_eq!(full.code(), ErrorCode::StoreFull, "{ack:?}: {full}");
        let state = session.metrics().await.unwrap().storage;
        assert!(state.low && !(state.full && state.reserved), "{state:?}");
        // Most operations are refused, but no revocation is.
        for i in 0..20 {
            let name = format!("new-{i}");
            assert_eq!(code(session.create_key(NewKey::aes(name)).await), ErrorCode::StoreFull);
        }
        session.revoke_key("gone").await.unwrap();
        session.disable_key("off").await.unwrap();
        session.revoke_grant(grant.id).await.unwrap();
        session.revoke_credential(token.credential.id).await.unwrap();
        assert!(session.metrics().await.unwrap().storage.full && std::fs::metadata(&reserve).unwrap().len() == 0);
        assert!(session.decrypt(&sealed.ciphertext, &Context::new()).await.is_err());
        assert_eq!(code(kms.authenticate(&token.token).await), ErrorCode::NotAuthenticated);

        // A process that starts now, and a second one, know that the remaining space is reserved.
        if ack == AuditAck::Durable {
            kms.close().await.unwrap();
            kms = Kms::open(disk.config().disk_space(8 << 20, 4 << 20)).await.unwrap();
            session = admin(&kms);
            assert_eq!(code(session.encrypt("k", b"x", &Context::new()).await), ErrorCode::StoreFull);
            session.revoke_key("off").await.unwrap();
        }

        // There is space again: everything works, and the reserve is filled again.
        disk.unstuff();
        check_usable(&kms).await;
        assert_eq!(code(session.decrypt(&sealed.ciphertext, &Context::new()).await), ErrorCode::KeyRevoked);
        while !session.metrics().await.unwrap().storage.reserved {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(!session.metrics().await.unwrap().storage.full);
        kms.close().await.unwrap();
        let kms = Kms::open(disk.config()).await.unwrap();
        check_usable(&kms).await;
        kms.close().await.unwrap();
    }
}

/// The disk fills up at once, while the ledger has yet to write the records of released results. The reserve has space
/// for them, and some is left for revocations.
#[tokio::test(flavor = "multi_thread")]
async fn records_of_released_results_do_not_use_up_the_reserve() {
    let Some(disk) = Disk::new("32m") else { return };
    let reserve = disk.path.join("kms.db-reserve");
    let config = disk.config().audit_ack(AuditAck::Queued).disk_space(8 << 20, 4 << 20);
    let kms = Kms::open(config).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    while !session.metrics().await.unwrap().storage.reserved {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The ledger waits for the lock, and results are released until the limit is reached.
    let mut other = SqliteConnection::connect(&format!("sqlite:{}", disk.path.join("kms.db").display())).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let context = Context::from([("filler", "x".repeat(1_900))]);
    let mut released = 0;
    while tokio::time::timeout(Duration::from_millis(500), session.encrypt("k", b"x", &context)).await.is_ok() {
        released += 1;
    }
    assert!(released > 100, "{released}");
    disk.stuff();
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    other.close().await.unwrap();
    session.revoke_key("k").await.unwrap();
    assert_eq!(std::fs::metadata(&reserve).unwrap().len(), 0);
    // One principal cannot use up the reserve with repeated revocations. Some is left for others.
    let greedy = kms.session(actor("greedy", Role::Admin));
    let mut taken = 0;
    let refused = loop {
        match greedy.revoke_key("k").await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 10_000, "one caller used up the reserve");
    };
    assert!(taken > 500, "{taken}: {refused}");
    let modest = kms.session(actor("modest", Role::Admin));
    for _ in 0..100 {
        modest.revoke_key("k").await.unwrap();
    }
    disk.unstuff();
    assert!(session.verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

/// The database's files are removed or replaced while the service runs. It stops instead of acknowledging lost changes.
#[tokio::test(flavor = "multi_thread")]
async fn files_removed_or_replaced_while_in_use() {
    // Another store, another state of the same store, no file, an empty file, and another kind of file.
    for replacement in ["other", "older", "nothing", "empty", "garbage"] {
        let place = Place::new();
        let kms = place.open().await;
        let session = admin(&kms);
        session.create_key(NewKey::aes("k")).await.unwrap();
        let older = place.folder.path().join("older.db");
        kms.session(actor("alice", Role::Admin)).backup(&older).await.unwrap();
        session.encrypt("k", b"x", &Context::new()).await.unwrap();
        let other = Place::new();
        let elsewhere = other.open().await;
        elsewhere.close().await.unwrap();

        for ending in ["", "-wal", "-shm"] {
            std::fs::remove_file(format!("{}{ending}", place.file().display())).unwrap();
        }
        match replacement {
            "other" => drop(std::fs::copy(other.file(), place.file()).unwrap()),
            "older" => drop(std::fs::copy(&older, place.file()).unwrap()),
            "empty" => std::fs::write(place.file(), b"").unwrap(),
            "garbage" => std::fs::write(place.file(), [42; 10_000]).unwrap(),
            _ => {}
        }
        // No operation is acknowledged that is only in a file without a name.
        let mut codes = Vec::new();
        for _ in 0..3 {
            codes.push(code(session.encrypt("k", b"x", &Context::new()).await));
        }
        assert!(
            codes.iter().all(|code| matches!(
                code,
                ErrorCode::StoreUnavailable | ErrorCode::IntegrityFailure | ErrorCode::StoreCorrupt
            )),
            "{replacement}: {codes:?}"
        );
        kms.close().await.unwrap();
        if replacement == "older" {
            // The file at the path is an independent store, which the running service did not write.
            let kms = place.open().await;
            check_usable(&kms).await;
            assert!(whole_log(&admin(&kms)).await.len() > 3);
            kms.close().await.unwrap();
        }
    }
}
