//! The command line, on the program itself.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail by a panic, and says what it skips")]

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Output;

use common::{Server, program};
use kms_lib::{Actor, Clock, Config, Kms, Role, SchedulerConfig, Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;

#[track_caller]
fn out(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn parsed(output: &Output) -> Value {
    serde_json::from_str(&out(output)).unwrap()
}

#[tokio::test]
async fn the_life_of_a_store() {
    let mut server = Server::start_on_file(&[]);
    let key_file = server.home.path().join(".config/mini-kms/root.key");
    assert_eq!(key_file.metadata().unwrap().mode() & 0o777, 0o600);
    // While the service runs.
    parsed(&server.command(&["--json", "key", "create", "users", "--rotation-days", "90"]));
    assert_eq!(parsed(&server.command(&["--json", "key", "rotate", "users"]))["currentVersion"], 2);
    let listed = parsed(&server.command(&["--json", "key", "list"]));
    assert_eq!(listed[0]["name"], "users");
    let made = parsed(&server.command(&["--json", "token", "create", "auditor", "--role", "auditor", "--days", "30"]));
    let auditor = server.client_with(made["token"].as_str());
    auditor.get("/v1/keys/users").await.expect(200);
    assert!(out(&server.command(&["token", "list"])).contains("auditor"));
    let id = made["credential"]["id"].as_str().unwrap();
    parsed(&server.command(&["--json", "token", "revoke", id]));
    auditor.get("/v1/keys/users").await.refused(401, "NotAuthenticated");
    assert_eq!(server.command(&["token", "revoke", id]).status.code(), Some(1));

    // There are no certificates to be read again, and that is all.
    server.signal("-HUP");
    let status = parsed(&server.command(&["--json", "status"]));
    assert_eq!(status["ready"], true);
    server.client().get("/v1/keys/users").await.expect(200);
    assert_eq!(parsed(&server.command(&["--json", "audit", "verify"]))["ok"], true);
    let exported = out(&server.command(&["audit", "export"]));
    let lines = exported.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let records: Vec<Value> = lines.filter(|line| line.get("checkpoint").is_none()).collect();
    assert!(records.iter().zip(1..).all(|(record, seq)| record["seq"] == seq));
    let tail = out(&server.command(&["--json", "audit", "tail", "-n", "1"]));
    assert_eq!(serde_json::from_str::<Value>(&tail).unwrap(), *records.last().unwrap());
    let first_key = out(&server.command(&["audit", "public-key"]));
    let second_key = out(&server.command(&["audit", "rotate-key"]));
    assert_ne!(first_key, second_key);
    parsed(&server.command(&["--json", "audit", "verify", "--pinned-key", first_key.trim()]));

    // A backup, a revocation, and the backup put in the store's place.
    let backup = server.home.path().join("backup.db");
    let backup = backup.to_str().unwrap();
    parsed(&server.command(&["--json", "backup", backup]));
    server.client().post("/v1/keys/users/versions/1/revoke", json!({})).await.expect(200);
    let back = parsed(&server.command(&["--json", "restore", "--compare", backup]));
    assert_eq!(back["versions"], json!([["users", 1]]));
    let occupied = server.command(&["restore", backup]);
    assert_eq!(occupied.status.code(), Some(2), "{occupied:?}");
    assert!(server.stop().success());
    for suffix in ["", "-wal", "-shm", ".reserve"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", server.store().display()));
    }
    parsed(&server.command(&["--json", "restore", backup]));
    let noticed = server.command(&["status"]);
    assert_eq!(noticed.status.code(), Some(3), "{noticed:?}");
    assert!(String::from_utf8_lossy(&noticed.stderr).contains("RestoreDetected"));
    for acknowledged in [true, false] {
        let answer = parsed(&server.command(&["--json", "audit", "acknowledge-restore"]));
        assert_eq!(answer, json!({"acknowledged": acknowledged, "clock": false, "restore": acknowledged}));
    }
    server.restart();
    server.client().get("/v1/keys/users").await.expect(200);
}

#[test]
fn a_fault_in_the_log_has_its_own_exit_code() {
    let mut server = Server::start_on_file(&[]);
    out(&server.command(&["key", "create", "users"]));
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

/// What is written to standard output without a terminal is kept by the log of a container.
#[tokio::test]
async fn the_first_token_is_in_a_file_unless_there_is_a_terminal() {
    let server = Server::start_on_file(&[]);
    let state = server.home.path().join(".local/state/mini-kms");
    let files = std::fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path());
    let file = files.into_iter().find(|path| path.to_str().unwrap().contains("first-token")).unwrap();
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), server.admin);
    let log = std::fs::read_to_string(server.home.path().join("log")).unwrap();
    assert!(log.contains(file.to_str().unwrap()) && !log.contains(&server.admin), "{log}");
    let listed = server.client().get("/v1/tokens").await.expect(200);
    let end: Timestamp = listed[0]["expiresAt"].as_str().unwrap().parse().unwrap();
    assert!(end > Timestamp::now() && end <= Timestamp::now().plus_days(1));

    let home = TempDir::new().unwrap();
    let on_terminal = "import os, pty, sys\npid, fd = pty.fork()\nif pid == 0: os.execv(sys.argv[1], sys.argv[1:])\n\
                       said = b''\nwhile b'listening' not in said: said += os.read(fd, 4096)\nos.kill(pid, 15)\n\
                       os.waitpid(pid, 0)\nsys.stdout.buffer.write(said)\n";
    let mut command = std::process::Command::new("python3");
    command.args(["-c", on_terminal]).arg(program(&home).get_program()).args(["serve", "--listen", "127.0.0.1:0"]);
    let shown = command.env("HOME", home.path()).output().unwrap();
    assert!(out(&shown).contains("token       kms_"), "{shown:?}");
    let kept = std::fs::read_dir(home.path().join(".local/state/mini-kms")).unwrap();
    assert!(!kept.into_iter().any(|entry| entry.unwrap().file_name().to_str().unwrap().contains("first-token")));
}

