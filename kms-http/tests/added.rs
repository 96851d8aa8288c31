//! Tests of the endpoints that this service adds to the contract of Mini KMS on Node, against a running service.

#![allow(clippy::unwrap_used, reason = "a test may fail by a panic")]

mod common;

use common::{Client, Server};
use reqwest::Method;
use serde_json::{Value, json};

async fn keyed(client: &Client, path: &str, key: &str, body: &Value) -> common::Answer {
    Client::send(client.request(Method::POST, path).header("idempotency-key", key).json(body)).await
}

#[tokio::test]
async fn requests_with_a_key_have_their_effect_once() {
    let mut server = Server::start(&[]);
    let admin = server.client();
    let new = json!({"name": "users", "type": "AES256_GCM", "purpose": "ENCRYPTION"});
    let first = keyed(&admin, "/v1/keys", "k1", &new).await.expect(201);
    assert_eq!(keyed(&admin, "/v1/keys", "k1", &new).await.expect(201)["id"], first["id"]);
    let other = json!({"name": "other", "type": "AES256_GCM", "purpose": "ENCRYPTION"});
    keyed(&admin, "/v1/keys", "k1", &other).await.refused(409, "IdempotencyConflict");
    let rotated = keyed(&admin, "/v1/keys/users/rotate", "k2", &json!({})).await.expect(200);
    assert_eq!(rotated["currentVersion"], 2);
    assert_eq!(keyed(&admin, "/v1/keys/users/rotate", "k2", &json!({})).await.expect(200), rotated);
    let second = admin.token_for("second", "admin").await;
    let of_another = keyed(&second, "/v1/keys/users/rotate", "k2", &json!({})).await.expect(200);
    assert_eq!(of_another["currentVersion"], 3, "another caller's key is another key");
    assert!(server.stop().success());
    server.restart();
    let again = keyed(&server.client(), "/v1/keys/users/rotate", "k2", &json!({})).await.expect(200);
    assert_eq!(again, rotated, "the first answer, also after a restart");
    keyed(&server.client(), "/v1/keys", &"k".repeat(257), &new).await.refused(400, "InvalidArgument");
}

#[tokio::test]
async fn data_keys_and_reencryption() {
    let server = Server::start(&[]);
    let admin = server.client();
    let (old, new) = (admin.aes_key("old").await, admin.aes_key("new").await);
    let wanted = json!({"keyId": "old", "bytes": 16, "aad": {"file": "7"}});
    let made = admin.post("/v1/crypto/generate-data-key", wanted).await.expect(200);
    assert_eq!(made["plaintext"].as_str().unwrap().len(), 24, "16 bytes in base64");
    let wrapped = json!({"keyId": "old", "ciphertext": made["ciphertext"], "aad": {"file": "7"}, "encoding": "base64"});
    assert_eq!(admin.post("/v1/crypto/decrypt", wrapped).await.expect(200)["plaintext"], made["plaintext"]);
    let without = json!({"keyId": "old", "withoutPlaintext": true});
    assert!(admin.post("/v1/crypto/generate-data-key", without).await.expect(200).get("plaintext").is_none());
    for odd in [
        json!({"keyId": "old", "bytes": 0}),
        json!({"keyId": "old", "bytes": 1025}),
        json!({"keyId": "old", "bits": 9}),
    ] {
        admin.post("/v1/crypto/generate-data-key", odd).await.refused(400, "InvalidArgument");
    }
    let anew = json!({
        "ciphertext": made["ciphertext"], "aad": {"file": "7"}, "destinationKeyId": new["id"],
        "destinationAad": {"file": "8"},
    });
    let moved = admin.post("/v1/crypto/reencrypt", anew).await.expect(200);
    assert_eq!(moved["keyId"], new["id"]);
    let wrapped =
        json!({"keyId": "new", "ciphertext": moved["ciphertext"], "aad": {"file": "8"}, "encoding": "base64"});
    assert_eq!(admin.post("/v1/crypto/decrypt", wrapped).await.expect(200)["plaintext"], made["plaintext"]);
    let same = json!({"ciphertext": made["ciphertext"], "aad": {"file": "7"}});
    assert_eq!(admin.post("/v1/crypto/reencrypt", same).await.expect(200)["keyId"], old["id"]);
    let odd = json!({"ciphertext": made["ciphertext"], "aad": {"file": "7"}, "destination": "new"});
    admin.post("/v1/crypto/reencrypt", odd).await.refused(400, "InvalidArgument");
}

