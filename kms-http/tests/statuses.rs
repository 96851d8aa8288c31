//! Tests of responses when the service is overloaded, times out or has lost its store, and of CORS.

#![allow(clippy::unwrap_used, reason = "a test may fail by a panic")]

mod common;

use std::time::Duration;

use common::{Answer, Client, Server};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The write lock of another process; no other process can write until it is dropped.
async fn write_lock(server: &Server) -> SqliteConnection {
    let mut other = SqliteConnection::connect(&format!("sqlite:{}", server.store().display())).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    other
}

/// Repeats a request until the response has this status.
async fn until(status: u16, client: &Client, method: Method, path: &str) -> Answer {
    for _ in 0..300 {
        let answer = Client::send(client.request(method.clone(), path)).await;
        if answer.status == status {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{path} is never answered {status}");
}

fn retry_after(answer: &Answer) -> u32 {
    answer.headers["retry-after"].to_str().unwrap().parse().unwrap()
}

/// Sends raw text and returns the response. The server closes the connection.
async fn raw(server: &Server, text: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(server.url.trim_start_matches("http://")).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).expect(body))
}

fn head(server: &Server, more: &str) -> String {
    format!(
        "POST /v1/crypto/encrypt HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\n{more}\r\n\r\n",
        server.admin
    )
}

#[tokio::test]
async fn more_than_can_wait_is_sent_away() {
    let server = Server::start_on_file(&[("KMS_HTTP_CONCURRENCY", "1"), ("KMS_HTTP_QUEUE", "0")]);
    let admin = server.client();
    admin.aes_key("users").await;
    let lock = write_lock(&server).await;
    // The admitted request cannot finish while the store is locked, and there is no place for the others.
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let admin = admin.clone();
        callers
            .spawn(async move { admin.post("/v1/crypto/encrypt", json!({"keyId": "users", "plaintext": "x"})).await });
    }
    for _ in 0..7 {
        let refused = callers.join_next().await.unwrap().unwrap();
        // The service has no place for waiting requests.
        refused.refused(503, "Overloaded");
        assert!(retry_after(&refused) >= 1);
    }
    // Probes do not wait in the queue.
    admin.get("/v1/healthz").await.expect(200);
    lock.close().await.unwrap();
    callers.join_next().await.unwrap().unwrap().expect(200);
    until(200, &admin, Method::GET, "/v1/keys").await;
}

#[tokio::test]
async fn the_rate_of_one_caller_does_not_limit_another() {
    let server = Server::start(&[("KMS_HTTP_RATE_PER_SECOND", "1"), ("KMS_HTTP_RATE_BURST", "4")]);
    let admin = server.client();
    let other = admin.token_for("other", "auditor").await;
    let refused = until_refused(&admin).await;
    refused.refused(429, "RateLimited");
    assert!(retry_after(&refused) >= 1);
    other.get("/v1/keys").await.expect(200);
    // Unauthenticated callers have no rate limit of their own and are refused.
    server.client_with(None).get("/v1/keys").await.refused(401, "NotAuthenticated");
}