/// A folder that is mounted over itself, read-only, until this is dropped.
struct ReadOnly(std::path::PathBuf);

impl ReadOnly {
    fn new(folder: &std::path::Path) -> Option<Self> {
        let mount = |arguments: &[&str]| {
            let done = std::process::Command::new("mount").args(arguments).arg(folder).output();
            done.is_ok_and(|done| done.status.success())
        };
        if !mount(&["--bind", folder.to_str()?]) {
            eprintln!("SKIPPED: a read-only medium needs the right to mount");
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
    out(&server.command(&["key", "create", "users"]));
    assert!(server.stop().success());
    let Some(_medium) = ReadOnly::new(server.store().parent().unwrap()) else { return };
    let status = parsed(&server.command(&["--json", "status"]));
    assert_eq!((&status["readOnly"], &status["ready"]), (&json!(true), &json!(false)), "{status}");
    let report = parsed(&server.command(&["--json", "audit", "verify"]));
    assert_eq!((&report["ok"], &report["recorded"]), (&json!(true), &json!(false)), "{report}");
    assert!(out(&server.command(&["audit", "verify"])).contains("the store is read-only"));
    let again = parsed(&server.command(&["--json", "audit", "verify"]));
    assert_eq!(again["size"], report["size"]);
    for (command, expected) in
        [(&["key", "list"], "users"), (&["audit", "export"], "KEY_CREATE"), (&["token", "list"], "admin")]
    {
        assert!(out(&server.command(command)).contains(expected), "{command:?}");
    }
    for command in [&["key", "create", "other"][..], &["audit", "rotate-key"]] {
        assert_eq!(server.command(command).status.code(), Some(3), "{command:?}");
    }
}

#[test]
fn init_makes_a_key_and_a_token() {
    let home = TempDir::new().unwrap();
    let made = parsed(&program(&home).args(["--json", "init", "--principal", "root@example"]).output().unwrap());
    assert!(made["token"].as_str().unwrap().starts_with("kms_"));
    assert_eq!(made["credential"]["role"], "admin");
    assert_eq!(std::fs::metadata(made["rootKeyFile"].as_str().unwrap()).unwrap().mode() & 0o777, 0o600);
    assert!(made["credential"]["expiresAt"].is_string(), "for a day, unless asked otherwise");
    let lasting = parsed(&program(&home).args(["--json", "init", "--days", "0"]).output().unwrap());
    assert_eq!(lasting["credential"]["expiresAt"], Value::Null);
    // Another token, but not another key.
    let again = parsed(&program(&home).args(["--json", "init"]).output().unwrap());
    assert_eq!(again["rootKeyFile"], Value::Null);
    std::fs::remove_file(home.path().join(".config/mini-kms/root.key")).unwrap();
    let lost = program(&home).arg("init").output().unwrap();
    assert_eq!(lost.status.code(), Some(3), "a new root key is not made for a store that has one: {lost:?}");
}

#[test]
fn configuration_by_file_environment_and_flags() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("kms.toml");
    std::fs::write(
        &file,
        "master_key = 'passphrase:correct horse battery staple'\nstore_url = 'sqlite:file.db'\ngrace_days = 1\n\
         [http]\nlisten = '127.0.0.1:1'\nconnections = 10\nqueue = 7\n[http.token]\nprefix = 'a:'\n",
    )
    .unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let check = |variables: &[(&str, &str)], flags: &[&str]| {
        let mut command = program(&home);
        command.arg("--config").arg(&file).args(flags).envs(variables.iter().copied());
        command.args(["--json", "config", "check"]).output().unwrap()
    };
    let variables = [
        ("KMS_HTTP_CONNECTIONS", "20"),
        ("KMS_GRACE_DAYS", "2"),
        // What Kubernetes injects for Services called `kms`, `kms-http` and `db`, and what platforms say of ports.
        ("KMS_SERVICE_HOST", "10.96.0.17"),
        ("KMS_PORT", "tcp://10.96.0.17:8080"),
        ("KMS_PORT_8080_TCP_ADDR", "10.96.0.17"),
        ("KMS_HTTP_SERVICE_HOST", "10.96.0.18"),
        ("KMS_HTTP_SERVICE_PORT_HTTP", "8080"),
        ("KMS_HTTP_PORT", "tcp://10.96.0.18:8080"),
        ("KMS_HTTP_PORT_8080_TCP_PROTO", "tcp"),
        ("DB_PORT", "tcp://10.96.0.19:3306"),
        ("PORT", "80"),
    ];
    let shown = parsed(&check(&variables, &["--set", "connections=30"]));
    for (name, value) in [
        ("http.listen", "127.0.0.1:1"),
        ("http.queue", "7"),
        ("http.token.prefix", "a:"),
        ("http.connections", "30"),
        ("grace_days", "2"),
        ("store_url", "sqlite:file.db"),
        ("master_key", "RootKeySource(passphrase, hidden)"),
    ] {
        assert_eq!(shown[name], value, "{name}");
    }
    for (variables, flags, what) in [
        (&[("DB_HOST", "db")][..], &[][..], "KMS_STORE_URL"),
        (&[("KMS_HTTP_PORT", "80")], &[], "KMS_HTTP_PORT"),
        (&[("KMS_HTTP_LISTEM", "x")], &[], "KMS_HTTP_LISTEM"),
        (&[("KMS_STOR_URL", "x")], &[], "KMS_STOR_URL"),
        (&[("KMS_HTTP_AUTH", "")], &[], "nobody could be let in"),
        (&[("KMS_HTTP_AUTH", "password")], &[], "password"),
        (&[("KMS_HTTP_CORS_ORIGINS", "example.com")], &[], "origin"),
        (&[("KMS_HTTP_OIDC_ADMIN_VALUES", "Acme, Inc.")], &[], "TOML array"),
        (&[], &["--set", "queue=many"], "whole number"),
        (&[], &["--set", "auth=token,trusted_headers"], "http.trusted_headers.prefix"),
        (
            &[("KMS_HTTP_TOKEN_PREFIX", "a:"), ("KMS_HTTP_TRUSTED_HEADERS_PREFIX", "A:b:")],
            &["--set", "auth=token,trusted_headers"],
            "must differ",
        ),
        (&[], &["--set", "auth=trusted_headers", "--set", "cors_origins=*"], "every page"),
        (&[], &["--set", "colour=red"], "http.colour"),
        (&[], &["--set", "unix_socket_mode=rw"], "octal"),
        #[cfg(not(feature = "otlp"))]
        (&[("KMS_HTTP_OTLP_ENDPOINT", "https://collector:4318")], &[], "feature otlp"),
    ] {
        let refused = check(variables, flags);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let message = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(message.contains(what) && !message.contains("battery"), "{message}");
    }
    // A secret in a file that others may read is none.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refused = check(&[], &[]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(message.contains("0600") && !message.contains("battery"), "{message}");
}

/// Every command reads secrets, so none leaves its memory to others; nor what it writes.
#[cfg(target_os = "linux")]
#[test]
fn commands_are_hardened_as_the_service_is() {
    let server = Server::start_on_file(&[]);
    let mut follow = program(&server.home);
    follow.args(["audit", "tail", "--follow"]).stdout(std::process::Stdio::piped());
    let mut follow = follow.spawn().unwrap();
    // It has read the store when it says something.
    let mut said = [0];
    std::io::Read::read_exact(follow.stdout.as_mut().unwrap(), &mut said).unwrap();
    for process in [follow.id(), server.process.id()] {
        let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().filter(|part| *part == "0").count(), 2, "{core}");
    }
    follow.kill().unwrap();
    follow.wait().unwrap();