#[tokio::test]
async fn items_fail_alone() {
    let server = Server::start(&[]);
    let admin = server.client();
    admin.aes_key("users").await;
    admin.rsa_key("invoices", "SIGNING").await;
    let items = json!([
        {"keyId": "users", "plaintext": "a"}, {"keyId": "nothing", "plaintext": "b"}, {"plaintext": "c"},
        {"keyId": "users", "plaintext": "ZA==", "encoding": "base64"},
        {"keyId": "users", "plaintext": "!", "encoding": "base64"},
    ]);
    let done = admin.post("/v1/crypto/encrypt", json!({"items": items})).await.expect(200);
    let done = done["results"].as_array().unwrap();
    let codes: Vec<&Value> = done.iter().map(|result| &result["code"]).collect();
    assert_eq!(
        codes,
        [&Value::Null, &json!("KeyNotFound"), &json!("InvalidArgument"), &Value::Null, &json!("InvalidArgument")]
    );
    let back = json!({"items": [
        {"keyId": "users", "ciphertext": done[3]["ciphertext"]}, {"keyId": "users", "ciphertext": "AAAA"},
        {"keyId": "users", "ciphertext": done[0]["ciphertext"], "encoding": "base64"},
    ]});
    let opened = admin.post("/v1/crypto/decrypt", back).await.expect(200);
    assert_eq!(opened["results"][0], json!({"plaintext": "d", "version": 1}));
    assert_eq!(opened["results"][1]["code"], "InvalidCiphertext");
    assert_eq!(opened["results"][2]["plaintext"], "YQ==");
    let anew = json!({"items": [{"ciphertext": done[0]["ciphertext"]}, {"ciphertext": "AAAA"}]});
    let anew = admin.post("/v1/crypto/reencrypt", anew).await.expect(200);
    assert!(anew["results"][0]["ciphertext"].is_string() && anew["results"][1]["code"] == "InvalidCiphertext");

    let signed =
        json!({"items": [{"keyId": "invoices", "payload": "a"}, {"keyId": "invoices", "payload": "a", "version": 7}]});
    let signed = admin.post("/v1/crypto/sign", signed).await.expect(200);
    assert_eq!(signed["results"][1]["code"], "VersionNotCurrent");
    let signature = &signed["results"][0]["signature"];
    let checks = json!({"items": [
        {"keyId": "invoices", "payload": "a", "signature": signature},
        {"keyId": "invoices", "payload": "b", "signature": signature},
    ]});
    let checked = admin.post("/v1/crypto/verify", checks).await.expect(200);
    assert_eq!((&checked["results"][0]["valid"], &checked["results"][1]["valid"]), (&json!(true), &json!(false)));

    admin.post("/v1/crypto/encrypt", json!({"items": []})).await.refused(400, "InvalidArgument");
    let more = json!({"items": [{"keyId": "users", "plaintext": "x"}], "more": 1});
    assert!(admin.post("/v1/crypto/encrypt", more).await.refused(400, "InvalidArgument").contains("more"));
    let odd =
        json!({"items": [1, {"keyId": "users", "plaintext": 1}, {"keyId": "users", "plaintext": "x", "more": 1}]});
    let done = admin.post("/v1/crypto/encrypt", odd).await;
    let done = done.expect(200)["results"].clone();
    assert!((0..3).all(|n| done[n]["code"] == "InvalidArgument"), "{done}");
    assert!(done[1]["error"].as_str().unwrap().starts_with("plaintext: "), "{done}");
    let more = json!({"items": [{"ciphertext": "AAAA"}], "more": 1});
    admin.post("/v1/crypto/reencrypt", more).await.refused(400, "InvalidArgument");
    let many = vec![json!({"keyId": "users", "plaintext": "x"}); 1_000];
    let done = admin.post("/v1/crypto/encrypt", json!({"items": many})).await.expect(200);
    assert_eq!(done["results"].as_array().unwrap().len(), 1_000);
    let many = vec![json!({"keyId": "users", "plaintext": "x"}); 1_001];
    admin.post("/v1/crypto/encrypt", json!({"items": many})).await.refused(400, "InvalidArgument");
}

