//! Tests of traces over OTLP, with a collector that decodes them with OpenTelemetry's own messages.

#![cfg(feature = "otlp")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail by a panic, and says what it skips")]

mod collector;
#[path = "../common/mod.rs"]
mod common;

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use collector::Collector;
use common::{Client, Server, metric, program, scrape_beyond};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
/// OpenTelemetry's numbers for `SPAN_KIND_SERVER` and `SPAN_KIND_CLIENT`.
const KINDS: (u64, u64) = (2, 3);
/// OpenTelemetry's number for `STATUS_CODE_ERROR`.
const ERROR: u64 = 2;

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

/// Sends a request with this request id and these headers.
async fn send(client: &Client, method: Method, path: &str, id: &str, headers: &[(&str, &str)], body: Option<Value>) {
    let mut request = client.request(method, path).header("x-request-id", id);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    Client::send(request).await;
}

#[tokio::test]
async fn requests_have_spans_without_secrets() {
    let Some(collector) = Collector::start_with_tls() else { return };
    let server = Server::start_on_file(
        &[&collector.environment()[..], &[("KMS_HTTP_LOG_REQUESTS", "true"), ("KMS_HTTP_LOG_FORMAT", "json")]].concat(),
    );
    let admin = server.client();
    admin.aes_key("users").await;
    let plaintext = "a secret plaintext";
    let within = [("traceparent", &*traceparent("01")), ("tracestate", "vendor=value")];
    let body = json!({"keyId": "users", "plaintext": plaintext, "aad": {"tenant": "the-context"}});
    send(&admin, Method::POST, "/v1/crypto/encrypt", "within", &within, Some(body.clone())).await;
    let encrypted = admin.post("/v1/crypto/encrypt", body).await.expect(200);
    // The flag says that the caller does not record the trace.
    let unsampled = [("traceparent", &*traceparent("00"))];
    send(&admin, Method::GET, "/v1/keys/users", "unsampled", &unsampled, None).await;
    let broken = [("traceparent", "00-xyz-1-01"), ("tracestate", "vendor=value")];
    send(&admin, Method::GET, "/v1/keys/users", "broken", &broken, None).await;
    send(&admin, Method::GET, "/v1/nowhere/secret-path?secret=query", "lost", &[], None).await;
    send(&server.client_with(Some("kms_secret")), Method::GET, "/v1/keys", "unknown", &[], None).await;
    send(&admin, Method::GET, "/v1/healthz", "last", &[], None).await;

    collector.wait_for("last").await;
    let of = |id: &str| collector.of_request(id).unwrap_or_else(|| panic!("no span of {id}"));
    let span = of("within");
    assert_eq!((&span["name"], &span["kind"]), (&json!("POST /v1/crypto/encrypt"), &json!(KINDS.0)), "{span}");
    assert_eq!((&span["trace"], &span["parent"]), (&json!(TRACE), &json!(PARENT)), "{span}");
    assert_eq!((&span["state"], &span["status"]), (&json!("vendor=value"), &json!(0)), "{span}");
    assert_eq!(
        span["attributes"],
        json!({
            "http.request.method": "POST", "http.route": "/v1/crypto/encrypt", "http.response.status_code": 200,
            "operation": "encrypt", "principal": "admin", "client.address": "127.0.0.1", "request_id": "within",
        })
    );
    assert_eq!(span["resource"]["service.name"], "kms-http");
    assert_eq!(span["resource"]["service.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&span["headers"]["authorization"], &span["events"]), (&json!("Bearer for-traces"), &json!(0)));
    // The span of the library is a child of the request's span.
    let children: Vec<Value> = collector.spans().into_iter().filter(|child| child["parent"] == span["id"]).collect();
    assert_eq!(children.len(), 1, "{children:?}");
    assert_eq!((&children[0]["name"], &children[0]["trace"]), (&json!("kms.operate"), &json!(TRACE)));
    assert_eq!(children[0]["attributes"], json!({"action": "ENCRYPT", "principal": "admin", "items": "1"}));

    assert!(collector.of_request("unsampled").is_none(), "the caller does not record this trace");
    let own = of("broken");
    assert_eq!((&own["parent"], &own["state"]), (&json!(""), &json!("")), "{own}");
    let unknown = of("unknown");
    assert_eq!(unknown["attributes"]["http.response.status_code"], 401);
    assert_eq!(unknown["attributes"]["error.type"], "NotAuthenticated");
    assert!(unknown["attributes"].get("principal").is_none() && unknown["status"] == 0, "{unknown}");
    let lost = of("lost");
    assert_eq!((&lost["name"], &lost["attributes"]["error.type"]), (&json!("GET"), &json!("NotFound")));
    // A line of the access log names the trace.
    let log = std::fs::read_to_string(server.home.path().join("log")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let line = lines.into_iter().find(|line| line["request_id"] == "broken").unwrap();
    assert_eq!(line["trace_id"], own["trace"]);
    assert!(line.get("spans").is_none() && line.get("span").is_none(), "{line}");

    let key = std::fs::read_to_string(server.home.path().join(".config/mini-kms/root.key")).unwrap();
    let ciphertext = encrypted["ciphertext"].as_str().unwrap();
    let root = key.trim().split_once(':').unwrap().1;
    for secret in [plaintext, ciphertext, root, &server.admin, "the-context", "kms_secret", "secret-path", "query"] {
        assert!(!collector.has_seen(secret), "{secret} is in the traces");
    }
    let text = scrape_beyond(&admin, "kms_otlp_spans_exported_total", 7).await;
    assert_eq!(metric(&text, "kms_otlp_spans_dropped_total"), 0);
}

#[tokio::test]
async fn queued_spans_are_exported_at_the_end() {
    let Some(collector) = Collector::start() else { return };
    let mut server = Server::start_on_file(&collector.environment());
    send(&server.client(), Method::GET, "/v1/keys", "at-the-end", &[], None).await;
    assert!(server.stop().success());
    assert!(collector.of_request("at-the-end").is_some(), "{:?}", collector.spans());
}

/// The collector accepts connections and never answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_collector_costs_only_dropped_spans() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let mut server = Server::start_on_file(&[
        ("KMS_HTTP_OTLP_ENDPOINT", endpoint.as_str()),
        ("KMS_HTTP_OTLP_TIMEOUT_SECONDS", "600"),
    ]);
    let admin = server.client();
    let before = server.resident_kib();
    // More spans than the queue can hold.
    let asking: Vec<_> = (0..8)
        .map(|_| {
            let admin = admin.clone();
            tokio::spawn(async move {
                for _ in 0..750 {
                    admin.get("/v1/healthz").await.expect(200);
                }
            })
        })
        .collect();
    for asking in asking {
        asking.await.unwrap();
    }
    let text = scrape_beyond(&admin, "kms_otlp_spans_dropped_total", 0).await;
    assert_eq!(metric(&text, "kms_otlp_spans_exported_total"), 0);
    assert!(server.resident_kib() < before + 64 * 1024, "{} KiB, then {}", before, server.resident_kib());
    // The service ends although it cannot export the queued spans.
    assert!(server.stop().success());
}

