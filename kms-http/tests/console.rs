//! The HTTP contract as the console of Mini KMS on Node uses it, and lists that are longer than a page.

#![allow(clippy::unwrap_used, reason = "a test may fail by a panic")]

mod common;

use common::{Client, Server};
use kms_lib::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const CONSOLE: &str = "https://console.example";

/// A request as a browser sends it for the console's page.
async fn post(client: &Client, path: &str, body: &Value) -> common::Answer {
    let request = client.request(Method::POST, path).header("origin", CONSOLE).header("sec-fetch-site", "cross-site");
    Client::send(request.json(body)).await
}

#[tokio::test]
async fn the_console_works_on_keys() {
    let server = Server::start(&[("KMS_HTTP_CORS_ORIGINS", CONSOLE)]);
    let admin = server.client();
    for emptied in [json!(0), Value::Null] {
        let name = format!("period {emptied}");
        let new = json!({
            "name": name, "type": "AES256_GCM", "purpose": "ENCRYPTION", "rotationPeriodDays": emptied, "metadata": {},
        });
        let made = post(&admin, "/v1/keys", &new).await;
        let key = made.expect(201);
        assert!(key.get("rotationPeriodDays").is_none(), "{key}");
        assert_eq!(made.headers["location"], format!("/v1/keys/{}", key["id"].as_str().unwrap()));
        let period = admin.patch(&format!("/v1/keys/{name}"), json!({"rotationPeriodDays": 7})).await.expect(200);
        assert_eq!(period["rotationPeriodDays"], 7);
        let period = admin.patch(&format!("/v1/keys/{name}"), json!({"rotationPeriodDays": emptied})).await.expect(200);
        assert!(period.get("rotationPeriodDays").is_none(), "{period}");
    }
    let id = admin.aes_key("users").await["id"].as_str().unwrap().to_owned();
    for version in 2..=3 {
        let rotated = post(&admin, &format!("/v1/keys/{id}/rotate"), &json!({})).await.expect(200);
        let versions = rotated["versions"].as_array().unwrap().iter().map(|v| v["version"].as_u64().unwrap());
        assert_eq!(versions.collect::<Vec<_>>(), (1..=version).collect::<Vec<_>>(), "oldest first");
        assert!(rotated.get("versionsTruncated").is_none());
    }
    transitions_repeat(&admin, &id).await;
    let grant = json!({"principal": "shop", "role": "app", "keyId": id, "allowedOps": ["", "encrypt", ""]});
    let made = post(&admin, "/v1/grants", &grant).await.expect(201);
    assert_eq!(made["allowedOps"], json!(["encrypt"]));
    let empty = json!({"principal": "shop", "role": "app", "keyId": id, "allowedOps": [""]});
    post(&admin, "/v1/grants", &empty).await.refused(400, "InvalidArgument");
}

/// Transitions can be repeated; the key has three versions.
async fn transitions_repeat(admin: &Client, id: &str) {
    let version = |key: &Value, n: usize| key["versions"][n - 1].clone();
    for _ in 0..2 {
        let disabled = post(admin, &format!("/v1/keys/{id}/versions/1/disable"), &json!({})).await.expect(200);
        assert_eq!(version(&disabled, 1)["state"], "DISABLED");
    }
    let revoke = async || post(admin, &format!("/v1/keys/{id}/versions/1/revoke"), &json!({})).await.expect(200);
    let (first, second) = (revoke().await, revoke().await);
    assert_eq!(version(&first, 1)["state"], "REVOKED");
    let end: Timestamp = version(&first, 1)["notAfter"].as_str().unwrap().parse().unwrap();
    assert!(end <= Timestamp::now());
    assert_eq!(version(&first, 1), version(&second, 1));
    let path = format!("/v1/keys/{id}/versions/1/disable");
    post(admin, &path, &json!({})).await.refused(409, "VersionRevoked");

    for (action, state) in [("disable", "DISABLED"), ("revoke", "REVOKED")] {
        for _ in 0..2 {
            let key = post(admin, &format!("/v1/keys/{id}/{action}"), &json!({})).await.expect(200);
            assert_eq!(key["state"], state);
        }
    }
    let all = admin.get(&format!("/v1/keys/{id}")).await.expect(200)["versions"].clone();
    assert!(all.as_array().unwrap().iter().all(|version| version["state"] == "REVOKED"), "{all}");
    assert_eq!(admin.get(&format!("/v1/keys/{id}/versions")).await.expect(200), all);
    assert_eq!(admin.get(&format!("/v1/keys/{id}/versions/3")).await.expect(200), all[2]);
}

