//! Stores on a read-only medium are read and verified, but never written.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::path::Path;
use std::process::Command;

use common::{Place, admin, code};
use kms_lib::{AuditQuery, Config, Context, ErrorCode, Kms, NewKey, Paging};
use tempfile::TempDir;

/// A folder that is mounted read-only until the value is dropped.
struct Medium(TempDir);

impl Medium {
    /// A medium with these files. None if mounting is not permitted.
    fn with(files: &[(&str, Vec<u8>)]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        if !run("mount", &["-t", "tmpfs", "-o", "size=64m", "tmpfs"], at) {
            eprintln!("SKIPPED: mounting is not permitted, so a read-only medium is not tested");
            return None;
        }
        let medium = Self(folder);
        for (name, bytes) in files {
            std::fs::write(medium.0.path().join(name), bytes).unwrap();
        }
        assert!(run("mount", &["-o", "remount,ro"], medium.0.path()));
        Some(medium)
    }
    fn config(&self) -> Config {
        Config::new(format!("sqlite:{}", self.0.path().join("kms.db").display())).root_key_bytes(common::ROOT_KEY)
    }
}

impl Drop for Medium {
    fn drop(&mut self) {
        run("umount", &["-l"], self.0.path());
    }
}

fn run(program: &str, arguments: &[&str], at: &Path) -> bool {
    let done = Command::new(program).args(arguments).arg(at).output();
    done.is_ok_and(|done| done.status.success())
}

fn files(place: &Place, endings: &[&str]) -> Vec<(&'static str, Vec<u8>)> {
    let all = [("", "kms.db"), ("-wal", "kms.db-wal"), ("-shm", "kms.db-shm")];
    let wanted = all.into_iter().filter(|(ending, _)| endings.contains(ending));
    wanted.map(|(ending, name)| (name, std::fs::read(format!("{}{ending}", place.file().display())).unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_on_a_read_only_medium_is_verified() {
    let place = Place::in_a_file();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    for _ in 0..20 {
        session.encrypt("k", b"x", &Context::new()).await.unwrap();
    }
    // A snapshot of a running machine includes a write-ahead log that was not moved into the file yet.
    let (with_index, with_log) = (files(&place, &["", "-wal", "-shm"]), files(&place, &["", "-wal"]));
    assert!(with_log[1].1.len() > 1_000);
    let size = session.verify_audit().await.unwrap().size;
    kms.close().await.unwrap();
    for files in [files(&place, &[""]), with_log, with_index] {
        let Some(medium) = Medium::with(&files) else { return };
        let config = medium.config();
        assert!(config.is_store_read_only());
        let kms = Kms::open_read_only(config).await.unwrap();
        let session = admin(&kms);
        let report = session.verify_audit().await.unwrap();
        assert!(report.ok, "{:?}", report.faults);
        // The file of the closed store also has the record of the verification above.
        let expected = if files.len() == 1 { size + 1 } else { size };
        assert_eq!(report.size, expected, "{} files", files.len());
        assert!(session.verify_audit_incrementally().await.unwrap().ok);
        assert_eq!(
            session.list_audit(&AuditQuery::new(), &Paging::default()).await.unwrap().items.len() as u64,
            expected
        );
        session.metrics().await.unwrap();
        session.get_key("k").await.unwrap();
        kms.telemetry().await.unwrap();
        assert_eq!(code(session.encrypt("k", b"x", &Context::new()).await), ErrorCode::StoreReadOnly);
        assert_eq!(code(kms.ready().await), ErrorCode::StoreReadOnly);
        kms.close().await.unwrap();
    }
    // An altered store is detected on a read-only medium too.
    place.tamper("UPDATE audit_logs SET actor = 'mallory' WHERE seq = 3").await;
    let Some(medium) = Medium::with(&files(&place, &[""])) else { return };
    let kms = Kms::open_read_only(medium.config()).await.unwrap();
    assert_eq!(admin(&kms).verify_audit().await.unwrap().broken_at, Some(3));
    kms.close().await.unwrap();
}

/// A file that cannot be written when the service starts is written as soon as it can be, without a restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_read_only_at_the_start_is_written_later() {
    let place = Place::in_a_file();
    let kms = place.open().await;
    admin(&kms).create_key(NewKey::aes("k")).await.unwrap();
    kms.close().await.unwrap();
    let file = place.file();
    let path = file.to_str().unwrap();
    if !run("mount", &["--bind", path], &file) {
        eprintln!("SKIPPED: mounting is not permitted, so a read-only file is not tested");
        return;
    }
    assert!(run("mount", &["-o", "remount,ro,bind"], &file));
    let kms = place.open().await;
    let refused = admin(&kms).encrypt("k", b"x", &Context::new()).await;
    assert!(run("umount", &["-l"], &file));
    assert_eq!(code(refused), ErrorCode::StoreReadOnly);
    admin(&kms).encrypt("k", b"x", &Context::new()).await.unwrap();
    common::check_usable(&kms).await;
    kms.close().await.unwrap();
}
