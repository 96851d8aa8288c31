//! Tests of commands on a store: beside a running service, with backups, tampered logs, read-only media, wrong clocks
//! and imported logs.

use kms_lib::{Actor, Clock, Config, Kms, Role, SchedulerConfig, Timestamp};
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use tempfile::TempDir;

use crate::common::{Server, json_output, program, stdout};

#[tokio::test]
async fn commands_work_beside_the_service_and_restore_a_backup() {
    let mut server = Server::start_on_file(&[]);
    let key_file = server.home.path().join(".config/mini-kms/root.key");
    assert_eq!(key_file.metadata().unwrap().mode() & 0o777, 0o600);
    // These commands run while the service runs.
    json_output(&server.command(&["--json", "key", "create", "users", "--rotation-days", "90"]));
    assert_eq!(json_output(&server.command(&["--json", "key", "rotate", "users"]))["currentVersion"], 2);
    let listed = json_output(&server.command(&["--json", "key", "list"]));
    assert_eq!(listed[0]["name"], "users");
    let made =
        json_output(&server.command(&["--json", "token", "create", "auditor", "--role", "auditor", "--days", "30"]));
    let auditor = server.client_with(made["token"].as_str());
    auditor.get("/v1/keys/users").await.expect(200);
    assert!(stdout(&server.command(&["token", "list"])).contains("auditor"));
    let id = made["credential"]["id"].as_str().unwrap();
    json_output(&server.command(&["--json", "token", "revoke", id]));
    auditor.get("/v1/keys/users").await.refused(401, "NotAuthenticated");
    assert_eq!(server.command(&["token", "revoke", id]).status.code(), Some(1));

    // SIGHUP reloads certificates. Without TLS, it does nothing.
    server.signal("-HUP");
    let status = json_output(&server.command(&["--json", "status"]));
    assert_eq!(status["ready"], true);
    server.client().get("/v1/keys/users").await.expect(200);
    assert_eq!(json_output(&server.command(&["--json", "audit", "verify"]))["ok"], true);
    let exported = stdout(&server.command(&["audit", "export"]));
    let lines = exported.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let records: Vec<Value> = lines.filter(|line| line.get("checkpoint").is_none()).collect();
    assert!(records.iter().zip(1..).all(|(record, seq)| record["seq"] == seq));
    let tail = stdout(&server.command(&["--json", "audit", "tail", "-n", "1"]));
    assert_eq!(serde_json::from_str::<Value>(&tail).unwrap(), *records.last().unwrap());
    let first_key = stdout(&server.command(&["audit", "public-key"]));
    let second_key = stdout(&server.command(&["audit", "rotate-key"]));
    assert_ne!(first_key, second_key);
    json_output(&server.command(&["--json", "audit", "verify", "--pinned-key", first_key.trim()]));

    // The backup is older than the revocation, and replaces the store.
    let backup = server.home.path().join("backup.db");
    let backup = backup.to_str().unwrap();
    json_output(&server.command(&["--json", "backup", backup]));
    server.client().post("/v1/keys/users/versions/1/revoke", json!({})).await.expect(200);
    let back = json_output(&server.command(&["--json", "restore", "--compare", backup]));
    assert_eq!(back["versions"], json!([["users", 1]]));
    let occupied = server.command(&["restore", backup]);
    assert_eq!(occupied.status.code(), Some(2), "{occupied:?}");
    assert!(server.stop().success());
    for suffix in ["", "-wal", "-shm", ".reserve"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", server.store().display()));
    }
    json_output(&server.command(&["--json", "restore", backup]));
    let noticed = server.command(&["status"]);
    assert_eq!(noticed.status.code(), Some(3), "{noticed:?}");
    assert!(String::from_utf8_lossy(&noticed.stderr).contains("RestoreDetected"));
    for acknowledged in [true, false] {
        let answer = json_output(&server.command(&["--json", "audit", "acknowledge-restore"]));
        assert_eq!(answer, json!({"acknowledged": acknowledged, "clock": false, "restore": acknowledged}));
    }
    server.restart();
    server.client().get("/v1/keys/users").await.expect(200);
}

#[test]
fn a_tampered_log_has_its_own_exit_code() {
    let mut server = Server::start_on_file(&[]);
    stdout(&server.command(&["key", "create", "users"]));
    assert!(server.stop().success());
    let altered = std::process::Command::new("python3")
        .arg("-c")
        .arg(
            "import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); \
             c.execute(\"update audit_logs set actor='mallory' where seq=2\"); c.commit()",
        )
        .arg(server.store())
        .status()
        .unwrap();
    assert!(altered.success());
    let verified = server.command(&["--json", "audit", "verify"]);
    assert_eq!(verified.status.code(), Some(4), "{verified:?}");
    let report: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!((&report["ok"], &report["brokenAt"]), (&json!(false), &json!(2)));
}