#[tokio::test]
async fn an_app_that_may_read_all_keys_sees_the_metrics() {
    let server = Server::start(&[]);
    let admin = server.client();
    let key = admin.aes_key("users").await;
    let app = admin.token_for("console", "app").await;
    let allow = async |scope: &Value| {
        let grant = json!({"principal": "console", "role": "app", "keyId": scope, "allowedOps": ["read"]});
        admin.post("/v1/grants", grant).await.expect(201);
    };
    app.get("/v1/ops/metrics").await.refused(403, "AccessDenied");
    allow(&key["id"]).await;
    app.get("/v1/ops/metrics").await.refused(403, "AccessDenied");
    allow(&json!("*")).await;
    let metrics = app.get("/v1/ops/metrics").await.expect(200);
    assert_eq!(metrics["keys"]["total"], 1);
    assert_eq!(
        (&metrics["audit"]["failuresLast24h"], &metrics["audit"]["failedOperationsLast24h"]),
        (&json!(0), &json!(2))
    );
    app.post("/v1/audit/verify", json!({})).await.refused(403, "AccessDenied");
    let metrics = admin.get("/v1/ops/metrics").await.expect(200);
    assert_eq!(
        (&metrics["audit"]["failuresLast24h"], &metrics["audit"]["failedOperationsLast24h"]),
        (&json!(1), &json!(3))
    );
}

