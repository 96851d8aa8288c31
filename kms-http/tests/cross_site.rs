//! Tests of cross-site requests: a request that could change something is refused whatever the credential.

#![allow(clippy::unwrap_used, reason = "a test may fail by a panic")]

mod common;

use common::{Answer, Client, Server};
use reqwest::Method;
use serde_json::json;

const CONSOLE: &str = "https://console.example";
const EVIL: &str = "https://evil.example";
const PUBLIC: &str = "https://kms.example";

/// `Sec-Fetch-Site`, `Origin` (`self`: the address of the service), and whether the request passes.
const CASES: &[(Option<&str>, Option<&str>, bool)] = &[
    (None, None, true),
    (None, Some("self"), true),
    (None, Some(CONSOLE), true),
    (None, Some(PUBLIC), true),
    (None, Some(EVIL), false),
    (None, Some("null"), false),
    (Some("same-origin"), None, true),
    (Some("same-origin"), Some("self"), true),
    (Some("none"), None, true),
    (Some("same-site"), None, false),
    (Some("same-site"), Some("self"), false),
    (Some("same-site"), Some(CONSOLE), true),
    (Some("cross-site"), None, false),
    (Some("cross-site"), Some(EVIL), false),
    (Some("cross-site"), Some("null"), false),
    (Some("cross-site"), Some(CONSOLE), true),
    (Some("cross-site"), Some(PUBLIC), false),
];

fn start(auth: &str) -> Server {
    let origins = [("KMS_HTTP_CORS_ORIGINS", CONSOLE), ("KMS_HTTP_PUBLIC_ORIGINS", PUBLIC)];
    let prefixes = [("KMS_HTTP_TOKEN_PREFIX", "token:"), ("KMS_HTTP_TRUSTED_HEADERS_PREFIX", "proxy:")];
    // Most of these requests have no credential.
    let own = [("KMS_HTTP_AUTH", auth), ("KMS_HTTP_AUTH_FAILURES_PER_SECOND", "0")];
    Server::start(&[&own[..], &origins, &prefixes].concat())
}

/// Sends a request without a body, as a form of another site can.
async fn send(client: &Client, headers: &[(&str, &str)], method: Method, path: &str) -> Answer {
    let request =
        headers.iter().fold(client.request(method, path), |request, (name, value)| request.header(*name, *value));
    Client::send(request).await
}

async fn check(server: &Server, client: &Client, credential: &[(&str, &str)], status: impl Fn(&Method) -> u16) {
    for (site, origin, passes) in CASES {
        let origin = origin.map(|origin| if origin == "self" { &server.url } else { origin });
        let mut headers = credential.to_vec();
        headers.extend(site.map(|site| ("sec-fetch-site", site)));
        headers.extend(origin.map(|origin| ("origin", origin)));
        for (method, path) in [
            (Method::GET, "/v1/keys/users"),
            (Method::HEAD, "/v1/keys/users"),
            (Method::POST, "/v1/audit/verify"),
            (Method::PATCH, "/v1/keys/users"),
            (Method::DELETE, "/v1/grants/00000000-0000-4000-8000-000000000000"),
            (Method::PUT, "/v1/keys/users"),
        ] {
            let is_safe = matches!(method, Method::GET | Method::HEAD);
            let answer = send(client, &headers, method.clone(), path).await;
            let case = format!("{method} {site:?} {origin:?} {credential:?}");
            if *passes || is_safe {
                assert_eq!(answer.status, status(&method), "{case}: {}", answer.text);
            } else {
                assert!(answer.refused(403, "AccessDenied").contains("another site"), "{case}");
            }
        }
    }
}

fn status_for_admin(method: &Method) -> u16 {
    match method.as_str() {
        // The body, the grant or the method is missing.
        "PATCH" => 415,
        "DELETE" => 404,
        "PUT" => 405,
        _ => 200,
    }
}

fn status_for_nobody(method: &Method) -> u16 {
    if method == Method::PUT { 405 } else { 401 }
}

#[tokio::test]
async fn requests_from_other_sites_are_refused_with_and_without_a_token() {
    let server = start("token");
    let admin = server.client();
    admin.aes_key("users").await;
    check(&server, &admin, &[], status_for_admin).await;
    check(&server, &server.client_with(None), &[], status_for_nobody).await;
    let wrong = server.client_with(Some("kms_wrong"));
    check(&server, &wrong, &[], status_for_nobody).await;
}

/// Here the headers of a proxy represent a session: the browser sends it with requests of any page.
#[tokio::test]
async fn requests_from_other_sites_do_not_use_the_session_of_a_proxy() {
    let server = start("token,trusted_headers");
    let session = [("x-principal", "alice"), ("x-role", "admin")];
    let nobody = server.client_with(None);
    let new = json!({"name": "users", "type": "AES256_GCM", "purpose": "ENCRYPTION"});
    let request = nobody.request(Method::POST, "/v1/keys").header("x-principal", "alice").header("x-role", "admin");
    Client::send(request.json(&new)).await.expect(201);
    check(&server, &nobody, &session, status_for_admin).await;

    let mut foreign = session.to_vec();
    foreign.push(("sec-fetch-site", "cross-site"));
    for path in ["/v1/keys/users/revoke", "/v1/keys/users/versions/1/revoke", "/v1/keys/users/rotate"] {
        send(&nobody, &foreign, Method::POST, path).await.refused(403, "AccessDenied");
    }
    let key = send(&nobody, &session, Method::GET, "/v1/keys/users").await.expect(200);
    assert_eq!((&key["state"], &key["currentVersion"]), (&json!("ENABLED"), &json!(1)));
    // A page of an allowed origin can read why the request was refused; other pages cannot.
    let read = send(&nobody, &[("origin", CONSOLE)], Method::POST, "/v1/keys/users/rotate").await;
    assert_eq!(read.headers["access-control-allow-origin"], CONSOLE);
    let unread = send(&nobody, &[("origin", EVIL)], Method::POST, "/v1/keys/users/rotate").await;
    assert!(!unread.headers.contains_key("access-control-allow-origin"));
}
