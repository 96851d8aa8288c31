//! Tests of the contract that is kept from Mini KMS on Node, against a running service.

#![allow(clippy::unwrap_used, reason = "a test may fail by a panic")]

mod common;

use common::{Client, Server};
use serde_json::json;

#[tokio::test]
async fn keys_live() {
    let server = Server::start(&[]);
    let admin = server.client();
    let new = json!({
        "name": "users", "type": "AES256_GCM", "purpose": "ENCRYPTION", "rotationPeriodDays": 90, "gracePeriodDays": 7,
        "metadata": {"team": "shop"}, "aFieldOfTomorrow": true,
    });
    let made = admin.post("/v1/keys", new).await;
    let key = made.expect(201);
    assert_eq!(key["metadata"], json!({"team": "shop", "owner": "admin"}));
    assert_eq!((&key["state"], &key["currentVersion"]), (&json!("ENABLED"), &json!(1)));
    assert_eq!(key["versions"][0]["version"], 1);
    assert_eq!(key["versions"][0]["keyId"], key["id"]);
    assert!(!made.text.contains("wrappedMaterial"));
    let id = key["id"].as_str().unwrap();

    let by_name = admin.get("/v1/keys/users").await.expect(200);
    assert_eq!(by_name["id"], key["id"]);
    assert_eq!(admin.get(&format!("/v1/keys/{id}")).await.expect(200)["name"], "users");
    let list = admin.get("/v1/keys").await.expect(200);
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert!(list[0].get("versions").is_none());

    let rotated = admin.post(&format!("/v1/keys/{id}/rotate"), json!({})).await.expect(200);
    assert_eq!(rotated["currentVersion"], 2);
    assert_eq!(rotated["versions"][0]["state"], "DISABLED");
    assert!(rotated["versions"][0]["notAfter"].is_string(), "the grace period");
    let stale = admin.post("/v1/keys/users/rotate", json!({"expectedCurrentVersion": 1})).await;
    stale.refused(409, "Conflict");
    admin.post("/v1/keys/users/rotate", json!({"expectedCurrentVersion": 2})).await.expect(200);

    let disabled = admin.post("/v1/keys/users/versions/1/disable", json!({})).await;
    assert!(disabled.status == 200 || disabled.status == 409, "{}", disabled.text);
    let revoked = admin.post("/v1/keys/users/versions/1/revoke", json!({})).await.expect(200);
    assert_eq!(revoked["versions"][0]["state"], "REVOKED");
    admin.post("/v1/keys/users/versions/9/revoke", json!({})).await.refused(404, "VersionNotFound");
    admin.post("/v1/keys/users/versions/x/revoke", json!({})).await.refused(400, "InvalidArgument");
    admin.get("/v1/keys/nobody").await.refused(404, "KeyNotFound");
    let again = admin.post("/v1/keys", json!({"name": "users", "type": "RSA_2048", "purpose": "SIGNING"})).await;
    again.refused(409, "NameTaken");
    admin.post("/v1/keys", json!({"name": "x", "type": "AES256_GCM", "purpose": "SIGNING"})).await.expect(400);
    admin
        .post("/v1/keys", json!({"name": " ", "type": "AES256_GCM", "purpose": "ENCRYPTION"}))
        .await
        .refused(400, "InvalidName");
    let what = admin.post("/v1/keys", json!({"name": "y", "type": "DES", "purpose": "ENCRYPTION"})).await;
    assert!(what.refused(400, "InvalidArgument").starts_with("type: "), "{}", what.text);
}

