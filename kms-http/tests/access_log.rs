//! Tests of the access log and of log lines about unauthenticated callers.

#![allow(clippy::unwrap_used)]

mod common;

use std::process::Stdio;
use std::time::Duration;

use common::{Server, json_output, program, wait_for_url};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;

const JSON: [(&str, &str); 2] = [("KMS_HTTP_LOG_REQUESTS", "true"), ("KMS_HTTP_LOG_FORMAT", "json")];

/// Closes a connection with a TCP reset.
fn reset(stream: std::net::TcpStream) {
    stream.set_nonblocking(true).unwrap();
    let stream = tokio::net::TcpStream::from_std(stream).unwrap();
    stream.set_zero_linger().unwrap();
}

/// The log lines with this target, once one of them has this request id.
async fn lines(server: &Server, target: &str, request_id: &str) -> Vec<Value> {
    for _ in 0..600 {
        let text = std::fs::read_to_string(server.home.path().join("log")).unwrap();
        let all =
            text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}")));
        let found: Vec<Value> = all.filter(|line| line["target"] == target).collect();
        if found.iter().any(|line| line["request_id"] == request_id) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no line about {request_id}");
}

#[tokio::test]
async fn each_request_has_its_line() {
    let server = Server::start_on_file(&JSON);
    let admin = server.client();
    admin.aes_key("users").await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let encrypt = admin.request(Method::POST, "/v1/keys/users/rotate").header("x-request-id", "my-rotation");
    common::Client::send(encrypt.header("traceparent", trace).json(&json!({}))).await.expect(200);
    let lost = admin.request(Method::GET, "/v1/nowhere").header("x-request-id", "my-loss");
    common::Client::send(lost).await.expect(404);
    let lines = lines(&server, "kms_http::request", "my-loss").await;
    let rotation = lines.iter().find(|line| line["request_id"] == "my-rotation").unwrap();
    for (name, value) in [
        ("source", json!("127.0.0.1")),
        ("method", json!("POST")),
        ("route", json!("/v1/keys/{key}/rotate")),
        ("operation", json!("rotateKey")),
        ("status", json!(200)),
        ("principal", json!("admin")),
        ("trace_id", json!("4bf92f3577b34da6a3ce929d0e0e4736")),
    ] {
        assert_eq!(rotation[name], value, "{name}: {rotation}");
    }
    assert!(rotation["micros"].as_u64().unwrap() > 0);
    let loss = lines.iter().find(|line| line["request_id"] == "my-loss").unwrap();
    assert_eq!(
        (&loss["status"], &loss["code"], &loss["path"]),
        (&json!(404), &json!("NotFound"), &json!("/v1/nowhere"))
    );
    assert!(!lines.iter().any(|line| line.to_string().contains(&server.admin)), "a token is in the log");
}

#[tokio::test]
async fn callers_that_are_not_recognized_have_lines_but_not_many() {
    let settings = [("KMS_HTTP_LOG_FORMAT", "json"), ("KMS_HTTP_AUTH_FAILURES_PER_SECOND", "0")];
    let server = Server::start_on_file(&settings);
    let nobody = server.client_with(Some("kms_secret"));
    for n in 0..200 {
        let request = nobody.request(Method::GET, "/v1/keys").header("x-request-id", format!("try-{n}"));
        common::Client::send(request).await.refused(401, "NotAuthenticated");
    }
    let lines = lines(&server, "kms_http::authentication", "try-0").await;
    let first = &lines[0];
    assert_eq!((&first["peer"], &first["shown"]), (&json!("127.0.0.1"), &json!("token")), "{first}");
    assert!(!first.to_string().contains("secret"));
    // 200 requests are sent within moments; with a line for each, any caller could fill the disk.
    assert!(lines.len() < 200, "{}", lines.len());
}

