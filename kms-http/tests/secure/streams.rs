//! Tests of HTTP/2 streams: the memory of their bodies is counted, and connections are closed gracefully.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kms_test_support::authority::{Authority, Files};
use serde_json::json;

use crate::certificates::serve;
use crate::client::{config, connect, request, send};

/// A request whose body begins with this many bytes and never ends.
fn endless(token: &str, bytes: usize) -> Request<Body> {
    let begun = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; bytes]))]);
    let body = Body::from_stream(futures_util::StreamExt::chain(begun, futures_util::stream::pending()));
    let request = Request::builder().method("POST").uri("https://localhost/v1/crypto/encrypt");
    let request = request.header("authorization", format!("Bearer {token}"));
    request.header("content-type", "application/json").body(body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bodies_of_many_streams_are_counted() {
    let servers = Authority::new("servers");
    let files = Files::create();
    let server = serve(&servers, &files, &[("KMS_HTTP_BODY_MEMORY_MIB", "4")]);
    let admin = Some(server.admin.as_str());
    let h2 = || config(&servers, None, Some("h2"));
    let key = json!({"name": "users", "type": "AES256_GCM", "purpose": "ENCRYPTION"});
    assert_eq!(send(&server, h2(), request("/v1/keys", admin, Some(&key))).await.unwrap().status, 201);
    let grant = json!({"principal": "other", "role": "app", "keyId": "*", "allowedOps": ["encrypt"]});
    assert_eq!(send(&server, h2(), request("/v1/grants", admin, Some(&grant))).await.unwrap().status, 201);
    let other = json!({"principal": "other", "role": "app"});
    let other = send(&server, h2(), request("/v1/tokens", admin, Some(&other))).await.unwrap().body;
    // 8 kB in each of 500 streams: 4 MB of bodies, and 4 MB for the streams themselves.
    let mut waiting = Vec::new();
    let mut connections = Vec::new();
    for _ in 0..5 {
        let stream = connect(&server, h2()).await.unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        connections.push((sender.clone(), tokio::spawn(connection)));
        for _ in 0..100 {
            let (mut sender, request) = (sender.clone(), endless(&server.admin, 8_000));
            waiting.push(tokio::spawn(async move {
                sender.send_request(request).await.map(|answer| answer.status().as_u16())
            }));
        }
    }
    let refused = async {
        loop {
            let finished = waiting.iter().filter(|one| one.is_finished()).count();
            if finished >= 300 {
                return finished;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(12), refused).await.expect("too few requests were refused");
    assert!(refused < 450, "too many requests were refused: {refused}");
    // Another caller is served meanwhile.
    let encrypt = json!({"keyId": "users", "plaintext": "x"});
    for _ in 0..5 {
        let answer = send(&server, h2(), request("/v1/crypto/encrypt", other["token"].as_str(), Some(&encrypt))).await;
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "{:?}", answer.body);
    }
    let (mut answered, mut reset) = (0, 0);
    for one in waiting {
        if !one.is_finished() {
            one.abort();
        } else if let Ok(status) = one.await.unwrap() {
            assert_eq!(status, 429);
            answered += 1;
        } else {
            // The service reset the stream, because the other caller needed its memory.
            reset += 1;
        }
    }
    assert!(answered >= 250 && reset < 50, "{answered} answered, {reset} reset");
    assert!(!connections.iter().any(|(_, one)| one.is_finished()), "a connection was closed");
    connections.iter().for_each(|(_, one)| one.abort());
}

#[tokio::test(flavor = "multi_thread")]
async fn open_connections_receive_goaway_at_the_end() {
    let servers = Authority::new("servers");
    let files = Files::create();
    let mut server = serve(&servers, &files, &[]);
    let stream = connect(&server, config(&servers, None, Some("h2"))).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let health = || request("/v1/healthz", None, None);
    assert_eq!(sender.send_request(health()).await.unwrap().status(), 200);
    server.signal("-TERM");
    // GOAWAY ends the connection without an error.
    tokio::time::timeout(Duration::from_secs(20), connection)
        .await
        .expect("the connection stays open")
        .unwrap()
        .unwrap();
    assert!(sender.send_request(health()).await.is_err());
    assert!(server.process.wait().unwrap().success());
}
