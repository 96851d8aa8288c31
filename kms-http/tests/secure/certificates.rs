//! Tests of HTTP within TLS: client certificates, reloaded certificates, revocation, and the age of connections.

use std::time::Duration;

use axum::body::Body;
use axum::http::Version;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kms_test_support::authority::{Authority, Files};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;

use crate::client::{config, connect, many, request, send, shown};
use crate::common::Server;

/// Starts a service with a certificate of `servers` and these variables. `{files}` in a value is replaced by the folder
/// of the certificates.
pub fn serve(servers: &Authority, files: &Files, more: &[(&str, &str)]) -> Server {
    files.install(&servers.server(1));
    let folder = files.folder().to_str().unwrap();
    let mut variables = vec![
        ("KMS_HTTP_TLS_CERTIFICATE_FILE", format!("{folder}/server.pem")),
        ("KMS_HTTP_TLS_KEY_FILE", format!("{folder}/server.key")),
    ];
    variables.extend(more.iter().map(|(name, value)| (*name, value.replace("{files}", folder))));
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Server::start_in(TempDir::new().unwrap(), &variables)
}

/// Starts a service that also accepts client certificates of `callers`; `how` is `required` or `optional`.
fn serve_callers(
    (servers, callers): (&Authority, &Authority),
    files: &Files,
    how: &str,
    more: &[(&str, &str)],
) -> Server {
    files.write("callers.pem", callers.pem());
    let both = [
        ("KMS_HTTP_AUTH", "token,mtls"),
        ("KMS_HTTP_TOKEN_PREFIX", "token:"),
        ("KMS_HTTP_MTLS_PRINCIPAL_PREFIX", "cert:"),
        ("KMS_HTTP_TLS_CLIENT_CERTIFICATES", how),
        ("KMS_HTTP_TLS_CLIENT_CA_FILE", "{files}/callers.pem"),
    ];
    serve(servers, files, &[&both, more].concat())
}

fn new_key(name: &str) -> Value {
    json!({"name": name, "type": "AES256_GCM", "purpose": "ENCRYPTION"})
}

#[tokio::test]
async fn http_1_and_http_2_are_served_within_tls() {
    let servers = Authority::new("servers");
    let files = Files::create();
    let server = serve(&servers, &files, &[]);
    let token = Some(server.admin.as_str());
    for (protocol, version) in
        [(Some("h2"), Version::HTTP_2), (Some("http/1.1"), Version::HTTP_11), (None, Version::HTTP_11)]
    {
        let list = send(&server, config(&servers, None, protocol), request("/v1/keys", token, None)).await.unwrap();
        assert_eq!((list.version, list.status.as_u16()), (version, 200), "{:?}", list.body);
        assert!(list.headers.contains_key("x-request-id") && list.headers.contains_key("strict-transport-security"));
        let none = send(&server, config(&servers, None, protocol), request("/v1/keys", None, None)).await.unwrap();
        assert_eq!((none.status.as_u16(), &none.body["code"]), (401, &json!("NotAuthenticated")));
    }
    // 50 concurrent requests over one connection.
    let made = request("/v1/keys", token, Some(&new_key("users")));
    assert_eq!(send(&server, config(&servers, None, Some("h2")), made).await.unwrap().status, 201);
    let stream = connect(&server, config(&servers, None, Some("h2"))).await.unwrap();
    let plain = json!({"keyId": "users", "plaintext": "x"});
    let encrypt = (0..50).map(|_| request("/v1/crypto/encrypt", token, Some(&plain))).collect();
    for answer in many(stream, encrypt).await.unwrap() {
        assert_eq!((answer.version, answer.status.as_u16()), (Version::HTTP_2, 200), "{:?}", answer.body);
    }
    // A client that does not trust the authority does not connect, and plain HTTP is not answered.
    let stranger = Authority::new("servers");
    connect(&server, config(&stranger, None, None)).await.unwrap_err();
    let plain = server.url.replace("https://", "http://");
    reqwest::get(format!("{plain}/v1/healthz")).await.unwrap_err();
}