    let export = server.home.path().join("export.jsonl");
    out(&server.command(&["audit", "export", "--output", export.to_str().unwrap()]));
    assert_eq!(export.metadata().unwrap().mode() & 0o777, 0o600);
}

#[test]
fn the_root_key_comes_from_a_file_that_is_named() {
    let home = TempDir::new().unwrap();
    let key = home.path().join("key");
    std::fs::write(&key, format!("hex:{}\n", "ab".repeat(32))).unwrap();
    let check = |mode: u32| {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        let mut command = program(&home);
        command.env("KMS_MASTER_KEY_FILE", &key).args(["--json", "config", "check"]).output().unwrap()
    };
    assert_eq!(parsed(&check(0o600))["master_key"], "RootKeySource(32 bytes, hidden)");
    assert_eq!(check(0o644).status.code(), Some(3));
    let mut other = program(&home);
    let other = other.envs([("KMS_STORE_URL", "mysql://kms@db/kms"), ("KMS_STORE_PASSWORD_FILE", "/none")]);
    let other = other.args(["config", "check"]).output().unwrap();
    assert_eq!(other.status.code(), Some(2), "{other:?}");
    assert!(String::from_utf8_lossy(&other.stderr).contains("store_password_file"), "{other:?}");
}

#[test]
fn a_start_that_failed_does_not_cost_the_first_token() {
    let home = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    assert_eq!(program(&home).args(["serve", "--listen", &listen]).output().unwrap().status.code(), Some(2));
    let server = Server::start_in(home, &[]);
    assert!(server.admin.starts_with("kms_"));
}