#[tokio::test]
async fn lifecycle_beyond_the_kept_contract() {
    let server = Server::start(&[]);
    let admin = server.client();
    admin.aes_key("users").await;
    let state = |key: Value| key["state"].as_str().unwrap().to_owned();
    assert_eq!(state(admin.post("/v1/keys/users/disable", json!({})).await.expect(200)), "DISABLED");
    let used = admin.post("/v1/crypto/encrypt", json!({"keyId": "users", "plaintext": "x"})).await;
    used.refused(409, "KeyDisabled");
    assert_eq!(state(admin.post("/v1/keys/users/enable", json!({})).await.expect(200)), "ENABLED");
    admin.post("/v1/keys/users/enable", json!({"really": true})).await.refused(400, "InvalidArgument");
    admin.post("/v1/keys/users/versions/1/disable", json!({})).await.expect(200);
    admin.post("/v1/keys/users/versions/1/enable", json!({})).await.expect(200);

    let edit = json!({"rotationPeriodDays": 30, "gracePeriodDays": null, "metadata": {"a": 1}, "auditContext": "hmac"});
    let edited = admin.patch("/v1/keys/users", edit).await.expect(200);
    assert_eq!((&edited["rotationPeriodDays"], &edited["auditContext"]), (&json!(30), &json!("hmac")));
    assert!(edited.get("gracePeriodDays").is_none());
    let removed = admin.patch("/v1/keys/users", json!({"rotationPeriodDays": null})).await.expect(200);
    assert!(removed.get("rotationPeriodDays").is_none());
    admin.patch("/v1/keys/users", json!({})).await.refused(400, "InvalidArgument");
    admin.patch("/v1/keys/users", json!({"name": "other"})).await.refused(400, "InvalidArgument");

    admin.post("/v1/keys/users/rotate", json!({})).await.expect(200);
    let window = json!({"notAfter": "2999-01-01T00:00:00Z"});
    let set = admin.patch("/v1/keys/users/versions/1", window).await.expect(200);
    assert_eq!(set["versions"][0]["notAfter"], "2999-01-01T00:00:00.000000Z");
    let open = admin.patch("/v1/keys/users/versions/1", json!({"notAfter": null})).await.expect(200);
    assert!(open["versions"][0].get("notAfter").is_none());
    admin.patch("/v1/keys/users/versions/1", json!({})).await.refused(400, "InvalidArgument");
    admin.patch("/v1/keys/users/versions/1", json!({"notAfter": "soon"})).await.refused(400, "InvalidArgument");

    admin.post("/v1/keys/users/schedule-deletion", json!({"waitingDays": 1})).await.refused(400, "InvalidArgument");
    let going = admin.post("/v1/keys/users/schedule-deletion", json!({"waitingDays": 7})).await.expect(200);
    assert!(going["deleteAt"].is_string() && going["state"] == "PENDING_DELETION");
    admin.post("/v1/keys/users/rotate", json!({})).await.refused(409, "KeyPendingDeletion");
    assert_eq!(state(admin.post("/v1/keys/users/cancel-deletion", json!({})).await.expect(200)), "ENABLED");
    admin.post("/v1/keys/users/cancel-deletion", json!({})).await.expect(409);
    admin.post("/v1/keys/users/versions/1/revoke", json!({})).await.expect(200);
    let trimmed = admin.post("/v1/keys/users/trim", json!({})).await.expect(200);
    assert_eq!(trimmed["versions"][0]["state"], "DESTROYED");
    assert_eq!(state(admin.post("/v1/keys/users/revoke", json!({})).await.expect(200)), "REVOKED");

    admin.rsa_key("invoices", "SIGNING").await;
    let pem = admin.get("/v1/keys/invoices/versions/1/public-key").await;
    assert_eq!(pem.headers["content-type"], "application/x-pem-file");
    assert!(pem.text.starts_with("-----BEGIN PUBLIC KEY-----"), "{}", pem.text);
    admin.get("/v1/keys/users/versions/1/public-key").await.refused(409, "WrongKeyType");
    admin.get("/v1/keys/invoices/versions/2/public-key").await.refused(404, "VersionNotFound");
}