async fn until_refused(client: &Client) -> Answer {
    for _ in 0..100 {
        let answer = client.get("/v1/keys").await;
        if answer.status != 200 {
            return answer;
        }
    }
    panic!("never over its rate");
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_given_up() {
    let server = Server::start_on_file(&[("KMS_HTTP_REQUEST_TIMEOUT_SECONDS", "3")]);
    let admin = server.client();
    admin.aes_key("users").await;
    let lock = write_lock(&server).await;
    let encrypt = json!({"keyId": "users", "plaintext": "x"});
    let late = admin.post("/v1/crypto/encrypt", encrypt.clone()).await;
    late.refused(504, "OutcomeUnknown");
    assert!(!late.headers.contains_key("retry-after"), "repeated, it might have its effect twice");
    let repeatable = admin.request(Method::POST, "/v1/keys/users/rotate").header("idempotency-key", "once");
    let late = Client::send(repeatable.json(&json!({}))).await;
    late.refused(504, "OutcomeUnknown");
    assert!(retry_after(&late) >= 1);
    // A readiness probe does not wait either.
    until(503, &server.client_with(None), Method::GET, "/v1/readyz").await;
    lock.close().await.unwrap();
    until(200, &server.client_with(None), Method::GET, "/v1/readyz").await;
    // Requests that are running are finished first.
    let mut served = false;
    for _ in 0..10 {
        served |= admin.post("/v1/crypto/encrypt", encrypt.clone()).await.status == 200;
    }
    assert!(served);
}

#[tokio::test]
async fn without_its_store_it_answers_503() {
    let server = Server::start_on_file(&[]);
    let admin = server.client();
    admin.aes_key("users").await;
    server.client_with(None).get("/v1/readyz").await.expect(200);
    for ending in ["", "-wal", "-shm"] {
        std::fs::remove_file(format!("{}{ending}", server.store().display())).unwrap();
    }
    for _ in 0..3 {
        let answer = admin.post("/v1/crypto/encrypt", json!({"keyId": "users", "plaintext": "x"})).await;
        assert_eq!(answer.status, 503, "{}", answer.text);
        assert!(answer.json()["code"].as_str().unwrap().starts_with("Store"), "{}", answer.text);
    }
    let nobody = server.client_with(None);
    let unready = until(503, &nobody, Method::GET, "/v1/readyz").await;
    assert!(!unready.text.contains("kms.db"), "everybody may read it: {}", unready.text);
    nobody.get("/v1/healthz").await.expect(200);
    nobody.get("/v1/keys").await.refused(401, "NotAuthenticated");
}

#[tokio::test]
async fn bodies_that_are_late_or_large() {
    let server = Server::start(&[("KMS_HTTP_BODY_TIMEOUT_SECONDS", "1"), ("KMS_HTTP_BODY_LIMIT_KIB", "4")]);
    let admin = server.client();
    admin.aes_key("users").await;
    let (status, body) = raw(&server, &(head(&server, "content-length: 100") + "{")).await;
    assert_eq!((status, &body["code"]), (408, &json!("RequestTimeout")), "{body}");
    let (status, body) = raw(&server, &(head(&server, "transfer-encoding: chunked") + "1\r\n{\r\n")).await;
    assert_eq!((status, &body["code"]), (408, &json!("RequestTimeout")), "{body}");

    let large = json!({"keyId": "users", "plaintext": "x".repeat(4096)});
    admin.post("/v1/crypto/encrypt", large.clone()).await.refused(413, "PayloadTooLarge");
    // The length is not announced.
    let large = large.to_string();
    let chunked = format!("{}{:x}\r\n{large}\r\n0\r\n\r\n", head(&server, "transfer-encoding: chunked"), large.len());
    let (status, body) = raw(&server, &chunked).await;
    assert_eq!((status, &body["code"]), (413, &json!("PayloadTooLarge")), "{body}");
    let fits = json!({"keyId": "users", "plaintext": "x".repeat(4000)}).to_string();
    let chunked = format!("{}{:x}\r\n{fits}\r\n0\r\n\r\n", head(&server, "transfer-encoding: chunked"), fits.len());
    assert_eq!(raw(&server, &chunked).await.0, 200);
}

/// A caller that is still sending also gets the response.
#[tokio::test]
async fn answers_reach_who_is_still_sending() {
    let server = Server::start(&[]);
    let length = 8 * 1024 * 1024;
    let known = head(&server, &format!("content-length: {length}"));
    let unknown = known.replace(&server.admin, "kms_nobody");
    let no_route = known.replace("/v1/crypto/encrypt", "/v1/nothing");
    for (text, status) in [(known, 413), (unknown, 401), (no_route, 404)] {
        let mut stream = TcpStream::connect(server.url.trim_start_matches("http://")).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        // The client reads nothing until it has sent everything.
        for _ in 0..length / 65_536 {
            stream.write_all(&[b' '; 65_536]).await.unwrap();
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
    }
    // The service reads no more than that and closes the connection.
    let endless = head(&server, "transfer-encoding: chunked").replace(&server.admin, "kms_nobody");
    let mut stream = TcpStream::connect(server.url.trim_start_matches("http://")).await.unwrap();
    stream.write_all(endless.as_bytes()).await.unwrap();
    let chunk = [&b"10000\r\n"[..], &[b' '; 65_536], b"\r\n"].concat();
    while stream.write_all(&chunk).await.is_ok() {}
}

/// The service accepts what it has encrypted and signed.
#[tokio::test]
async fn the_largest_ciphertexts_come_back() {
    let server = Server::start(&[]);
    let admin = server.client();
    admin.aes_key("users").await;
    admin.rsa_key("invoices", "SIGNING").await;
    for length in [786_358, 786_359, 1_048_000] {
        let plaintext = "x".repeat(length);
        let sealed =
            admin.post("/v1/crypto/encrypt", json!({"keyId": "users", "plaintext": plaintext})).await.expect(200);
        let anew = json!({"ciphertext": sealed["ciphertext"]});
        assert_eq!(admin.post("/v1/crypto/reencrypt", anew).await.expect(200)["keyId"], sealed["keyId"]);
        let mut back = sealed.clone();
        back.as_object_mut().unwrap().remove("keyType");
        assert!(admin.post("/v1/crypto/decrypt", back).await.expect(200)["plaintext"] == plaintext.as_str());
        let signed =
            admin.post("/v1/crypto/sign", json!({"keyId": "invoices", "payload": plaintext})).await.expect(200);
        let check = json!({"keyId": "invoices", "payload": plaintext, "signature": signed["signature"], "version": 1});
        assert_eq!(admin.post("/v1/crypto/verify", check).await.expect(200)["valid"], true);
    }
    let items = vec![json!({"keyId": "users", "plaintext": "x".repeat(1_000)}); 1_000];
    let sealed = admin.post("/v1/crypto/encrypt", json!({"items": items})).await.expect(200);
    let back: Vec<Value> = sealed["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|result| {
            let mut item = result.clone();
            item.as_object_mut().unwrap().remove("keyType");
            item
        })
        .collect();
    let opened = admin.post("/v1/crypto/decrypt", json!({"items": back})).await.expect(200);
    assert!(opened["results"].as_array().unwrap().iter().all(|result| result["plaintext"] == "x".repeat(1_000)));
    // There is still a limit.
    let large = json!({"keyId": "users", "ciphertext": "A".repeat(3 * 1024 * 1024)});
    admin.post("/v1/crypto/decrypt", large).await.refused(413, "PayloadTooLarge");
}

fn from(client: &Client, method: Method, origin: &str) -> reqwest::RequestBuilder {
    client.request(method, "/v1/keys").header("origin", origin)
}

#[tokio::test]
async fn pages_of_other_origins_only_when_configured() {
    const CONSOLE: &str = "https://console.example";
    let asking = |client: &Client, origin: &str| {
        from(client, Method::OPTIONS, origin).header("access-control-request-method", "POST")
    };
    let off = Server::start(&[]);
    let nobody = off.client_with(None);
    let asked = Client::send(asking(&nobody, CONSOLE)).await;
    asked.refused(405, "MethodNotAllowed");
    let read = Client::send(from(&off.client(), Method::GET, CONSOLE)).await;
    read.expect(200);
    for answer in [asked, read] {
        assert!(!answer.headers.keys().any(|name| name.as_str().starts_with("access-control")), "{answer:?}");
    }

    let on = Server::start(&[("KMS_HTTP_CORS_ORIGINS", CONSOLE)]);
    let nobody = on.client_with(None);
    let asked = Client::send(asking(&nobody, CONSOLE)).await;
    assert_eq!((asked.status.as_u16(), asked.text.as_str()), (204, ""));
    assert_eq!(asked.headers["access-control-allow-origin"], CONSOLE);
    let names = asked.headers["access-control-allow-headers"].to_str().unwrap();
    assert!(names.contains("authorization") && names.contains("idempotency-key"), "{names}");
    assert!(asked.headers["access-control-allow-methods"].to_str().unwrap().contains("PATCH"));
    assert!(!asked.headers.contains_key("access-control-allow-credentials"));
    // A page must be able to read the error, too.
    for (client, status) in [(on.client(), 200), (nobody, 401)] {
        let read = Client::send(from(&client, Method::GET, CONSOLE)).await;
        assert_eq!(read.status, status);
        assert_eq!(read.headers["access-control-allow-origin"], CONSOLE);
        assert_eq!(read.headers["vary"], "origin");
    }
    for other in ["https://console.example.evil", "http://console.example", "null"] {
        let asked = Client::send(asking(&on.client(), other)).await;
        let read = Client::send(from(&on.client(), Method::GET, other)).await;
        for answer in [asked, read] {
            assert!(!answer.headers.contains_key("access-control-allow-origin"), "{other}: {answer:?}");
            assert_eq!(answer.headers["vary"], "origin");
        }
    }
}