/// Requests that fail because the store is gone are logged once per outage, not one by one.
#[tokio::test]
async fn an_outage_of_the_store_has_few_lines() {
    let server = Server::start_on_file(&[("KMS_HTTP_LOG_FORMAT", "json")]);
    // A well-formed token, so that it is looked up in the store.
    let unknown = server.client_with(Some(&format!("kms_{}", "A".repeat(64))));
    unknown.get("/v1/keys").await.refused(401, "NotAuthenticated");
    for ending in ["", "-wal", "-shm"] {
        std::fs::remove_file(format!("{}{ending}", server.store().display())).unwrap();
    }
    // These are recognized or refused without the store, which does not end the outage.
    let (malformed, known) = (server.client_with(Some("kms_malformed")), server.client());
    let mut unavailable = 0;
    for n in 0..200 {
        unavailable += usize::from(unknown.get("/v1/keys").await.status == 503);
        if n % 20 == 0 {
            malformed.get("/v1/keys").await.refused(401, "NotAuthenticated");
            assert_ne!(known.get("/v1/keys").await.status, 401);
        }
    }
    assert!(unavailable > 100, "{unavailable}");
    let log = std::fs::read_to_string(server.home.path().join("log")).unwrap();
    let (about, all) = (log.matches("callers cannot be recognized").count(), log.lines().count());
    assert_eq!(about, 1, "{log}");
    assert!(all < 30, "{all} lines: {log}");
}

/// No process reads the log: requests still get responses, and lines that do not fit are counted.
#[tokio::test]
async fn a_log_that_nobody_takes_blocks_nothing() {
    let home = TempDir::new().unwrap();
    let first = program(&home).args(["--json", "init"]).output().unwrap();
    let token = json_output(&first)["token"].as_str().unwrap().to_owned();
    let mut command = program(&home);
    command.env("KMS_HTTP_LISTEN", "127.0.0.1:0").env("KMS_HTTP_LOG_REQUESTS", "true");
    // This end of the pipe stays open and is not read.
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (url, _output) = wait_for_url(&mut process);
    let http = reqwest::Client::new();
    // Far more than the pipe and the queue of lines can hold.
    let ask = |count: usize| {
        let (http, url) = (http.clone(), url.clone());
        tokio::spawn(async move {
            for _ in 0..count {
                let answer = http.get(format!("{url}/v1/healthz")).send().await.unwrap();
                assert_eq!(answer.status(), 200);
            }
        })
    };
    let all: Vec<_> = (0..8).map(|_| ask(2_500)).collect();
    for asking in all {
        tokio::time::timeout(Duration::from_secs(120), asking).await.expect("requests wait for the log").unwrap();
    }
    let metrics = http.get(format!("{url}/metrics")).bearer_auth(token).send().await.unwrap().text().await.unwrap();
    let dropped = metrics.lines().find_map(|line| line.strip_prefix("kms_log_lines_dropped_total ")).unwrap();
    assert!(dropped.parse::<u64>().unwrap() > 0, "{dropped}");
    process.kill().unwrap();
    process.wait().unwrap();
}

#[tokio::test]
async fn a_caller_that_goes_away_has_its_line_too() {
    let server = Server::start_on_file(&JSON);
    let admin = server.client();
    admin.aes_key("users").await;
    // The lock prevents commits meanwhile.
    let mut other = SqliteConnection::connect(&format!("sqlite:{}", server.store().display())).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let address = server.url.strip_prefix("http://").unwrap();
    let mut caller = std::net::TcpStream::connect(address).unwrap();
    let request = format!(
        "POST /v1/keys/users/rotate HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\nx-request-id: \
         gone\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}",
        server.admin
    );
    std::io::Write::write_all(&mut caller, request.as_bytes()).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    // The caller resets the connection.
    reset(caller);
    let lines = lines(&server, "kms_http::request", "gone").await;
    let gone = lines.iter().find(|line| line["request_id"] == "gone").unwrap();
    assert_eq!(
        (&gone["message"], &gone["route"]),
        (&json!("the client disconnected"), &json!("/v1/keys/{key}/rotate"))
    );
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
}