#[tokio::test]
async fn lists_come_in_pages() {
    let server = Server::start(&[]);
    let admin = server.client();
    for n in 0..5 {
        admin.aes_key(&format!("key {n} \u{e4}")).await;
    }
    let (mut names, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = admin.get(&format!("/v1/keys?limit=2{cursor}")).await;
        names.extend(page.expect(200).as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap().to_owned()));
        match page.headers.get("x-next-cursor") {
            Some(next) => cursor = format!("&cursor={}", next.to_str().unwrap()),
            None => break,
        }
    }
    assert_eq!(names, (0..5).map(|n| format!("key {n} \u{e4}")).collect::<Vec<_>>());
    admin.post("/v1/keys/key%203%20%C3%A4/disable", json!({})).await.expect(200);
    assert_eq!(admin.get("/v1/keys?state=DISABLED").await.expect(200).as_array().unwrap().len(), 1);
    for odd in ["limit=0", "limit=1001", "limit=x", "state=ILL", "sate=ENABLED", "limit=1&limit=2"] {
        admin.get(&format!("/v1/keys?{odd}")).await.refused(400, "InvalidArgument");
    }

    let newest = admin.get("/v1/audit?limit=2").await;
    let records = newest.expect(200);
    assert!(records[0]["seq"].as_u64() > records[1]["seq"].as_u64(), "newest first");
    let next = newest.headers["x-next-cursor"].to_str().unwrap();
    let older = admin.get(&format!("/v1/audit?limit=2&cursor={next}")).await.expect(200);
    assert_eq!(older[0]["seq"].as_u64().unwrap() + 1, records[1]["seq"].as_u64().unwrap());
    let oldest = admin.get("/v1/audit?order=asc&limit=1").await.expect(200);
    assert_eq!((&oldest[0]["seq"], &oldest[0]["action"]), (&json!(1), &json!("STORE_CREATE")));
    let created = admin.get("/v1/audit?action=KEY_CREATE&actor=admin&status=SUCCESS&since=2020-01-01T00:00:00Z").await;
    assert_eq!(created.expect(200).as_array().unwrap().len(), 5);
    assert_eq!(admin.get("/v1/audit?until=2020-01-01T00:00:00Z").await.expect(200), json!([]));
    admin.get("/v1/audit?limit=0").await.refused(400, "InvalidArgument");
    assert_eq!(admin.get("/v1/audit/imported?source=mini-kms&limit=2").await.expect(200), json!([]));
    admin.get("/v1/audit/imported?limit=0").await.refused(400, "InvalidArgument");
    let head = admin.get("/v1/audit/checkpoint").await;
    assert!(head.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    assert_eq!(head.text.lines().nth(1).unwrap().parse::<u64>().unwrap(), records[0]["seq"].as_u64().unwrap());
}