#[tokio::test]
async fn cryptography_works() {
    let server = Server::start(&[]);
    let admin = server.client();
    let key = admin.aes_key("users").await;
    let encrypted = admin
        .post(
            "/v1/crypto/encrypt",
            json!({"keyId": key["id"], "plaintext": "4711 \u{1F511} \"x\"\n", "aad": {"table": "users"}}),
        )
        .await
        .expect(200);
    assert_eq!((&encrypted["version"], &encrypted["keyType"]), (&json!(1), &json!("AES256_GCM")));
    assert_eq!(encrypted["keyId"], key["id"]);
    // As a client of Mini KMS on Node sends it: with all members that it received.
    let mut back = json!({
        "keyId": key["id"], "ciphertext": encrypted["ciphertext"], "version": 1, "aad": {"table": "users"},
        "iv": encrypted["iv"], "authTag": encrypted["authTag"],
    });
    let opened = admin.post("/v1/crypto/decrypt", back.clone()).await.expect(200);
    assert_eq!(opened, json!({"plaintext": "4711 \u{1F511} \"x\"\n", "version": 1}));
    back["encoding"] = "base64".into();
    assert_eq!(admin.post("/v1/crypto/decrypt", back.clone()).await.expect(200)["plaintext"], "NDcxMSDwn5SRICJ4Igo=");
    for (field, wrong) in [("version", json!(2)), ("iv", json!("AAAA")), ("authTag", json!("AAAA"))] {
        let mut wrong_back = back.clone();
        wrong_back[field] = wrong;
        let message = admin.post("/v1/crypto/decrypt", wrong_back).await.refused(400, "InvalidCiphertext");
        assert!(message.starts_with(field), "{message}");
    }
    // A wrong key named with a ciphertext gives the same error whether it exists or not, and every attempt gives the
    // same error without permission.
    let other = admin.aes_key("other").await;
    let nobody = admin.token_for("nobody", "app").await;
    let unknown = json!("00000000-0000-4000-8000-000000000000");
    let mut messages = Vec::new();
    for key in [&other["id"], &json!("other"), &unknown, &json!("unknown")] {
        let mut wrong_back = back.clone();
        wrong_back["keyId"] = key.clone();
        let batch = json!({"items": [wrong_back.clone()]});
        let batched = admin.post("/v1/crypto/decrypt", batch).await.expect(200);
        assert_eq!(batched["results"][0]["code"], "InvalidCiphertext", "{batched}");
        nobody.post("/v1/crypto/decrypt", wrong_back.clone()).await.refused(403, "AccessDenied");
        messages.push(admin.post("/v1/crypto/decrypt", wrong_back).await.refused(400, "InvalidCiphertext"));
    }
    assert!(messages.iter().all(|message| *message == messages[0]), "{messages:?}");
    for (field, wrong) in [("version", json!(2)), ("iv", json!("AAAA")), ("authTag", json!("AAAA"))] {
        let mut wrong_back = back.clone();
        wrong_back[field] = wrong;
        nobody.post("/v1/crypto/decrypt", wrong_back).await.refused(403, "AccessDenied");
    }
    back["aad"] = json!({"table": "other"});
    admin.post("/v1/crypto/decrypt", back).await.refused(400, "DecryptionFailed");
    admin
        .post("/v1/crypto/decrypt", json!({"keyId": "users", "ciphertext": "!"}))
        .await
        .refused(400, "InvalidArgument");
    admin
        .post("/v1/crypto/decrypt", json!({"keyId": "users", "ciphertext": "AAAA"}))
        .await
        .refused(400, "InvalidCiphertext");

    let binary = json!({"keyId": "users", "plaintext": "/wD/", "encoding": "base64"});
    let sealed = admin.post("/v1/crypto/encrypt", binary).await.expect(200);
    let open = |encoding: Option<&str>| {
        let mut body = json!({"keyId": "users", "ciphertext": sealed["ciphertext"]});
        if let Some(encoding) = encoding {
            body["encoding"] = encoding.into();
        }
        admin.post("/v1/crypto/decrypt", body)
    };
    assert_eq!(open(Some("base64")).await.expect(200)["plaintext"], "/wD/");
    assert!(open(None).await.refused(400, "InvalidArgument").contains("UTF-8"));
    open(Some("rot13")).await.refused(400, "InvalidArgument");

    let rsa = admin.rsa_key("sealed", "ENCRYPTION").await;
    let to_rsa = admin.post("/v1/crypto/encrypt", json!({"keyId": rsa["id"], "plaintext": "x"})).await.expect(200);
    assert!(to_rsa.get("iv").is_none() && to_rsa["keyType"] == "RSA_2048");
    let from_rsa = json!({"keyId": rsa["id"], "ciphertext": to_rsa["ciphertext"]});
    assert_eq!(admin.post("/v1/crypto/decrypt", from_rsa).await.expect(200)["plaintext"], "x");
    let long = json!({"keyId": "sealed", "plaintext": "x".repeat(191)});
    admin.post("/v1/crypto/encrypt", long).await.refused(400, "PlaintextTooLong");

    admin.rsa_key("invoices", "SIGNING").await;
    let signed = admin.post("/v1/crypto/sign", json!({"keyId": "invoices", "payload": "42.00"})).await.expect(200);
    let check = |payload: &str, algorithm: &str| {
        admin.post(
            "/v1/crypto/verify",
            json!({
                "keyId": "invoices", "payload": payload, "signature": signed["signature"],
                "signingAlgorithm": algorithm,
            }),
        )
    };
    assert_eq!(check("42.00", "RSASSA_PKCS1_V1_5_SHA_256").await.expect(200), json!({"valid": true, "version": 1}));
    assert_eq!(check("43.00", "RSASSA_PKCS1_V1_5_SHA_256").await.expect(200)["valid"], false);
    assert_eq!(check("42.00", "RSASSA_PSS_SHA_256").await.expect(200)["valid"], false);
    check("42.00", "NONE").await.refused(400, "InvalidArgument");
    let older = json!({"keyId": "invoices", "payload": "x", "version": 2});
    admin.post("/v1/crypto/sign", older).await.refused(409, "VersionNotCurrent");
    admin.post("/v1/crypto/sign", json!({"keyId": "users", "payload": "x"})).await.refused(409, "WrongKeyType");
}