#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_written_is_no_success() {
    let home = TempDir::new().unwrap();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let made = program(&home).args(["--json", "init"]).stdout(full).output().unwrap();
    assert_eq!(made.status.code(), Some(1), "{made:?}");
}

#[test]
fn what_could_not_be_served_is_found_by_checking() {
    let home = TempDir::new().unwrap();
    for set in ["log=foo=bar=baz", "tls.certificate_file=/none.pem", "oidc.issuer=http://example.com"] {
        let mut command = program(&home);
        if set.starts_with("oidc") {
            command.args(["--set", "auth=oidc", "--set", "oidc.audiences=kms"]);
        }
        if set.starts_with("tls") {
            command.args(["--set", "tls.key_file=/none.pem"]);
        }
        let checked = command.args(["--set", set, "config", "check"]).output().unwrap();
        assert_eq!(checked.status.code(), Some(2), "{set}: {checked:?}");
    }
}

/// Only `serve` and `init` make a store: a command that found none must not pass for a success.
#[test]
fn other_commands_make_no_store() {
    let home = TempDir::new().unwrap();
    parsed(&program(&home).args(["--json", "init"]).output().unwrap());
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
        // Nor does a start make another one in the place of one that was noted.
        let again = program(&home).arg("init").output().unwrap();
        assert_eq!(again.status.code(), Some(3), "{again:?}");
        assert!(String::from_utf8_lossy(&again.stderr).contains("is missing"), "{again:?}");
    }
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&kept, &data).unwrap();
    out(&program(&home).arg("status").output().unwrap());
    // Another user, who has no folder for what is noted, works on the same store and has nothing to compare it with.
    let other = TempDir::new().unwrap();
    let store = format!("sqlite:{}", data.join("kms.db").display());
    let key = format!("file:{}", home.path().join(".config/mini-kms/root.key").display());
    let by_other = |command: &[&str]| {
        out(&program(&other)
            .args(command)
            .envs([("KMS_STORE_URL", &store), ("KMS_MASTER_KEY", &key)])
            .output()
            .unwrap())
    };
    assert!(by_other(&["audit", "acknowledge-restore"]).contains("nothing known"));
    assert!(by_other(&["audit", "acknowledge-restore"]).contains("nothing to acknowledge"));
    by_other(&["key", "create", "users"]);
}