#[tokio::test]
async fn withdrawn_is_withdrawn() {
    let server = Server::start(&[]);
    let admin = server.client();
    let key = admin.aes_key("users").await;
    let made =
        admin.post("/v1/tokens", json!({"principal": "shop", "role": "app", "label": "till 3"})).await.expect(201);
    let shop = server.client_with(made["token"].as_str());
    let grant = json!({"principal": "shop", "role": "app", "keyId": "users", "allowedOps": ["encrypt", "read"]});
    let grant = admin.post("/v1/grants", grant).await.expect(201);
    assert_eq!(grant["keyId"], key["id"], "a name is taken too");
    shop.get("/v1/keys/users").await.expect(200);
    let gone = admin.delete(&format!("/v1/grants/{}", grant["id"].as_str().unwrap())).await;
    assert_eq!((gone.status.as_u16(), gone.text.as_str()), (204, ""));
    shop.get("/v1/keys/users").await.refused(403, "AccessDenied");
    admin.delete(&format!("/v1/grants/{}", key["id"].as_str().unwrap())).await.refused(404, "GrantNotFound");
    admin.delete("/v1/grants/x").await.refused(400, "InvalidArgument");

    let listed = admin.get("/v1/tokens").await.expect(200);
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert!(!listed.to_string().contains("kms_"), "a token is shown once");
    let id = made["credential"]["id"].as_str().unwrap();
    admin.delete(&format!("/v1/tokens/{id}")).await.expect(204);
    shop.get("/v1/keys").await.refused(401, "NotAuthenticated");
    shop.post("/v1/tokens", json!({"principal": "x", "role": "app"})).await.refused(401, "NotAuthenticated");
    admin.post("/v1/tokens", json!({"principal": "system", "role": "app"})).await.refused(400, "InvalidArgument");
    let past = json!({"principal": "x", "role": "app", "expiresAt": "2020-01-01T00:00:00Z"});
    admin.post("/v1/tokens", past).await.refused(409, "WrongState");
}

#[tokio::test]
async fn prometheus_and_the_contract() {
    let server = Server::start(&[]);
    let admin = server.client();
    admin.aes_key("users").await;
    for _ in 0..3 {
        admin.post("/v1/crypto/encrypt", json!({"keyId": "users", "plaintext": "x"})).await.expect(200);
    }
    admin.post("/v1/crypto/encrypt", json!({"keyId": "none", "plaintext": "x"})).await.expect(404);
    let metrics = admin.get("/metrics").await;
    for line in [
        "kms_requests_total{operation=\"encrypt\",outcome=\"ok\"} 3",
        "kms_requests_total{operation=\"encrypt\",outcome=\"KeyNotFound\"} 1",
        "kms_request_duration_seconds_count{operation=\"encrypt\",outcome=\"ok\"} 3",
        "kms_keys{state=\"ENABLED\"} 1",
        "kms_rotation_alerts 0",
        "kms_ledger_queue_length 0",
        "kms_cache_misses_total 1",
        "kms_cache_hits_total 2",
        "# TYPE kms_ledger_batch_size histogram",
    ] {
        assert!(metrics.text.contains(&format!("{line}\n")), "{line} in {}", metrics.text);
    }
    assert!(metrics.text.ends_with("# EOF\n") && metrics.text.matches("# EOF").count() == 1);
    let app = admin.token_for("app", "app").await;
    app.get("/metrics").await.refused(403, "AccessDenied");
    let auditor = admin.token_for("auditor", "auditor").await;
    assert_eq!(auditor.get("/metrics").await.status, 200);

    let nobody = server.client_with(None);
    nobody.get("/metrics").await.refused(401, "NotAuthenticated");
    nobody.get("/v1/ops/metrics").await.refused(401, "NotAuthenticated");
    let contract = nobody.get("/openapi.json").await.expect(200);
    assert_eq!(contract["openapi"], "3.1.0");
    let encrypt = &contract["paths"]["/v1/crypto/encrypt"]["post"];
    for status in ["200", "400", "401", "403", "404", "409", "413", "429", "503"] {
        assert!(encrypt["responses"].get(status).is_some(), "{status}");
    }
    let page = nobody.get("/docs").await;
    assert!(page.headers["content-type"].to_str().unwrap().starts_with("text/html"));
    assert!(!page.text.contains("//cdn") && !page.text.contains("https://"), "nothing from elsewhere");
}