#[tokio::test]
async fn grants_give_and_the_log_tells() {
    let server = Server::start(&[]);
    let admin = server.client();
    let key = admin.aes_key("users").await;
    let shop = admin.token_for("Shop", "app").await;
    let encrypt = || shop.post("/v1/crypto/encrypt", json!({"keyId": key["id"], "plaintext": "x"}));
    let denied = encrypt().await;
    let unknown = shop.post("/v1/crypto/encrypt", json!({"keyId": "nothing", "plaintext": "x"})).await;
    assert_eq!(
        denied.refused(403, "AccessDenied"),
        unknown.refused(403, "AccessDenied"),
        "there or not: the same words"
    );

    let grant = json!({"principal": "SHOP", "role": "app", "keyId": key["id"], "allowedOps": ["encrypt"]});
    let made = admin.post("/v1/grants", grant).await.expect(201);
    assert_eq!((&made["principal"], &made["allowedOps"]), (&json!("shop"), &json!(["encrypt"])));
    encrypt().await.expect(200);
    let replaced = json!({
        "principal": "shop", "role": "app", "keyId": key["id"], "allowedOps": ["encrypt", "read"],
        "conditions": {"sourceIp": ["10.0.0.0/8"]},
    });
    assert_eq!(admin.post("/v1/grants", replaced).await.expect(201)["id"], made["id"]);
    encrypt().await.refused(403, "AccessDenied");
    let listed = admin.get("/v1/grants").await.expect(200);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    // An app that may make grants on a key may refer to it by name without the permission to read it.
    let may = json!({"principal": "delegate", "role": "app", "keyId": "users", "allowedOps": ["grant", "verify"]});
    admin.post("/v1/grants", may).await.expect(201);
    let delegate = admin.token_for("Delegate", "app").await;
    delegate.get("/v1/keys/users").await.refused(403, "AccessDenied");
    let passed = json!({"principal": "third", "role": "app", "keyId": "users", "allowedOps": ["verify"]});
    assert_eq!(delegate.post("/v1/grants", passed.clone()).await.expect(201)["keyId"], key["id"]);
    let mut hidden = passed;
    hidden["keyId"] = "unknown".into();
    delegate.post("/v1/grants", hidden).await.refused(403, "AccessDenied");
    for refused in ["*", "operator", "Scheduler", "a\u{200b}b", "a\u{202e}b", "\u{212a}ate"] {
        let odd = json!({"principal": refused, "role": "app", "keyId": "*", "allowedOps": ["read"]});
        admin.post("/v1/grants", odd).await.refused(400, "InvalidArgument");
    }
    let odd = json!({"principal": "shop", "role": "app", "keyId": "*", "allowedOps": ["fly"]});
    assert!(admin.post("/v1/grants", odd).await.refused(400, "InvalidArgument").starts_with("allowedOps[0]: "));
    let moon = json!({"moon": "full"});
    let odd = json!({"principal": "shop", "role": "app", "keyId": "*", "allowedOps": ["read"], "conditions": moon});
    admin.post("/v1/grants", odd).await.refused(400, "InvalidArgument");

    let log = admin.get("/v1/audit").await.expect(200);
    let log = log.as_array().unwrap();
    assert!(
        log.windows(2).all(|pair| pair[0]["hash"] == pair[1]["prevHash"]),
        "oldest first, each names the one before"
    );
    let actions: Vec<&str> = log.iter().map(|record| record["action"].as_str().unwrap()).collect();
    for action in ["KEY_CREATE", "CREDENTIAL_CREATE", "GRANT_CREATE", "GRANT_UPDATE", "ENCRYPT"] {
        assert!(actions.contains(&action), "{action} in {actions:?}");
    }
    let failures = log.iter().filter(|record| record["status"] == "FAILURE" && record["actor"] == "shop");
    assert_eq!(failures.count(), 3);
    assert_eq!(admin.post("/v1/audit/verify", json!({})).await.expect(200)["ok"], true);
    shop.post("/v1/audit/verify", json!({})).await.refused(403, "AccessDenied");

    let metrics = admin.get("/v1/ops/metrics").await.expect(200);
    assert_eq!(metrics["keys"]["total"], 1);
    assert_eq!(metrics["keys"]["byState"]["ENABLED"], 1);
    assert_eq!(metrics["usage"]["encryptionsLast24h"], 1);
    assert_eq!(metrics["audit"]["failuresLast24h"], 1, "the verification that was refused");
    assert_eq!(metrics["audit"]["failedOperationsLast24h"], 6, "with the five that were denied");
    assert_eq!(metrics["audit"]["lastVerification"]["ok"], true);
    shop.get("/v1/ops/metrics").await.refused(403, "AccessDenied");
}