#[tokio::test]
async fn a_clock_that_was_ahead_is_acknowledged() {
    let mut server = Server::start_on_file(&[]);
    out(&server.command(&["key", "create", "users"]));
    let key = format!("file:{}", server.home.path().join(".config/mini-kms/root.key").display());
    let ahead = Timestamp::now().plus_days(26_000);
    let config = Config::new(format!("sqlite:{}", server.store().display()))
        .root_key(&key)
        .unwrap()
        .no_high_water()
        .clock(Clock::new(move || ahead));
    // The scheduler does not run: its dates have all come.
    let config = config.scheduler(SchedulerConfig::disabled());
    let kms = Kms::open(config).await.unwrap();
    kms.session(Actor::new("alice", Role::Admin).unwrap()).rotate_key("users", None).await.unwrap();
    kms.close().await.unwrap();

    let client = server.client();
    client.post("/v1/keys/users/rotate", json!({})).await.expect(503);
    let refused = server.command(&["status"]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("ClockSkew"), "{refused:?}");
    // Nobody who does not know the time.
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
        let answer = parsed(&server.command(&["--json", "audit", "acknowledge-clock", "--now", &now, "--restore"]));
        assert_eq!(answer, json!({"acknowledged": acknowledged, "clock": acknowledged, "restore": false}));
    }
    // The service that runs goes on by itself.
    client.post("/v1/keys/users/rotate", json!({})).await.expect(200);
    out(&server.command(&["audit", "verify"]));
    let since = server.command(&["audit", "export", "--since", &now]);
    assert!(out(&since).contains("CLOCK_ACKNOWLEDGE"), "{since:?}");
    assert!(server.stop().success());
    server.restart();
    server.client().post("/v1/keys/users/rotate", json!({})).await.expect(200);
}

#[test]
fn half_a_root_key_is_not_taken_for_one() {
    let home = TempDir::new().unwrap();
    let folder = home.path().join(".config/mini-kms");
    std::fs::create_dir_all(&folder).unwrap();
    // Left of one that was killed while it wrote: not taken for a key.
    std::fs::write(folder.join("root.key.1.new"), b"base64:AAAA").unwrap();
    parsed(&program(&home).args(["--json", "init"]).output().unwrap());
    let names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    out(&program(&home).arg("status").output().unwrap());
}