#[tokio::test]
async fn a_client_certificate_authenticates_its_subject() {
    let (servers, callers) = (Authority::new("servers"), Authority::new("callers"));
    let files = Files::create();
    let more = [("KMS_HTTP_MTLS_ROLE_FIELD", "common_name"), ("KMS_HTTP_MTLS_ADMIN_VALUES", "Alice")];
    let server = serve_callers((&servers, &callers), &files, "required", &more);
    let (alice, bob) = (callers.client("Alice"), callers.client("bob"));
    for protocol in ["h2", "http/1.1"] {
        let made = request("/v1/keys", None, Some(&new_key(&format!("by {}", protocol.replace('/', " ")))));
        let made = send(&server, config(&servers, Some(&alice), Some(protocol)), made).await.unwrap();
        assert_eq!((made.status.as_u16(), &made.body["metadata"]["owner"]), (201, &json!("cert:Alice")));
        let refused = request("/v1/keys", None, Some(&new_key("by bob")));
        let refused = send(&server, config(&servers, Some(&bob), Some(protocol)), refused).await.unwrap();
        assert_eq!((refused.status.as_u16(), &refused.body["code"]), (403, &json!("AccessDenied")));
        // A token takes precedence over the certificate, and an invalid token is an error.
        let token = request("/v1/keys", Some("kms_wrong"), None);
        let wrong = send(&server, config(&servers, Some(&alice), Some(protocol)), token).await.unwrap();
        assert_eq!(wrong.status, 401);
    }
    let impostor = Authority::new("callers");
    let bad = [
        Some(callers.expired_client("Alice")),
        Some(servers.client("Alice")),
        Some(impostor.client("Alice")),
        Some(callers.no_client("Alice")),
        None,
    ];
    for certificate in &bad {
        let token = Some(server.admin.as_str());
        let config = config(&servers, certificate.as_ref(), Some("http/1.1"));
        send(&server, config, request("/v1/keys", token, None)).await.unwrap_err();
    }
}

/// Subjects that differ in case are distinct callers, also where a grant names them.
#[tokio::test]
async fn certificates_that_differ_in_case_are_distinct_callers() {
    let (servers, callers) = (Authority::new("servers"), Authority::new("callers"));
    let files = Files::create();
    let server = serve_callers((&servers, &callers), &files, "optional", &[]);
    let admin = Some(server.admin.as_str());
    let by_admin = async |path: &str, body: Option<&Value>| {
        send(&server, config(&servers, None, None), request(path, admin, body)).await.unwrap()
    };
    assert_eq!(by_admin("/v1/keys", Some(&new_key("users"))).await.status, 201);
    let grant = json!({"principal": "cert:Bob", "role": "app", "keyId": "users", "allowedOps": ["read"]});
    assert_eq!(by_admin("/v1/grants", Some(&grant)).await.body["principal"], "cert:Bob");
    for (name, status, found) in [("Bob", 200, 1), ("bob", 403, 0), ("BOB", 403, 0)] {
        let read = request("/v1/keys/users", None, None);
        let answer = send(&server, config(&servers, Some(&callers.client(name)), None), read).await.unwrap();
        assert_eq!(answer.status, status, "{name}");
        let listed = by_admin(&format!("/v1/grants?principal=cert:{name}"), None).await;
        assert_eq!(listed.body.as_array().unwrap().len(), found, "{name}");
    }
}

#[tokio::test]
async fn a_token_suffices_where_a_certificate_is_optional() {
    let (servers, callers) = (Authority::new("servers"), Authority::new("callers"));
    let files = Files::create();
    let server = serve_callers((&servers, &callers), &files, "optional", &[]);
    let bob = callers.client("bob");
    let cases = [(None, None, 401), (None, Some(server.admin.as_str()), 200), (Some(&bob), None, 200)];
    for (certificate, token, status) in cases {
        let config = config(&servers, certificate, None);
        assert_eq!(send(&server, config, request("/v1/keys", token, None)).await.unwrap().status, status);
    }
    let expired = callers.expired_client("bob");
    send(&server, config(&servers, Some(&expired), None), request("/v1/keys", None, None)).await.unwrap_err();
}

