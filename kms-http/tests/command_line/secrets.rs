//! Tests of root keys and first tokens: where the program writes them, and which files it accepts.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use kms_lib::Timestamp;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{Server, json_output, program, stdout};

/// Without a terminal, standard output usually ends in the log of a container, which must not contain the token.
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
    assert!(stdout(&shown).contains("token       kms_"), "{shown:?}");
    let kept = std::fs::read_dir(home.path().join(".local/state/mini-kms")).unwrap();
    assert!(!kept.into_iter().any(|entry| entry.unwrap().file_name().to_str().unwrap().contains("first-token")));
}

#[test]
fn init_makes_a_key_and_a_token() {
    let home = TempDir::new().unwrap();
    let made = json_output(&program(&home).args(["--json", "init", "--principal", "root@example"]).output().unwrap());
    assert!(made["token"].as_str().unwrap().starts_with("kms_"));
    assert_eq!(made["credential"]["role"], "admin");
    assert_eq!(std::fs::metadata(made["rootKeyFile"].as_str().unwrap()).unwrap().mode() & 0o777, 0o600);
    assert!(made["credential"]["expiresAt"].is_string(), "for a day, unless asked otherwise");
    let lasting = json_output(&program(&home).args(["--json", "init", "--days", "0"]).output().unwrap());
    assert_eq!(lasting["credential"]["expiresAt"], Value::Null);
    // A second `init` makes another token, but keeps the root key.
    let again = json_output(&program(&home).args(["--json", "init"]).output().unwrap());
    assert_eq!(again["rootKeyFile"], Value::Null);
    std::fs::remove_file(home.path().join(".config/mini-kms/root.key")).unwrap();
    let lost = program(&home).arg("init").output().unwrap();
    assert_eq!(lost.status.code(), Some(3), "a new root key is not made for a store that has one: {lost:?}");
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
fn the_root_key_comes_from_a_file_that_is_named() {
    let home = TempDir::new().unwrap();
    let key = home.path().join("key");
    std::fs::write(&key, format!("hex:{}\n", "ab".repeat(32))).unwrap();
    let check = |mode: u32| {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        let mut command = program(&home);
        command.env("KMS_MASTER_KEY_FILE", &key).args(["--json", "config", "check"]).output().unwrap()
    };
    assert_eq!(json_output(&check(0o600))["master_key"], "RootKeySource(32 bytes, hidden)");
    assert_eq!(check(0o644).status.code(), Some(3));
    let mut other = program(&home);
    let other = other.envs([("KMS_STORE_URL", "mysql://kms@db/kms"), ("KMS_STORE_PASSWORD_FILE", "/none")]);
    let other = other.args(["config", "check"]).output().unwrap();
    assert_eq!(other.status.code(), Some(2), "{other:?}");
    assert!(String::from_utf8_lossy(&other.stderr).contains("store_password_file"), "{other:?}");
}

#[test]
fn an_incomplete_root_key_file_is_ignored() {
    let home = TempDir::new().unwrap();
    let folder = home.path().join(".config/mini-kms");
    std::fs::create_dir_all(&folder).unwrap();
    // A process that was killed while it wrote the key leaves such a file.
    std::fs::write(folder.join("root.key.1.new"), b"base64:AAAA").unwrap();
    json_output(&program(&home).args(["--json", "init"]).output().unwrap());
    let names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    stdout(&program(&home).arg("status").output().unwrap());
}

/// The commands run while the service runs.
#[tokio::test]
async fn a_root_key_is_replaced_on_the_command_line() {
    let folder = TempDir::new().unwrap();
    let next = folder.path().join("next.key");
    std::fs::write(&next, format!("hex:{}\n", "5a".repeat(32))).unwrap();
    std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o600)).unwrap();
    let server = Server::start_on_file(&[("KMS_MASTER_KEY_NEXT_FILE", next.to_str().unwrap())]);
    json_output(&server.command(&["--json", "key", "create", "users"]));
    let list = || json_output(&server.command(&["--json", "root-key", "list"]));
    assert_eq!(list().as_array().unwrap().len(), 1);
    assert_eq!(server.command(&["root-key", "retire", "1"]).status.code(), Some(1), "it is the only root key");
    assert_eq!(server.command(&["root-key", "verify"]).status.code(), Some(2));

    let tried = json_output(&server.command(&["--json", "root-key", "verify", "--planned"]));
    assert_eq!((tried["done"].as_u64(), tried["failed"].as_u64()), (Some(3), Some(0)));
    assert_eq!(json_output(&server.command(&["--json", "root-key", "add"]))["generation"], 2);
    assert_eq!(server.command(&["root-key", "add"]).status.code(), Some(1), "the root key was added before");
    let plan = json_output(&server.command(&["--json", "root-key", "rewrap", "--dry-run"]));
    assert_eq!((plan["materials"].as_u64(), plan["calls"][1]["wraps"].as_u64()), (Some(1), Some(1)));
    assert_eq!(server.command(&["root-key", "verify", "2"]).status.code(), Some(4), "one material has no new wrapping");
    assert!(stdout(&server.command(&["root-key", "rewrap"])).contains("wrapped 1 of 3"));
    assert!(stdout(&server.command(&["root-key", "verify", "2"])).contains("verified 3 of 3"));
    // The running service wraps new keys under the new root key too.
    let made = serde_json::json!({"name": "later", "type": "AES256_GCM", "purpose": "ENCRYPTION"});
    server.client().post("/v1/keys", made).await.expect(201);
    assert_eq!(server.command(&["root-key", "retire", "1"]).status.code(), Some(1), "one new wrapping is not verified");
    let leaked = server.command(&["root-key", "retire", "1", "--compromised"]);
    assert_eq!(leaked.status.code(), Some(1), "the service keys are not replaced yet");
    assert!(server.command(&["audit", "rotate-key"]).status.success());
    let replaced = json_output(&server.command(&["--json", "root-key", "replace-integrity-key"]));
    assert_eq!((replaced["number"].as_u64(), replaced["left"].as_u64()), (Some(2), Some(0)));
    let retired = json_output(&server.command(&["--json", "root-key", "retire", "1", "--verify-new"]));
    assert_eq!((retired["rootKey"]["state"].as_str(), retired["erased"].as_u64()), (Some("RETIRED"), Some(2)));
    let listed = list();
    assert_eq!((listed[0]["wrappings"].as_u64(), listed[1]["verified"].as_u64()), (Some(0), Some(4)));
    assert_eq!(json_output(&server.command(&["--json", "audit", "verify"]))["ok"], true);
}

/// Every command reads secrets: no command may leave a core dump, or a file that other users can read.
#[cfg(target_os = "linux")]
#[test]
fn commands_leave_no_core_dumps_and_no_readable_files() {
    let server = Server::start_on_file(&[]);
    let mut follow = program(&server.home);
    follow.args(["audit", "tail", "--follow"]).stdout(std::process::Stdio::piped());
    let mut follow = follow.spawn().unwrap();
    // The command has read the store when its first output arrives.
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
    stdout(&server.command(&["audit", "export", "--output", export.to_str().unwrap()]));
    assert_eq!(export.metadata().unwrap().mode() & 0o777, 0o600);
}
