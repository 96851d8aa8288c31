//! Full and read-only disks, files removed or replaced underneath: requests fail closed, service resumes, nothing that
//! was acknowledged is lost.

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

/// A small file system. Root may write anything, so that only a file system can forbid it; where none can be mounted,
/// the tests that need one say so.
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
            eprintln!("SKIPPED: no file system can be mounted here, so a full disk is not tested");
        }
        mounted.then_some(Self { path, _folder: folder })
    }
    fn remount(&self, option: &str) {
        assert!(run("mount", &["-o", &format!("remount,{option}"), self.path.to_str().unwrap()]));
    }
    fn config(&self) -> Config {
        Config::new(format!("sqlite:{}", self.path.join("kms.db").display())).root_key_bytes([7; 32])
    }
    /// Leaves no room to anybody.
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

/// Encrypts until that fails.
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
    // Room is made: the service goes on, and nothing that was answered is lost.
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
async fn a_store_that_finds_no_room_at_first() {
    let Some(disk) = Disk::new("2m") else { return };
    disk.stuff();
    let error = Kms::open(disk.config()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::StoreFull, "{error}");
    disk.unstuff();
    let kms = Kms::open(disk.config()).await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// The reserve helps a process that begins on a disk that something else has filled.
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

/// Of two processes on one disk, one gives the reserve up: the other must not fill the room that this made.
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

/// Half a copy must not be taken for a backup.
#[tokio::test]
async fn a_backup_that_finds_no_room() {
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
    // Nor half a restore for a store.
    disk.stuff();
    assert_eq!(code(Kms::restore(&disk.config(), &to).await), ErrorCode::StoreFull);
    let mut left: Vec<_> = std::fs::read_dir(&disk.path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["backup.db", "stuffing"]);
    disk.unstuff();
    assert!(Kms::restore(&disk.config(), &to).await.unwrap().verification.ok);
}

/// The reserve is for what takes rights and keys away, in both ways of acknowledging.
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
        // Something else fills the disk, and then the service what is left of its own files.
        disk.stuff();
        // The service looks every second; until then, results might be released that find no room.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let full = fill(&session).await;
        assert_eq!(full.code(), ErrorCode::StoreFull, "{ack:?}: {full}");
        let state = session.metrics().await.unwrap().storage;
        assert!(state.low && !(state.full && state.reserved), "{state:?}");
        // Much is refused, nothing that takes away is.
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

        // A process that begins now, or a second one, knows that what room there is must not be used up.
        if ack == AuditAck::Durable {
            kms.close().await.unwrap();
            kms = Kms::open(disk.config().disk_space(8 << 20, 4 << 20)).await.unwrap();
            session = admin(&kms);
            assert_eq!(code(session.encrypt("k", b"x", &Context::new()).await), ErrorCode::StoreFull);
            session.revoke_key("off").await.unwrap();
        }

        // Room again: everything works, and the reserve comes back.
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

/// The disk is filled from one moment to the next, while results were released that the ledger has yet to write: they
/// find room in the reserve, and leave some of it to revocations.
#[tokio::test(flavor = "multi_thread")]
async fn released_results_do_not_use_up_the_reserve() {
    let Some(disk) = Disk::new("32m") else { return };
    let reserve = disk.path.join("kms.db-reserve");
    let config = disk.config().audit_ack(AuditAck::Queued).disk_space(8 << 20, 4 << 20);
    let kms = Kms::open(config).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    while !session.metrics().await.unwrap().storage.reserved {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The ledger waits for the lock, and results are released until as many wait as may.
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
    // One principal cannot use it up by taking away what is taken away already; others still find some of it.
    let greedy = kms.session(actor("greedy", Role::Admin));
    let mut taken = 0;
    let refused = loop {
        match greedy.revoke_key("k").await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 10_000, "the reserve is one caller's");
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

/// The database's files removed or replaced under a running service: it stops rather than acknowledge what is lost.
#[tokio::test(flavor = "multi_thread")]
async fn files_removed_or_replaced_underneath() {
    // Another store, another state of the same store, nothing, an empty file, something else.
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
        // Nothing is acknowledged that is only in a file without a name.
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
            // What is there now is a store of its own right, and was not touched by the other service.
            let kms = place.open().await;
            check_usable(&kms).await;
            assert!(whole_log(&admin(&kms)).await.len() > 3);
            kms.close().await.unwrap();
        }
    }
}