#[tokio::test]
async fn an_outage_of_the_collector_is_logged_once_and_ends() {
    let Some(collector) = Collector::start() else { return };
    collector.answer(400);
    let server = Server::start_on_file(&collector.environment());
    let admin = server.client();
    // Several exports fail in one outage.
    let text = scrape_beyond(&admin, "kms_otlp_export_failures_total", 2).await;
    assert!(metric(&text, "kms_otlp_spans_dropped_total") > 0);
    collector.answer(200);
    send(&admin, Method::GET, "/v1/keys", "again", &[], None).await;
    collector.wait_for("again").await;
    let log = std::fs::read_to_string(server.home.path().join("log")).unwrap();
    assert_eq!(log.matches("traces cannot be exported").count(), 1, "{log}");
    assert!(log.contains("400 Bad Request"), "{log}");
    for _ in 0..100 {
        let log = std::fs::read_to_string(server.home.path().join("log")).unwrap();
        if log.contains("traces can be exported again") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the log does not say that traces can be exported again");
}

#[tokio::test]
async fn requests_to_the_issuer_continue_the_trace() {
    let Some(collector) = Collector::start() else { return };
    let seen = Arc::new(Mutex::new(Vec::<HeaderMap>::new()));
    let seeing = Arc::clone(&seen);
    let issuer = Router::new().fallback(move |headers: HeaderMap| async move {
        seeing.lock().unwrap().push(headers);
        StatusCode::NOT_FOUND
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, issuer).into_future());
    let environment = [
        ("KMS_HTTP_AUTH", "token,oidc"),
        ("KMS_HTTP_TOKEN_PREFIX", "t:"),
        ("KMS_HTTP_OIDC_PRINCIPAL_PREFIX", "o:"),
        ("KMS_HTTP_OIDC_ISSUER", url.as_str()),
        ("KMS_HTTP_OIDC_AUDIENCES", "kms"),
        ("KMS_HTTP_OIDC_RETRY_SECONDS", "0"),
    ];
    let server = Server::start_on_file(&[&collector.environment()[..], &environment].concat());
    let parent = traceparent("01");
    // The claims are valid, so the service requests the issuer's keys.
    let encode = |part: Value| base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, part.to_string());
    let header = encode(json!({"alg": "RS256", "kid": "a"}));
    let claims = encode(json!({"iss": url, "aud": "kms", "sub": "alice", "exp": 4_102_444_800_u64}));
    let jwt = format!("{header}.{claims}.AAAA");
    send(&server.client_with(Some(&jwt)), Method::GET, "/v1/keys", "asks", &[("traceparent", &parent)], None).await;
    collector.wait_for("asks").await;
    let request = collector.of_request("asks").unwrap();
    // The child span may be exported later than its parent.
    let is_fetch = |span: &Value| span["name"] == "oidc.fetch" && span["trace"] == TRACE;
    let fetch = collector.find("a fetch", is_fetch).await;
    assert_eq!((&fetch["parent"], &fetch["kind"]), (&request["id"], &json!(KINDS.1)));
    let given = format!("00-{TRACE}-{}-01", fetch["id"].as_str().unwrap());
    let seen = seen.lock().unwrap();
    let found = seen.iter().find(|headers| headers.get("traceparent").is_some_and(|value| *value == given));
    assert!(!found.expect("no request to the issuer continues the trace").contains_key("tracestate"), "{seen:?}");
}

