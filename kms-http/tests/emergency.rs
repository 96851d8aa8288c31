//! Tests of the command line in an emergency: keys, versions and grants without the service, errors for scripts, manual
//! pages and completions.

#![allow(clippy::unwrap_used)]

mod common;

use std::process::{Command, Output};

use common::{Server, json_output, program};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Returns the JSON error with which a command failed.
#[track_caller]
fn failed(output: &Output) -> (i32, Value) {
    let error: Value = serde_json::from_slice(&output.stderr).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    let code = output.status.code().unwrap();
    assert_eq!(error["exitCode"], code);
    assert!(!error["error"].as_str().unwrap().is_empty());
    (code, error["code"].clone())
}

#[tokio::test]
async fn keys_and_versions() {
    let server = Server::start_on_file(&[]);
    let json = |arguments: &[&str]| server.command(&[&["--json"], arguments].concat());
    json_output(&json(&["key", "create", "users"]));
    json_output(&json(&["key", "rotate", "users"]));
    for (command, state) in [("disable", "DISABLED"), ("disable", "DISABLED"), ("enable", "ENABLED")] {
        assert_eq!(json_output(&json(&["key", command, "users"]))["state"], state);
    }
    let admin = server.client();
    let encrypted = admin.post("/v1/crypto/encrypt", json!({"keyId": "users", "plaintext": "x"})).await.expect(200);
    json_output(&json(&["key", "disable", "users"]));
    let again = json!({"keyId": "users", "plaintext": "x"});
    admin.post("/v1/crypto/encrypt", again.clone()).await.refused(409, "KeyDisabled");
    json_output(&json(&["key", "enable", "users"]));
    json_output(&json(&["key", "revoke", "users", "--version", "1"]));
    let versions = json_output(&json(&["key", "versions", "users"]));
    assert_eq!((&versions[0]["state"], &versions[1]["state"]), (&json!("REVOKED"), &json!("ENABLED")));
    assert_eq!(versions[1]["encryptions"], 1);
    // Revoking is permanent, so the command must say whether the version or the whole key is meant.
    assert_eq!(json(&["key", "revoke", "users"]).status.code(), Some(2));
    assert_eq!(json(&["key", "revoke", "users", "--version", "1", "--whole-key"]).status.code(), Some(2));
    let deleted = json_output(&json(&["key", "schedule-deletion", "users", "--days", "7"]));
    assert_eq!(deleted["state"], "PENDING_DELETION");
    assert_eq!(failed(&json(&["key", "schedule-deletion", "users", "--days", "9"])), (1, json!("KeyPendingDeletion")));
    json_output(&json(&["key", "cancel-deletion", "users"]));
    assert_eq!(json_output(&json(&["key", "revoke", "users", "--whole-key"]))["state"], "REVOKED");
    let sealed = json!({"ciphertext": encrypted["ciphertext"], "keyId": "users"});
    admin.post("/v1/crypto/decrypt", sealed).await.refused(409, "KeyRevoked");
}