#[tokio::test]
async fn sighup_reloads_the_certificate() {
    let servers = Authority::new("servers");
    let files = Files::create();
    let server = serve(&servers, &files, &[("KMS_HTTP_TLS_RELOAD_SECONDS", "0")]);
    let first = shown(&server, config(&servers, None, None)).await;
    assert_eq!(expiration(&servers, &server).await, "3786912000");
    let second = servers.server_until(2, 2070);

    // A certificate that does not match the key is not used.
    files.write("server.pem", second.certificate.pem());
    server.signal("-HUP");
    for n in 0.. {
        if std::fs::read_to_string(server.home.path().join("log"))
            .unwrap()
            .contains("the former configuration stays in use")
        {
            break;
        }
        assert!(n < 300, "the log does not report the mismatch");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(shown(&server, config(&servers, None, None)).await, first);

    files.install(&second);
    assert_eq!(shown(&server, config(&servers, None, None)).await, first, "the certificate changed before SIGHUP");
    server.signal("-HUP");
    for n in 0.. {
        if &shown(&server, config(&servers, None, None)).await == second.certificate.der() {
            break;
        }
        assert!(n < 300, "the new certificate is not used");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let list = request("/v1/keys", Some(&server.admin), None);
    assert_eq!(send(&server, config(&servers, None, None), list).await.unwrap().status, 200);
    // The exposition is cached for a second.
    for n in 0.. {
        if expiration(&servers, &server).await == "3155760000" {
            break;
        }
        assert!(n < 300, "the metrics do not show the new certificate");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The end of the certificate's validity, in Unix time, from the metrics.
async fn expiration(servers: &Authority, server: &Server) -> String {
    let scrape = request("/metrics", Some(&server.admin), None);
    let answer = send(server, config(servers, None, None), scrape).await.unwrap();
    let text = answer.body.as_str().unwrap();
    let name = "kms_tls_certificate_expiration_timestamp_seconds ";
    text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{text}")).to_owned()
}

/// Waits for the end of the connection. Panics if it is open after a minute.
async fn ended(connection: impl Future) {
    tokio::time::timeout(Duration::from_secs(60), connection).await.expect("the connection stays open");
}

#[tokio::test]
async fn connections_end_when_their_certificates_may_have_been_revoked() {
    let (servers, callers) = (Authority::new("servers"), Authority::new("callers"));
    let files = Files::create();
    files.write("revoked.pem", callers.revoke(9));
    let more = [
        ("KMS_HTTP_TLS_CLIENT_CRL_FILE", "{files}/revoked.pem"),
        ("KMS_HTTP_TLS_RELOAD_SECONDS", "1"),
        ("KMS_HTTP_IDLE_TIMEOUT_SECONDS", "3600"),
    ];
    let server = serve_callers((&servers, &callers), &files, "required", &more);
    let alice = callers.client_with_serial("alice", 1);
    let old = connect(&server, config(&servers, Some(&alice), Some("http/1.1"))).await.unwrap();
    let (mut old, connection) = http1::handshake::<_, Body>(TokioIo::new(old)).await.unwrap();
    let old_end = tokio::spawn(connection);
    let multiplexed = connect(&server, config(&servers, Some(&alice), Some("h2"))).await.unwrap();
    let (mut multiplexed, connection) =
        http2::handshake::<_, _, Body>(TokioExecutor::new(), TokioIo::new(multiplexed)).await.unwrap();
    let multiplexed_end = tokio::spawn(connection);
    let list = || request("/v1/keys", None, None);
    assert_eq!(old.send_request(list()).await.unwrap().status(), 200);
    assert_eq!(multiplexed.send_request(list()).await.unwrap().status(), 200);

    // A new server certificate ends no connection.
    let renewed = servers.server(2);
    files.install(&renewed);
    let bob = callers.client("bob");
    while &shown(&server, config(&servers, Some(&bob), None)).await != renewed.certificate.der() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(multiplexed.send_request(list()).await.unwrap().status(), 200);
    assert!(!old_end.is_finished() && !multiplexed_end.is_finished());

    files.write("revoked.pem", callers.revoke(1));
    ended(old_end).await;
    ended(multiplexed_end).await;
    let again = config(&servers, Some(&alice), Some("http/1.1"));
    send(&server, again, list()).await.unwrap_err();
    assert_eq!(send(&server, config(&servers, Some(&bob), None), list()).await.unwrap().status, 200);
}

#[tokio::test]
async fn connections_end_at_their_greatest_age() {
    let (servers, files) = (Authority::new("servers"), Files::create());
    let ages = [("KMS_HTTP_CONNECTION_AGE_SECONDS", "1"), ("KMS_HTTP_IDLE_TIMEOUT_SECONDS", "3600")];
    let server = serve(&servers, &files, &ages);
    for protocol in ["http/1.1", "h2"] {
        let mut stream = connect(&server, config(&servers, None, Some(protocol))).await.unwrap();
        ended(async move { while stream.read_u8().await.is_ok() {} }).await;
    }
}