/// A folder that is mounted read-only over itself until the value is dropped.
struct ReadOnly(std::path::PathBuf);

impl ReadOnly {
    fn new(folder: &std::path::Path) -> Option<Self> {
        let mount = |arguments: &[&str]| {
            let done = std::process::Command::new("mount").args(arguments).arg(folder).output();
            done.is_ok_and(|done| done.status.success())
        };
        if !mount(&["--bind", folder.to_str()?]) {
            eprintln!("SKIPPED: mounting is not permitted, so a read-only medium is not tested");
            return None;
        }
        let mounted = Self(folder.to_owned());
        assert!(mount(&["-o", "remount,bind,ro"]));
        Some(mounted)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn commands_that_only_read_work_on_a_read_only_medium() {
    let mut server = Server::start_on_file(&[]);
    stdout(&server.command(&["key", "create", "users"]));
    assert!(server.stop().success());
    let Some(_medium) = ReadOnly::new(server.store().parent().unwrap()) else { return };
    let status = json_output(&server.command(&["--json", "status"]));
    assert_eq!((&status["readOnly"], &status["ready"]), (&json!(true), &json!(false)), "{status}");
    let report = json_output(&server.command(&["--json", "audit", "verify"]));
    assert_eq!((&report["ok"], &report["recorded"]), (&json!(true), &json!(false)), "{report}");
    assert!(stdout(&server.command(&["audit", "verify"])).contains("the store is read-only"));
    let again = json_output(&server.command(&["--json", "audit", "verify"]));
    assert_eq!(again["size"], report["size"]);
    for (command, expected) in
        [(&["key", "list"], "users"), (&["audit", "export"], "KEY_CREATE"), (&["token", "list"], "admin")]
    {
        assert!(stdout(&server.command(command)).contains(expected), "{command:?}");
    }
    for command in [&["key", "create", "other"][..], &["audit", "rotate-key"]] {
        assert_eq!(server.command(command).status.code(), Some(3), "{command:?}");
    }
}

/// Only `serve` and `init` create a store. Another command that finds no store fails.
#[test]
fn other_commands_create_no_store() {
    let home = TempDir::new().unwrap();
    json_output(&program(&home).args(["--json", "init"]).output().unwrap());
    let data = home.path().join(".local/share/mini-kms");
    let kept = home.path().join("kept");
    let backup = home.path().join("backup.db");
    let now = Timestamp::now().to_string();
    let commands: &[&[&str]] = &[
        &["status"],
        &["key", "list"],
        &["key", "create", "users"],
        &["token", "list"],
        &["audit", "verify"],
        &["audit", "acknowledge-restore"],
        &["audit", "acknowledge-clock", "--now", &now],
        &["backup", backup.to_str().unwrap()],
    ];
    std::fs::rename(&data, &kept).unwrap();
    for is_empty in [false, true] {
        if is_empty {
            std::fs::create_dir_all(&data).unwrap();
            std::fs::write(data.join("kms.db"), b"").unwrap();
        }
        for command in commands {
            let output = program(&home).args(*command).output().unwrap();
            assert_eq!(output.status.code(), Some(3), "{command:?}: {output:?}");
            assert!(String::from_utf8_lossy(&output.stderr).contains("there is no store at"), "{output:?}");
        }
        assert!(!backup.exists() && std::fs::metadata(data.join("kms.db")).map_or(0, |file| file.len()) == 0);
        // `init` creates no second store where the high-water mark names one.
        let again = program(&home).arg("init").output().unwrap();
        assert_eq!(again.status.code(), Some(3), "{again:?}");
        assert!(String::from_utf8_lossy(&again.stderr).contains("is missing"), "{again:?}");
    }
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&kept, &data).unwrap();
    stdout(&program(&home).arg("status").output().unwrap());
    // Another user works on the same store, but has no high-water mark to compare it with.
    let other = TempDir::new().unwrap();
    let store = format!("sqlite:{}", data.join("kms.db").display());
    let key = format!("file:{}", home.path().join(".config/mini-kms/root.key").display());
    let by_other = |command: &[&str]| {
        stdout(
            &program(&other)
                .args(command)
                .envs([("KMS_STORE_URL", &store), ("KMS_MASTER_KEY", &key)])
                .output()
                .unwrap(),
        )
    };
    assert!(by_other(&["audit", "acknowledge-restore"]).contains("a rollback cannot be detected"));
    assert!(by_other(&["audit", "acknowledge-restore"]).contains("nothing to acknowledge"));
    by_other(&["key", "create", "users"]);
}

#[tokio::test]
async fn a_clock_that_ran_ahead_is_acknowledged() {
    let mut server = Server::start_on_file(&[]);
    stdout(&server.command(&["key", "create", "users"]));
    let key = format!("file:{}", server.home.path().join(".config/mini-kms/root.key").display());
    let ahead = Timestamp::now().plus_days(26_000);
    let config = Config::new(format!("sqlite:{}", server.store().display()))
        .root_key(&key)
        .unwrap()
        .no_high_water()
        .clock(Clock::new(move || ahead));
    // The scheduler is disabled, because all its jobs would be due.
    let config = config.scheduler(SchedulerConfig::disabled());
    let kms = Kms::open(config).await.unwrap();
    kms.session(Actor::new("alice", Role::Admin).unwrap()).rotate_key("users", None).await.unwrap();
    kms.close().await.unwrap();

    let client = server.client();
    client.post("/v1/keys/users/rotate", json!({})).await.expect(503);
    let refused = server.command(&["status"]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("ClockSkew"), "{refused:?}");
    // The operator must state the current time.
    for now in ["1970-01-01T00:00:00Z", &ahead.to_string(), "soon", ""] {
        let refused = server.command(&["audit", "acknowledge-clock", "--now", now]);
        assert_eq!(refused.status.code(), Some(2), "{now}: {refused:?}");
    }
    assert_eq!(server.command(&["audit", "acknowledge-clock"]).status.code(), Some(2));
    let refused = server.command(&["audit", "acknowledge-restore"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("acknowledge-clock"), "{refused:?}");
    assert_eq!(server.command(&["status"]).status.code(), Some(3));
    let now = Timestamp::now().to_string();
    for acknowledged in [true, false] {
        let answer =
            json_output(&server.command(&["--json", "audit", "acknowledge-clock", "--now", &now, "--restore"]));
        assert_eq!(answer, json!({"acknowledged": acknowledged, "clock": acknowledged, "restore": false}));
    }
    // The running service continues without a restart.
    client.post("/v1/keys/users/rotate", json!({})).await.expect(200);
    stdout(&server.command(&["audit", "verify"]));
    let since = server.command(&["audit", "export", "--since", &now]);
    assert!(stdout(&since).contains("CLOCK_ACKNOWLEDGE"), "{since:?}");
    assert!(server.stop().success());
    server.restart();
    server.client().post("/v1/keys/users/rotate", json!({})).await.expect(200);
}

#[tokio::test]
async fn an_imported_log_is_listed_exported_and_verified() {
    let server = Server::start_on_file(&[]);
    let log = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/legacy/format0.json");
    let report = json_output(&server.command(&["--json", "import", "mini-kms", "--from", log]));
    assert_eq!((&report["log"]["rows"], &report["log"]["olderFormat"]), (&json!(15), &json!(15)));
    let shown = stdout(&server.command(&["import", "mini-kms", "--from", log, "--dry-run"]));
    assert!(shown.contains("old log     mini-kms: 15 rows, root "), "{shown}");

    let client = server.client();
    let first = client.get("/v1/audit/imported?limit=10").await;
    assert_eq!(first.headers["x-next-cursor"], "10");
    let mut rows = first.expect(200).as_array().unwrap().clone();
    let rest = client.get("/v1/audit/imported?source=mini-kms&limit=10&cursor=10").await;
    assert!(!rest.headers.contains_key("x-next-cursor"));
    rows.extend(rest.expect(200).as_array().unwrap().clone());
    let original: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(log).unwrap()).unwrap();
    assert_eq!(rows.len(), original.len());
    for (row, original) in rows.iter().zip(&original) {
        assert!(original.as_object().unwrap().iter().all(|(name, value)| row[name] == *value), "{row}");
    }
    let exported = stdout(&server.command(&["audit", "export", "--imported", "mini-kms"]));
    assert!(exported.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).eq(rows.iter().cloned()));

    let verified = client.post("/v1/audit/verify", json!({})).await.expect(200);
    assert_eq!((&verified["ok"], &verified["imported"][0]), (&json!(true), &report["log"]));
    assert!(verified["legacy"].as_array().unwrap().iter().eq(original.iter().map(|row| &row["id"])));
    assert!(stdout(&server.command(&["audit", "verify"])).contains("old log     mini-kms: 15 rows"));
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let home = TempDir::new().unwrap();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let made = program(&home).args(["--json", "init"]).stdout(full).output().unwrap();
    assert_eq!(made.status.code(), Some(1), "{made:?}");
}
