//! Tests of `kms-http import mini-kms` with a real database of the original, and of the original's clients afterwards.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail by a panic, and says what it skips")]

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::{Server, json_output};
use kms_test_support::{MariaDb, Server as _};
use serde_json::value::RawValue;
use serde_json::{Value, json};

fn legacy(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/legacy").join(file);
    std::fs::read_to_string(path).unwrap()
}

/// The ciphertexts of the original, each member verbatim, because the order of names in `aad` matters.
fn ciphertexts() -> Vec<BTreeMap<String, Box<RawValue>>> {
    #[derive(serde::Deserialize)]
    struct Known {
        ciphertexts: Vec<BTreeMap<String, Box<RawValue>>>,
    }
    serde_json::from_str::<Known>(&legacy("clean.json")).unwrap().ciphertexts
}

/// Creates a file that only its owner can read.
fn secret_file(server: &Server, name: &str, text: &str) -> PathBuf {
    let path = server.home.path().join(name);
    std::fs::write(&path, format!("{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

#[tokio::test]
async fn clients_of_the_original_go_on() {
    let Some(database) = MariaDb::try_new(&[]) else {
        eprintln!("SKIPPED: MariaDB is not installed");
        return;
    };
    let url = database.create_database();
    let name = url.rsplit('/').next().unwrap().split('?').next().unwrap();
    let (dump, known) = (legacy("clean.sql"), serde_json::from_str::<Value>(&legacy("clean.json")).unwrap());
    // The grace windows in the dump end on a fixed day.
    database.sql(&format!(
        "USE {name}; SET FOREIGN_KEY_CHECKS = 0; {dump}; UPDATE key_versions \
         SET not_after = DATE_ADD(UTC_TIMESTAMP(), INTERVAL 7 DAY) WHERE state = 'DISABLED' AND not_after IS NOT NULL; \
         UPDATE key_versions SET state = 'DISABLED', not_after = NULL WHERE state = 'REVOKED'"
    ));
    // The password is in a file instead of the URL.
    let (url, password) = (url.replace(":kms-test@", "@"), "kms-test");
    let home = tempfile::TempDir::new().unwrap();
    let password_file = home.path().join("password");
    std::fs::write(&password_file, password).unwrap();
    std::fs::set_permissions(&password_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let server = Server::start_on_file(&[("KMS_IMPORT_PASSWORD_FILE", password_file.to_str().unwrap())]);
    let key_file = secret_file(&server, "old.key", known["masterKey"].as_str().unwrap());
    let wrong_file = secret_file(&server, "wrong.key", "not the secret of the original");
    let import = |key: &Path, more: &[&str]| {
        let key = key.to_str().unwrap();
        let arguments = ["--json", "import", "mini-kms", "--from", &url, "--master-key-file", key];
        server.command(&[&arguments, more].concat())
    };
    let wrong = import(&wrong_file, &[]);
    assert_eq!(wrong.status.code(), Some(3), "{wrong:?}");
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("WrongRootKey"), "{wrong:?}");
    let dry = json_output(&import(&key_file, &["--dry-run", "--rotate"]));
    assert_eq!((&dry["dryRun"], &dry["keys"]["imported"]), (&json!(true), &json!(5)));
    let report = json_output(&import(&key_file, &["--rotate"]));
    assert_eq!(
        (&report["keys"], &report["versions"], &report["grants"]),
        (&dry["keys"], &dry["versions"], &dry["grants"])
    );
    assert_eq!((&report["keysRotated"], &report["finalized"]), (&json!(4), &json!(false)));

    // The service is running, and clients send the requests that they sent to the original.
    let admin = server.client();
    let mut opened = 0;
    for it in ciphertexts() {
        let (mut sent, read) = (it.clone(), |name: &str| serde_json::from_str::<Value>(it[name].get()).unwrap());
        let (plaintext, version) = (read("plaintext"), read("version"));
        sent.retain(|name, _| name != "plaintext" && name != "keyType");
        let body = serde_json::to_string(&sent).unwrap();
        let answer = admin.post_raw("/v1/crypto/decrypt", body.clone()).await;
        assert_eq!(answer.expect(200), json!({"plaintext": plaintext, "version": version}), "{body}");
        let batch = admin.post_raw("/v1/crypto/decrypt", format!("{{\"items\": [{body}, {body}]}}")).await.expect(200);
        assert!(batch["results"].as_array().unwrap().iter().all(|one| one["plaintext"] == plaintext), "{batch}");
        // An RSA ciphertext has neither nonce nor tag, and empty ones count as absent. An AES ciphertext needs both.
        let mut empty: Value = serde_json::from_str(&body).unwrap();
        (empty["iv"], empty["authTag"]) = (json!(""), json!(""));
        let answer = admin.post("/v1/crypto/decrypt", empty).await;
        match read("keyType").as_str() {
            Some("RSA_2048") => assert_eq!(answer.expect(200)["plaintext"], plaintext),
            _ => drop(answer.refused(400, "InvalidCiphertext")),
        }
        opened += 1;
    }
    assert_eq!(opened, 8);
    for it in known["signatures"].as_array().unwrap() {
        assert_eq!(admin.post("/v1/crypto/verify", it.clone()).await.expect(200)["valid"], true, "{it}");
    }
    // New ciphertexts of these clients are in this service's format.
    let new =
        admin.post("/v1/crypto/encrypt", json!({"keyId": "aes256_gcm-1-0", "plaintext": "new"})).await.expect(200);
    let mut back = new.clone();
    back.as_object_mut().unwrap().remove("keyType");
    assert_eq!(admin.post("/v1/crypto/decrypt", back).await.expect(200)["plaintext"], "new");
    // Until the import is finalized, keys can only be changed in the source.
    admin.post("/v1/keys/aes256_gcm-1-0/rotate", json!({})).await.refused(409, "ImportOpen");
    // A grant whose row cannot be read keeps the import open, unless the operator allows an incomplete import.
    database.sql(&format!(
        "INSERT INTO {name}.grants SELECT 'x', 'svc-x', role, key_id, allowed_ops, NULL, created_at \
        FROM {name}.grants WHERE principal = 'svc-any' LIMIT 1"
    ));
    for (arguments, exit) in [
        (&["--finalize"][..], 1),
        (&["--allow-incomplete"], 2),
        (&["--aws-key", "my key"], 2),
        (&["--finalize", "--allow-incomplete", "--aws-key", "alias/old", "--dry-run"], 4),
    ] {
        assert_eq!(import(&key_file, arguments).status.code(), Some(exit), "{arguments:?}");
    }
    database.sql(&format!("DELETE FROM {name}.grants WHERE id = 'x'"));
    let report = json_output(&import(&key_file, &["--finalize"]));
    assert_eq!((&report["finalized"], &report["keys"]["unchanged"]), (&json!(true), &json!(5)));
    admin.post("/v1/keys/aes256_gcm-1-0/rotate", json!({})).await.expect(200);
    assert_eq!(import(&key_file, &[]).status.code(), Some(1), "the import is finalized");
    assert_eq!(json_output(&server.command(&["--json", "audit", "verify"]))["ok"], true);
}

#[tokio::test]
async fn additional_data_need_not_be_an_object_of_texts() {
    let server = Server::start_on_file(&[]);
    let admin = server.client();
    admin.aes_key("users").await;
    // A ciphertext of a key that was not imported: the library reports what is wrong, whatever else the request
    // contains.
    let (ciphertext, iv, tag) = ("AAAA", "AAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAA==");
    for aad in [json!(1e21), json!([1, {"b": 2}]), json!("text"), json!({"n": 1}), json!(null)] {
        let body = json!({"keyId": "users", "ciphertext": ciphertext, "iv": iv, "authTag": tag, "aad": aad});
        admin.post("/v1/crypto/decrypt", body).await.refused(400, "InvalidCiphertext");
    }
    let own = admin.post("/v1/crypto/encrypt", json!({"keyId": "users", "plaintext": "x"})).await.expect(200);
    let body = json!({"keyId": "users", "ciphertext": own["ciphertext"], "aad": {"n": 1}});
    let message = admin.post("/v1/crypto/decrypt", body).await.refused(400, "InvalidArgument");
    assert!(message.starts_with("aad"), "{message}");
}