#[tokio::test]
async fn traces_are_sampled() {
    let Some(collector) = Collector::start() else { return };
    let server =
        Server::start_on_file(&[&collector.environment()[..], &[("KMS_HTTP_OTLP_SAMPLE_PERCENT", "0")]].concat());
    let admin = server.client();
    send(&admin, Method::GET, "/v1/keys", "own", &[], None).await;
    // If the caller records the trace, the service records its spans too.
    send(&admin, Method::GET, "/v1/keys", "asked", &[("traceparent", &traceparent("01"))], None).await;
    collector.wait_for("asked").await;
    assert!(collector.of_request("own").is_none());
}

/// A span has the status error only if the service is at fault.
#[tokio::test]
async fn spans_of_internal_faults_have_the_status_error() {
    let Some(collector) = Collector::start() else { return };
    let server = Server::start_on_file(&collector.environment());
    let admin = server.client();
    admin.aes_key("users").await;
    let folder = server.store().parent().unwrap().to_owned();
    std::fs::rename(&folder, server.home.path().join("away")).unwrap();
    send(&admin, Method::POST, "/v1/keys/users/rotate", "fault", &[], Some(json!({}))).await;
    collector.wait_for("fault").await;
    let fault = collector.of_request("fault").unwrap();
    assert_eq!((&fault["status"], &fault["attributes"]["error.type"]), (&json!(ERROR), &json!("StoreUnavailable")));
}

#[test]
fn invalid_settings_are_refused() {
    let home = TempDir::new().unwrap();
    let headers = home.path().join("headers");
    let headers = headers.to_str().unwrap();
    let endpoint = ("KMS_HTTP_OTLP_ENDPOINT", "http://127.0.0.1:4318");
    for (variables, said) in [
        (&[("KMS_HTTP_OTLP_ENDPOINT", "http://collector.example:4318")][..], "loopback"),
        (&[("KMS_HTTP_OTLP_ENDPOINT", "collector:4318")], "http.otlp.endpoint"),
        (&[("KMS_HTTP_OTLP_ENDPOINT", "https://user:the-secret@collector:4318")], "contains a user"),
        (&[("KMS_HTTP_OTLP_HEADERS_FILE", "headers")], "http.otlp.endpoint"),
        (&[endpoint, ("KMS_HTTP_OTLP_HEADERS_FILE", "/nowhere/headers")], "/nowhere/headers"),
        (&[endpoint, ("KMS_HTTP_OTLP_SAMPLE_PERCENT", "101")], "between 0 and 100"),
    ] {
        let checked = program(&home).envs(variables.iter().copied()).args(["config", "check"]).output().unwrap();
        assert_eq!(checked.status.code(), Some(2), "{checked:?}");
        let message = String::from_utf8_lossy(&checked.stderr);
        assert!(message.contains(said) && !message.contains("the-secret"), "{message}");
    }
    let check = |text: &str| {
        std::fs::write(headers, text).unwrap();
        let variables = [endpoint, ("KMS_HTTP_OTLP_HEADERS_FILE", headers)];
        program(&home).envs(variables).args(["config", "check"]).output().unwrap()
    };
    assert!(check("authorization: Bearer a:b\n\nX-Tenant:  kms \r\n").status.success());
    for bad in ["the-secret", "a b: the-secret", ": the-secret", "a: the-secret\u{7}"] {
        let checked = check(&format!("x: y\n{bad}\n"));
        assert_eq!(checked.status.code(), Some(2), "{checked:?}");
        let message = String::from_utf8_lossy(&checked.stderr);
        assert!(message.contains("line 2") && !message.contains("the-secret"), "{message}");
    }
}