/// Creates `count` keys with `metadata` bytes of metadata each.
async fn make_keys(admin: &Client, count: usize, metadata: usize) {
    let makers: Vec<_> = (0..8)
        .map(|maker| {
            let admin = admin.clone();
            tokio::spawn(async move {
                for n in (maker..count).step_by(8) {
                    let metadata = json!({"text": "x".repeat(metadata)});
                    let new = json!({
                        "name": format!("key {n:05}"), "type": "AES256_GCM", "purpose": "ENCRYPTION",
                        "metadata": metadata,
                    });
                    admin.post("/v1/keys", new).await.expect(201);
                }
            })
        })
        .collect();
    for maker in makers {
        maker.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_keys_is_complete() {
    let server = Server::start(&[]);
    let admin = server.client();
    assert_eq!(admin.get("/v1/keys").await.expect(200), json!([]));
    make_keys(&admin, 1_100, 0).await;
    let all = admin.get("/v1/keys").await;
    assert!(!all.headers.contains_key("x-next-cursor"));
    let names: Vec<String> =
        all.expect(200).as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, (0..1_100).map(|n| format!("key {n:05}")).collect::<Vec<_>>());
    let page = admin.get("/v1/keys?limit=1000").await;
    assert_eq!(page.expect(200).as_array().unwrap().len(), 1_000);
    let rest = format!("/v1/keys?cursor={}", page.headers["x-next-cursor"].to_str().unwrap());
    assert_eq!(admin.get(&rest).await.expect(200).as_array().unwrap().len(), 100);
    assert_eq!(admin.get("/v1/keys?state=DISABLED").await.expect(200), json!([]));
    let app = admin.token_for("app", "app").await;
    assert_eq!(app.get("/v1/keys").await.expect(200), json!([]), "only what the caller may read");
}

/// A truncated list must not look like a complete one.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_fails_on_its_way_ends_the_connection() {
    let server = Server::start(&[]);
    let admin = server.client();
    make_keys(&admin, 1_000, 15_000).await;
    let made = admin.post("/v1/tokens", json!({"principal": "reader", "role": "auditor"})).await.expect(201);
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(server.url.trim_start_matches("http://").parse().unwrap()).await.unwrap();
    let head = format!(
        "GET /v1/keys HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
        made["token"].as_str().unwrap()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 1_000];
    stream.read_exact(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    admin.delete(&format!("/v1/tokens/{}", made["credential"]["id"].as_str().unwrap())).await.expect(204);
    // The connection is closed or reset, in any case without the last chunk.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.len() < 15_000_000, "{} bytes", answer.len());
    assert!(!answer.ends_with(b"0\r\n\r\n"), "the answer looks whole");
    // Other callers still get the whole list.
    assert_eq!(admin.get("/v1/keys").await.expect(200).as_array().unwrap().len(), 1_000);
}

#[tokio::test]
async fn versions_grants_and_records_are_found() {
    let server = Server::start(&[]);
    let admin = server.client();
    let key = admin.rsa_key("invoices", "SIGNING").await;
    for _ in 0..3 {
        admin.post("/v1/keys/invoices/rotate", json!({})).await.expect(200);
    }
    let whole = admin.get("/v1/keys/invoices").await.expect(200);
    let first = admin.get("/v1/keys/invoices/versions?limit=3").await;
    let mut versions = first.expect(200).as_array().unwrap().clone();
    let next = first.headers["x-next-cursor"].to_str().unwrap().to_owned();
    let last = admin.get(&format!("/v1/keys/invoices/versions?limit=3&cursor={next}")).await;
    assert!(!last.headers.contains_key("x-next-cursor"));
    versions.extend(last.expect(200).as_array().unwrap().clone());
    assert_eq!(json!(versions), whole["versions"]);
    for version in &versions {
        let path = format!("/v1/keys/invoices/versions/{}", version["version"]);
        assert_eq!(admin.get(&path).await.expect(200), *version);
        assert!(version["publicKeyPem"].is_string());
    }
    admin.get("/v1/keys/invoices/versions/9").await.refused(404, "VersionNotFound");
    admin.get("/v1/keys/nothing/versions").await.refused(404, "KeyNotFound");
    admin.get("/v1/keys/invoices/versions?limit=0").await.refused(400, "InvalidArgument");
    let app = admin.token_for("app", "app").await;
    app.get("/v1/keys/invoices/versions").await.refused(403, "AccessDenied");
    app.get("/v1/keys/invoices/versions/1").await.refused(403, "AccessDenied");

    admin.aes_key("users").await;
    for (principal, scope) in [("a", "invoices"), ("b", "users"), ("c", "*")] {
        let grant = json!({"principal": principal, "role": "app", "keyId": scope, "allowedOps": ["read"]});
        admin.post("/v1/grants", grant).await.expect(201);
    }
    for (query, who) in [
        ("keyId=invoices", vec!["a", "c"]),
        (&*format!("keyId={}", key["id"].as_str().unwrap()), vec!["a", "c"]),
        ("keyId=users&principal=b", vec!["b"]),
        ("keyId=users&principal=a", vec![]),
        ("keyId=*", vec!["c"]),
        ("principal=a", vec!["a"]),
    ] {
        let listed = admin.get(&format!("/v1/grants?{query}")).await.expect(200);
        let found: Vec<&str> = listed.as_array().unwrap().iter().map(|g| g["principal"].as_str().unwrap()).collect();
        assert_eq!(found, who, "{query}");
    }
    admin.get("/v1/grants?keyId=nothing").await.refused(404, "KeyNotFound");

    let named =
        admin.request(Method::POST, "/v1/keys/users/rotate").header("x-request-id", "order-66").json(&json!({}));
    Client::send(named).await.expect(200);
    let records = admin.get("/v1/audit?requestId=order-66").await.expect(200);
    let records = records.as_array().unwrap();
    assert_eq!((records.len(), &records[0]["action"]), (1, &json!("KEY_ROTATE")));
}

#[tokio::test]
async fn a_batch_of_raw_ciphertexts_is_one_commit() {
    let server = Server::start(&[]);
    let admin = server.client();
    let key = admin.rsa_key("sealed", "ENCRYPTION").await;
    let pem = key["versions"][0]["publicKeyPem"].as_str().unwrap();
    std::fs::write(server.home.path().join("key.pem"), pem).unwrap();
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(["pkeyutl", "-encrypt", "-pubin", "-inkey", "key.pem", "-pkeyopt", "rsa_padding_mode:oaep"]);
    openssl.args(["-pkeyopt", "rsa_oaep_md:sha256", "-pkeyopt", "rsa_mgf1_md:sha256", "-in", "plain"]);
    std::fs::write(server.home.path().join("plain"), "raw").unwrap();
    let sealed = openssl.current_dir(server.home.path()).output().unwrap();
    assert!(sealed.status.success(), "{sealed:?}");
    use base64::Engine;
    let raw = base64::engine::general_purpose::STANDARD.encode(&sealed.stdout);
    let blob = admin.post("/v1/crypto/encrypt", json!({"keyId": "sealed", "plaintext": "ours"})).await.expect(200);
    let size =
        || async { admin.get("/v1/audit/checkpoint").await.text.lines().nth(1).unwrap().parse::<u64>().unwrap() };
    let (first, second) = (size().await, size().await);
    let mut items = vec![json!({"keyId": "sealed", "ciphertext": raw, "version": 1}); 100];
    items[7] = json!({"keyId": "sealed", "ciphertext": blob["ciphertext"]});
    items[8] = json!({"keyId": "sealed", "ciphertext": raw, "version": 2});
    let opened = admin.post("/v1/crypto/decrypt", json!({"items": items})).await.expect(200);
    for (n, result) in opened["results"].as_array().unwrap().iter().enumerate() {
        match n {
            7 => assert_eq!(result["plaintext"], "ours"),
            8 => assert_eq!(result["code"], "VersionNotFound"),
            _ => assert_eq!(result, &json!({"plaintext": "raw", "version": 1}), "{n}"),
        }
    }
    assert_eq!(size().await - second, second - first + 1, "one record for the batch");
}