#[tokio::test]
async fn everybody_gets_ids_and_headers() {
    let server = Server::start(&[]);
    let nobody = server.client_with(None);
    let health = nobody.get("/v1/healthz").await;
    assert_eq!(health.expect(200)["status"], "ok");
    assert!(health.json()["timestamp"].is_string());
    let ready = nobody.get("/v1/readyz").await.expect(200);
    assert_eq!((&ready["status"], &ready["rootKey"]), (&"ok".into(), &"ok".into()));
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "SAMEORIGIN"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(health.headers[name], value, "{name}");
    }
    assert!(!health.headers.contains_key("access-control-allow-origin"));
    assert_eq!(health.headers["x-request-id"].len(), 36);
    let named = nobody.request(reqwest::Method::GET, "/v1/healthz").header("x-request-id", "abc-123");
    assert_eq!(Client::send(named).await.headers["x-request-id"], "abc-123");

    for path in ["/v1/keys", "/v1/keys/users", "/v1/grants", "/v1/audit", "/v1/ops/metrics", "/metrics", "/v1/tokens"] {
        let refused = nobody.get(path).await;
        refused.refused(401, "NotAuthenticated");
        assert_eq!(refused.headers["www-authenticate"], "Bearer");
        let guessed = server.client_with(Some("kms_AAAA")).get(path).await;
        guessed.refused(401, "NotAuthenticated");
    }
    nobody.get("/v1/nothing").await.refused(404, "NotFound");
    let odd = nobody.request(reqwest::Method::PUT, "/v1/keys");
    let odd = Client::send(odd).await;
    odd.refused(405, "MethodNotAllowed");
    assert!(odd.headers.contains_key("allow"), "{:?}", odd.headers);
}