#[tokio::test]
async fn grants() {
    let server = Server::start_on_file(&[]);
    let json = |arguments: &[&str]| server.command(&[&["--json"], arguments].concat());
    json_output(&json(&["key", "create", "users"]));
    let shop = server.client().token_for("shop", "app").await;
    let encrypt = || async { shop.post("/v1/crypto/encrypt", json!({"keyId": "users", "plaintext": "x"})).await };
    encrypt().await.refused(403, "AccessDenied");
    let conditions = r#"{"notAfter": "2099-01-01T00:00:00Z"}"#;
    let put = &["grant", "put", "Shop", "--key", "users", "--allow", "encrypt,decrypt", "--conditions", conditions];
    let grant = json_output(&json(put));
    assert_eq!((&grant["principal"], &grant["grantedBy"]), (&json!("shop"), &json!("operator")));
    encrypt().await.expect(200);
    let listed = json_output(&json(&["grant", "list", "--principal", "SHOP", "--key", "users"]));
    assert_eq!(listed, json!([grant]));
    assert_eq!(json_output(&json(&["grant", "list", "--key", "*"])), json!([]));
    json_output(&json(&["grant", "withdraw", grant["id"].as_str().unwrap(), "--cascade"]));
    encrypt().await.refused(403, "AccessDenied");
    for wrong in [
        &["grant", "put", "shop", "--key", "users", "--allow", "everything"][..],
        &["grant", "put", "shop", "--key", "users", "--allow", "encrypt", "--conditions", r#"{"moon": "full"}"#],
        &["grant", "put", "shop", "--key", "users"],
    ] {
        assert_eq!(failed(&json(wrong)), (2, json!("InvalidArgument")), "{wrong:?}");
    }
}

#[test]
fn errors_are_json_for_scripts() {
    let server = Server::start_on_file(&[]);
    let json = |arguments: &[&str]| server.command(&[&["--json"], arguments].concat());
    assert_eq!(failed(&json(&["key", "rotate", "none"])), (1, json!("KeyNotFound")));
    assert_eq!(failed(&json(&["key", "explode"])), (2, json!("InvalidArgument")));
    assert_eq!(failed(&json(&["backup", "-"])), (2, json!("InvalidArgument")));
    assert_eq!(failed(&json(&["restore", "-"])), (2, json!("InvalidArgument")));
    assert!(!std::path::Path::new("-").exists());
    assert_eq!(failed(&json(&["--set", "queue=many", "config", "check"])), (2, json!("InvalidConfiguration")));
    let empty = TempDir::new().unwrap();
    let without = program(&empty).args(["--json", "status"]).output().unwrap();
    assert_eq!(failed(&without), (3, json!("InvalidRootKey")));
    // Without `--json` the error is one line of text.
    let said = server.command(&["key", "rotate", "none"]).stderr;
    assert!(String::from_utf8(said).unwrap().starts_with("kms-http: KeyNotFound"));
}

#[test]
fn no_home_is_needed_when_everything_is_given() {
    let folder = TempDir::new().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let store = format!("sqlite:{}", file("kms.db"));
    let given = [
        ("KMS_STORE_URL", store.as_str()),
        ("KMS_MASTER_KEY", "hex:0707070707070707070707070707070707070707070707070707070707070707"),
        ("KMS_HIGH_WATER", &file("high-water")),
    ];
    let run = |left_out: &str, arguments: &[&str]| {
        let mut command = program(&folder);
        command.env_remove("HOME").envs(given.into_iter().filter(|(name, _)| *name != left_out));
        command.args(arguments).output().unwrap()
    };
    assert!(run("", &["init"]).status.success());
    assert_eq!(json_output(&run("", &["--json", "key", "create", "a"]))["name"], "a");
    for (name, advice) in [
        ("KMS_STORE_URL", "--store-url"),
        ("KMS_MASTER_KEY", "--master-key-file"),
        ("KMS_HIGH_WATER", "KMS_HIGH_WATER"),
    ] {
        let refused = run(name, &["key", "list"]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{said}");
        assert!(said.contains("HOME") && said.contains(advice), "{said}");
    }
}

#[test]
fn manual_pages_and_completions() {
    let folder = TempDir::new().unwrap();
    // These commands need neither a home directory nor a store.
    let run = |arguments: &[&str]| {
        let done = program(&folder).env_remove("HOME").args(arguments).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    let pages = folder.path().join("man");
    assert_eq!(run(&["man", pages.to_str().unwrap()]), "");
    for page in ["kms-http.1", "kms-http-key-revoke.1", "kms-http-audit-export.1"] {
        let text = std::fs::read_to_string(pages.join(page)).unwrap();
        assert!(text.contains(".SH SYNOPSIS"), "{page}: {text}");
    }
    assert!(run(&["man"]).contains("Exit codes"));
    let script = folder.path().join("kms-http.bash");
    std::fs::write(&script, run(&["completions", "bash"])).unwrap();
    for (words, expected) in [("key rev", "revoke"), ("audit public-key --al", "--all")] {
        let (before, last) = words.rsplit_once(' ').unwrap();
        let complete = format!(
            "source \"$0\"; name=$(complete -p kms-http | sed 's/.*-F \\([^ ]*\\).*/\\1/'); \
             COMP_WORDS=(kms-http {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             $name kms-http {last} {before}; echo \"${{COMPREPLY[@]}}\"",
            before = before.rsplit(' ').next().unwrap(),
        );
        let completed = Command::new("bash").args(["-c", &complete]).arg(&script).output().unwrap();
        assert_eq!(String::from_utf8(completed.stdout).unwrap().trim(), expected, "{:?}", completed.stderr);
    }
    for shell in ["zsh", "fish"] {
        assert!(run(&["completions", shell]).contains("schedule-deletion"));
    }
}

/// Every command and every option has a help text that explains its purpose.
#[test]
fn every_command_has_its_help() {
    let folder = TempDir::new().unwrap();
    let help = |path: &[String]| {
        let shown = program(&folder).args(path).arg("--help").output().unwrap();
        assert!(shown.status.success(), "{shown:?}");
        String::from_utf8(shown.stdout).unwrap()
    };
    let mut open = vec![Vec::new()];
    let mut seen = 0;
    while let Some(path) = open.pop() {
        let text = help(&path);
        seen += 1;
        let about = text.lines().next().unwrap();
        assert!(about.len() > 10 && !about.starts_with("Usage"), "{path:?} has no description: {text}");
        let commands = text.split("\nCommands:\n").nth(1).map(|rest| rest.split("\n\n").next().unwrap());
        for line in commands.unwrap_or_default().lines() {
            let (name, about) = line.trim_start().split_once(' ').unwrap_or((line.trim_start(), ""));
            assert!(!about.trim().is_empty(), "{path:?} {name} has no description");
            if name != "help" {
                open.push([path.clone(), vec![name.to_owned()]].concat());
            }
        }
    }
    assert!(seen > 35, "{seen}");
}