/// A root key is replaced on the command line, while the service runs.
#[tokio::test]
async fn a_root_key_is_replaced() {
    let folder = TempDir::new().unwrap();
    let next = folder.path().join("next.key");
    std::fs::write(&next, format!("hex:{}\n", "5a".repeat(32))).unwrap();
    std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o600)).unwrap();
    let server = Server::start_on_file(&[("KMS_MASTER_KEY_NEXT_FILE", next.to_str().unwrap())]);
    parsed(&server.command(&["--json", "key", "create", "users"]));
    let list = || parsed(&server.command(&["--json", "root-key", "list"]));
    assert_eq!(list().as_array().unwrap().len(), 1);
    assert_eq!(server.command(&["root-key", "retire", "1"]).status.code(), Some(1), "the last one");
    assert_eq!(server.command(&["root-key", "verify"]).status.code(), Some(2));

    let tried = parsed(&server.command(&["--json", "root-key", "verify", "--planned"]));
    assert_eq!((tried["done"].as_u64(), tried["failed"].as_u64()), (Some(3), Some(0)));
    assert_eq!(parsed(&server.command(&["--json", "root-key", "add"]))["generation"], 2);
    assert_eq!(server.command(&["root-key", "add"]).status.code(), Some(1), "twice");
    let plan = parsed(&server.command(&["--json", "root-key", "rewrap", "--dry-run"]));
    assert_eq!((plan["materials"].as_u64(), plan["calls"][1]["wraps"].as_u64()), (Some(1), Some(1)));
    assert_eq!(server.command(&["root-key", "verify", "2"]).status.code(), Some(4), "one is missing");
    assert!(out(&server.command(&["root-key", "rewrap"])).contains("wrapped 1 of 3"));
    assert!(out(&server.command(&["root-key", "verify", "2"])).contains("verified 3 of 3"));
    // The running service has learnt of the new key.
    let made = serde_json::json!({"name": "later", "type": "AES256_GCM", "purpose": "ENCRYPTION"});
    server.client().post("/v1/keys", made).await.expect(201);
    assert_eq!(server.command(&["root-key", "retire", "1"]).status.code(), Some(1), "one is not verified");
    let leaked = server.command(&["root-key", "retire", "1", "--compromised"]);
    assert_eq!(leaked.status.code(), Some(1), "the keys of the service may have leaked");
    assert!(server.command(&["audit", "rotate-key"]).status.success());
    let replaced = parsed(&server.command(&["--json", "root-key", "replace-integrity-key"]));
    assert_eq!((replaced["number"].as_u64(), replaced["left"].as_u64()), (Some(2), Some(0)));
    let retired = parsed(&server.command(&["--json", "root-key", "retire", "1", "--verify-new"]));
    assert_eq!((retired["rootKey"]["state"].as_str(), retired["erased"].as_u64()), (Some("RETIRED"), Some(2)));
    let listed = list();
    assert_eq!((listed[0]["wrappings"].as_u64(), listed[1]["verified"].as_u64()), (Some(0), Some(4)));
    assert_eq!(parsed(&server.command(&["--json", "audit", "verify"]))["ok"], true);
}

#[tokio::test]
async fn an_imported_log_is_listed_exported_and_verified() {
    let server = Server::start_on_file(&[]);
    let log = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/legacy/format0.json");
    let report = parsed(&server.command(&["--json", "import", "mini-kms", "--from", log]));
    assert_eq!((&report["log"]["rows"], &report["log"]["olderFormat"]), (&json!(15), &json!(15)));
    let shown = out(&server.command(&["import", "mini-kms", "--from", log, "--dry-run"]));
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
    let exported = out(&server.command(&["audit", "export", "--imported", "mini-kms"]));
    assert!(exported.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).eq(rows.iter().cloned()));

    let verified = client.post("/v1/audit/verify", json!({})).await.expect(200);
    assert_eq!((&verified["ok"], &verified["imported"][0]), (&json!(true), &report["log"]));
    assert!(verified["legacy"].as_array().unwrap().iter().eq(original.iter().map(|row| &row["id"])));
    assert!(out(&server.command(&["audit", "verify"])).contains("old log     mini-kms: 15 rows"));
}