#[tokio::test]
async fn what_everybody_may_ask_leaves_no_record() {
    let server = Server::start(&[("KMS_HTTP_METRICS_PUBLIC", "true"), ("KMS_HTTP_DOCS", "false")]);
    let (admin, nobody) = (server.client(), server.client_with(None));
    admin.aes_key("users").await;
    let size =
        || async { admin.get("/v1/audit/checkpoint").await.text.lines().nth(1).unwrap().parse::<u64>().unwrap() };
    let (first, second) = (size().await, size().await);
    for _ in 0..20 {
        nobody.get("/v1/healthz").await.expect(200);
        nobody.get("/v1/readyz").await.expect(200);
        let metrics = nobody.get("/metrics").await;
        assert_eq!(metrics.status, 200);
        assert!(!metrics.text.contains("users"), "it names no key");
        nobody.get("/v1/keys").await.refused(401, "NotAuthenticated");
    }
    assert_eq!(size().await - second, second - first);
    for off in ["/openapi.json", "/docs"] {
        nobody.get(off).await.refused(404, "NotFound");
    }
}

#[tokio::test]
async fn headers_are_believed_only_when_asked_for() {
    let server = Server::start(&[
        ("KMS_HTTP_AUTH", "token,trusted_headers"),
        ("KMS_HTTP_TOKEN_PREFIX", "token:"),
        ("KMS_HTTP_TRUSTED_HEADERS_PREFIX", "hdr:"),
    ]);
    let as_principal = |name: &'static str, role: &'static str| {
        let client = server.client_with(None);
        async move {
            let request = client.request(Method::GET, "/v1/keys").header("x-principal", name).header("x-role", role);
            Client::send(request).await
        }
    };
    as_principal("alice", "admin").await.expect(200);
    as_principal("scheduler ", "admin").await.expect(200);
    let wrong = server.client_with(Some("kms_wrong"));
    let wrong = wrong.request(Method::GET, "/v1/keys").header("x-principal", "alice").header("x-role", "admin");
    Client::send(wrong).await.refused(401, "NotAuthenticated");
    // Both encodings name the same principal.
    for (n, name) in [&b"j\xc3\xbcrgen"[..], b"j\xfcrgen"].into_iter().enumerate() {
        let name = reqwest::header::HeaderValue::from_bytes(name).unwrap();
        let new = json!({"name": format!("of j {n}"), "type": "AES256_GCM", "purpose": "ENCRYPTION"});
        let request = server.client_with(None).request(Method::POST, "/v1/keys").header("x-principal", name);
        let made = Client::send(request.header("x-role", "admin").json(&new)).await.expect(201);
        assert_eq!(made["metadata"]["owner"], "hdr:j\u{fc}rgen");
    }
    // A page whose name resolves to this machine is not trusted (DNS rebinding).
    let rebound = server.client_with(None).request(Method::GET, "/v1/keys").header("host", "evil.example");
    let rebound = rebound.header("x-principal", "alice").header("x-role", "admin");
    assert!(Client::send(rebound).await.refused(403, "AccessDenied").contains("trusted_headers.hosts"));
    // An anonymous app sees no keys.
    assert_eq!(server.client_with(None).get("/v1/keys").await.expect(200), json!([]));
    let strict = Server::start(&[]);
    let request =
        strict.client_with(None).request(Method::GET, "/v1/keys").header("x-principal", "a").header("x-role", "admin");
    Client::send(request).await.refused(401, "NotAuthenticated");
    let loud = server.command(&["--set", "auth=trusted_headers", "--set", "listen=0.0.0.0:0", "config", "check"]);
    assert_eq!(loud.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&loud.stderr).contains("trusted_headers_beyond_loopback"));
}

