//! Tests of invalid input, misbehaving clients and power failures.

#![allow(clippy::unwrap_used, reason = "a test may fail by a panic")]

mod common;

use std::collections::HashSet;
use std::time::Duration;

use common::{Client, Server};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn malformed_bodies_are_told_what_and_where() {
    let server = Server::start(&[]);
    let admin = server.client();
    admin.aes_key("users").await;
    let deep =
        format!("{{\"keyId\":\"users\",\"plaintext\":\"x\",\"more\":{}{}}}", "[".repeat(50_000), "]".repeat(50_000));
    let cases: &[(&[u8], &str)] = &[
        (b"", "empty"),
        (b"{", "line 1"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (br#"{"keyId":"users","plaintext":"x","messageType":"DIGEST"}"#, "messageType"),
        (b"[]", "object"),
        (br#"["users","x"]"#, "object"),
        (b"null", "expected"),
        (b"{\"keyId\":\"users\",\"plaintext\":\"\xff\"}", "UTF-8"),
        (br#"{"keyId":"users","keyId":"other","plaintext":"x"}"#, "twice"),
        (br#"{"keyId":"users","plaintext":"x","aad":{"a":"1","a":"2"}}"#, "twice"),
        (br#"{"keyId":"users","plaintext":"x","aad":{"a":1}}"#, "aad.a"),
        (br#"{"keyId":"users"}"#, "plaintext"),
        (br#"{"keyId":"users","plaintext":1}"#, "plaintext"),
        (br#"{"keyId":"users","plaintext":"\ud800"}"#, "line 1"),
        (br#"{"keyId":"users","plaintext":"x"} x"#, "trailing"),
        (deep.as_bytes(), "deep"),
        (br#"{"keyId":"users","plaintext":"x","more":{"$serde_json::private::RawValue":"[]"}}"#, "$serde_json"),
    ];
    for (body, what) in cases {
        let message = admin.post_raw("/v1/crypto/encrypt", body.to_vec()).await.refused(400, "InvalidArgument");
        assert!(message.contains(what), "{what:?} in {message:?}");
    }
    let plain = admin.request(Method::POST, "/v1/crypto/encrypt").header("content-type", "text/plain").body("{}");
    assert!(Client::send(plain).await.refused(415, "UnsupportedMediaType").contains("content-type"));
    for (name, value) in [("content-type", "application/json; charset=latin1"), ("content-encoding", "gzip")] {
        let mut odd = admin.request(Method::POST, "/v1/crypto/encrypt").body("{}");
        if name != "content-type" {
            odd = odd.header("content-type", "application/json");
        }
        let message = Client::send(odd.header(name, value)).await.refused(415, "UnsupportedMediaType");
        assert!(message.starts_with(name), "{message}");
    }
    let large = json!({"keyId": "users", "plaintext": "x".repeat(1024 * 1024)});
    admin.post("/v1/crypto/encrypt", large.clone()).await.refused(413, "PayloadTooLarge");
    // The body of an unauthenticated caller is not read.
    server.client_with(None).post("/v1/crypto/encrypt", large).await.refused(401, "NotAuthenticated");
    let fits = json!({"keyId": "users", "plaintext": "x".repeat(1024 * 1024 - 100)});
    admin.post("/v1/crypto/encrypt", fits).await.expect(200);
    for path in ["/v1/keys/%ff", "/v1/keys/%00", "/v1/keys/..%2f..%2fetc", "/v1/keys/%F0%9F%94%91"] {
        let answer = admin.get(path).await;
        assert!(answer.status.is_client_error(), "{path}: {}", answer.text);
    }
}

#[tokio::test]
async fn limits_answer_429() {
    let server = Server::start(&[("KMS_HTTP_RATE_PER_SECOND", "1"), ("KMS_HTTP_RATE_BURST", "5")]);
    let admin = server.client();
    let mut refused = None;
    for _ in 0..50 {
        let answer = admin.get("/v1/keys").await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("more than its rate");
    refused.refused(429, "RateLimited");
    assert!(refused.headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
    server.client_with(None).get("/v1/healthz").await.expect(200);
}

#[tokio::test]
async fn slow_and_silent_callers_hinder_nobody() {
    let server = Server::start(&[
        ("KMS_HTTP_IDLE_TIMEOUT_SECONDS", "2"),
        ("KMS_HTTP_BODY_TIMEOUT_SECONDS", "2"),
        ("KMS_HTTP_CONNECTIONS", "300"),
    ]);
    let admin = server.client();
    admin.aes_key("users").await;
    let address = server.url.trim_start_matches("http://").to_owned();
    // More connections than allowed: without data, with half a head, with half a body.
    let mut held = Vec::new();
    for n in 0..600 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let text = match n % 3 {
            0 => String::new(),
            1 => "GET /v1/keys HTTP/1.1\r\nhost: x\r\n".to_owned(),
            _ => format!(
                "POST /v1/crypto/encrypt HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: \
                 application/json\r\ncontent-length: 100\r\n\r\n{{",
                server.admin
            ),
        };
        let _ = stream.write_all(text.as_bytes()).await;
        held.push(stream);
    }
    // Every attempt uses a new connection.
    let mut served = 0;
    for _ in 0..200 {
        let fresh = server.client();
        let request =
            fresh.request(Method::POST, "/v1/crypto/encrypt").json(&json!({"keyId": "users", "plaintext": "x"}));
        if request.send().await.is_ok_and(|answer| answer.status() == 200) {
            served += 1;
            if served == 20 {
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(served, 20, "others are served");
    // A request with half a body gets a response; the other connections are closed.
    for mut stream in held {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_in_the_log_after_a_power_failure() {
    let mut server = Server::start(&[]);
    let admin = server.client();
    let key = admin.aes_key("users").await;
    let callers: Vec<_> = (0..16)
        .map(|caller| {
            let admin = admin.clone();
            tokio::spawn(async move {
                let mut answered = Vec::new();
                for n in 0.. {
                    let id = format!("r-{caller}-{n}");
                    let request = admin.request(Method::POST, "/v1/crypto/encrypt").header("x-request-id", &id);
                    match request.json(&json!({"keyId": "users", "plaintext": "x"})).send().await {
                        Ok(answer) if answer.status() == 200 => answered.push(id),
                        _ => break,
                    }
                }
                answered
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.kill();
    let mut answered = HashSet::new();
    for caller in callers {
        answered.extend(caller.await.unwrap());
    }
    assert!(answered.len() > 16, "there was load: {}", answered.len());
    server.restart();
    let admin = server.client();
    assert_eq!(admin.post("/v1/audit/verify", json!({})).await.expect(200)["ok"], true);
    let id = key["id"].as_str().unwrap();
    let mut cursor = String::new();
    loop {
        let page = admin.get(&format!("/v1/audit?limit=1000&action=ENCRYPT&status=SUCCESS&keyId={id}{cursor}")).await;
        for record in page.expect(200).as_array().unwrap() {
            answered.remove(record["requestId"].as_str().unwrap());
        }
        match page.headers.get("x-next-cursor") {
            Some(next) => cursor = format!("&cursor={}", next.to_str().unwrap()),
            None => break,
        }
    }
    assert_eq!(answered, HashSet::new(), "answered with 200 and not in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_lets_running_requests_finish() {
    let mut server = Server::start(&[]);
    let admin = server.client();
    admin.aes_key("users").await;
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let admin = admin.clone();
            tokio::spawn(async move {
                loop {
                    let request = admin.request(Method::POST, "/v1/crypto/encrypt");
                    let sent = request.json(&json!({"keyId": "users", "plaintext": "x"})).send().await;
                    match sent {
                        Ok(answer) => assert_eq!(answer.status(), 200),
                        // New requests may be refused, but an accepted one must get its complete response.
                        Err(error) => return error.is_connect() || error.is_request(),
                    }
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(server.stop().success());
    for caller in callers {
        assert!(caller.await.unwrap());
    }
    server.restart();
    let verified: Value = server.client().post("/v1/audit/verify", json!({})).await.expect(200);
    assert_eq!(verified["ok"], true);
}

/// JSON members with the internal name by which serde_json marks raw values, which a parser might read as JSON again.
#[tokio::test]
async fn json_within_json_is_text() {
    let server = Server::start(&[]);
    let admin = server.client();
    let mut inner = "[".repeat(100) + &"]".repeat(100);
    for _ in 0..5 {
        let marked = json!({"$serde_json::private::RawValue": inner});
        inner = format!("[{marked}]");
    }
    let marked: Value = json!({"$serde_json::private::RawValue": inner});
    for metadata in [json!({"a": marked}), marked.clone(), json!({"team": "pay", "$serde_json::private::Number": "1"})]
    {
        let key = json!({"name": "m", "type": "AES256_GCM", "purpose": "ENCRYPTION", "metadata": metadata});
        admin.post("/v1/keys", key).await.refused(400, "InvalidArgument");
    }
    admin.aes_key("m").await;
    admin.patch("/v1/keys/m", json!({"metadata": marked})).await.refused(400, "InvalidArgument");
}

/// Clients that do not read their responses: the memory of waiting responses is bounded, and other callers are served.
#[tokio::test]
async fn answers_that_nobody_takes_are_bounded() {
    let server = Server::start(&[("KMS_HTTP_BODY_MEMORY_MIB", "8")]);
    let admin = server.client();
    for n in 0..200 {
        let metadata = json!({"text": "x".repeat(15_000)});
        let key = json!({"name": format!("k{n}"), "type": "AES256_GCM", "purpose": "ENCRYPTION", "metadata": metadata});
        admin.post("/v1/keys", key).await.expect(201);
    }
    admin.get("/v1/keys").await.expect(200);
    let before = server.resident_kib();
    let address = server.url.strip_prefix("http://").unwrap();
    let mut silent = Vec::new();
    for _ in 0..60 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
        let head = format!("GET /v1/keys HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", server.admin);
        stream.write_all(head.as_bytes()).await.unwrap();
        silent.push(stream);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Sixty responses of 3 MB would be 180 MB.
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 80 * 1024, "{grown} KiB");
    admin.get("/v1/keys/k1").await.expect(200);
    admin.get("/v1/keys").await.refused(429, "CallerOverloaded");
    drop(silent);
    for n in 0.. {
        if admin.get("/v1/keys").await.status == 200 {
            break;
        }
        assert!(n < 100, "the room does not come back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_request_names_one_host() {
    let server = Server::start(&[]);
    let address = server.url.strip_prefix("http://").unwrap();
    for (hosts, status) in [("", "400"), ("host: a\r\n", "200"), ("host: a\r\nhost: b\r\n", "400")] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("GET /v1/healthz HTTP/1.1\r\n{hosts}connection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // The request is complete; the client still waits for the response.
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{hosts:?}: {answer}");
    }
}