/// The clients of Mini KMS on Node spell one principal in several ways.
#[tokio::test]
async fn trusted_headers_and_grants_meet_whatever_their_case() {
    let server = Server::start(&[
        ("KMS_HTTP_AUTH", "token,trusted_headers"),
        ("KMS_HTTP_TOKEN_PREFIX", "token:"),
        ("KMS_HTTP_TRUSTED_HEADERS_PREFIX", "hdr:"),
    ]);
    let send = async |method: Method, path: &str, (name, role): (&str, &str), body: Option<Value>| {
        let request = server.client_with(None).request(method, path);
        let request = request.header("x-principal", name).header("x-role", role);
        Client::send(if let Some(body) = body { request.json(&body) } else { request }).await
    };
    let (admin, shop) = (("Admin", "admin"), ("sHOP", "app"));
    let new = json!({"name": "users", "type": "AES256_GCM", "purpose": "ENCRYPTION"});
    assert_eq!(send(Method::POST, "/v1/keys", admin, Some(new)).await.expect(201)["metadata"]["owner"], "hdr:admin");
    let grant = json!({"principal": "HDR:Shop", "role": "app", "keyId": "users", "allowedOps": ["read"]});
    send(Method::POST, "/v1/grants", admin, Some(grant)).await.expect(201);
    send(Method::GET, "/v1/keys/users", shop, None).await.expect(200);
    let listed = send(Method::GET, "/v1/grants?principal=Hdr:SHOP", admin, None).await.expect(200);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let records = send(Method::GET, "/v1/audit?actor=HDR:ADMIN", admin, None).await.expect(200);
    assert!(!records.as_array().unwrap().is_empty());
}

/// A grant names its grantor and the grant it was passed on through; the cascade flag revokes everything passed on
/// through it.
#[tokio::test]
async fn grants_that_were_passed_on_end_with_the_cascade_flag() {
    let server = Server::start(&[]);
    let admin = server.client();
    admin.aes_key("users").await;
    let delegate = admin.token_for("delegate", "app").await;
    let third = admin.token_for("third", "app").await;
    let grant = |to: &str, ops: &[&str]| json!({"principal": to, "role": "app", "keyId": "users", "allowedOps": ops});
    let pass_on = async || {
        let above = admin.post("/v1/grants", grant("delegate", &["grant", "read"])).await.expect(201);
        let passed = delegate.post("/v1/grants", grant("third", &["read"])).await.expect(201);
        assert_eq!((&passed["grantedBy"], &passed["grantedThrough"]), (&json!("delegate"), &json!([above["id"]])));
        third.get("/v1/keys/users").await.expect(200);
        format!("/v1/grants/{}", above["id"].as_str().unwrap())
    };
    let above = pass_on().await;
    admin.delete(&format!("{above}?cascade=perhaps")).await.refused(400, "InvalidArgument");
    admin.delete(&above).await.expect(204);
    third.get("/v1/keys/users").await.expect(200);
    let above = pass_on().await;
    admin.delete(&format!("{above}?cascade=true")).await.expect(204);
    third.get("/v1/keys/users").await.refused(403, "AccessDenied");
    for query in ["principal=third", "keyId=users"] {
        let listed = admin.get(&format!("/v1/grants?{query}")).await.expect(200);
        assert!(!listed.as_array().unwrap().iter().any(|grant| grant["principal"] == "third"), "{listed}");
    }
}

#[tokio::test]
async fn addresses_come_from_believed_proxies_only() {
    let server = Server::start(&[("KMS_HTTP_TRUSTED_PROXIES", "127.0.0.0/8")]);
    let admin = server.client();
    admin.aes_key("users").await;
    let shop = admin.token_for("shop", "app").await;
    let grant = json!({
        "principal": "shop", "role": "app", "keyId": "users", "allowedOps": ["read"],
        "conditions": {"sourceIp": ["10.0.0.0/8"]},
    });
    admin.post("/v1/grants", grant).await.expect(201);
    let from = |address: &'static str| {
        let request = shop.request(Method::GET, "/v1/keys/users").header("x-forwarded-for", address);
        Client::send(request)
    };
    from("10.1.2.3").await.expect(200);
    from("10.1.2.3, 192.0.2.1").await.refused(403, "AccessDenied");
    shop.get("/v1/keys/users").await.refused(403, "AccessDenied");
}
