//! Tests of connections: of silent ones, and of callers that hang up.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::common::Server;
use super::waiting::post;
use super::{PAUSE, is_closed};

/// Before, every connection had two buffers of 8 KiB as soon as it was accepted.
#[tokio::test]
async fn a_silent_connection_takes_little_memory() {
    let server = Server::start(&[]);
    let address = server.url.strip_prefix("http://").unwrap();
    let mut open = Vec::new();
    let mut resident = Vec::new();
    for connections in [100, 900] {
        while open.len() < connections {
            open.push(TcpStream::connect(address).await.unwrap());
        }
        // What is accepted last is served last.
        server.client().get("/v1/healthz").await.expect(200);
        tokio::time::sleep(PAUSE).await;
        resident.push(server.resident_kib());
    }
    let each = (resident[1].saturating_sub(resident[0])) * 1024 / 800;
    assert!(each < 5_000, "{each} bytes each");
    assert!(open.iter().all(|stream| !is_closed(stream)));
}

/// It is noticed while nothing reads the body, because the body waits for memory.
#[tokio::test]
async fn a_caller_that_hangs_up_while_its_body_waits_is_noticed() {
    let settings = [
        ("KMS_HTTP_BODY_MEMORY_MIB", "4"),
        ("KMS_HTTP_BODY_TIMEOUT_SECONDS", "600"),
        ("KMS_HTTP_REQUEST_TIMEOUT_SECONDS", "600"),
        ("KMS_HTTP_IDLE_TIMEOUT_SECONDS", "600"),
    ];
    let server = Server::start(&settings);
    server.client().aes_key("users").await;
    let address = server.url.strip_prefix("http://").unwrap();
    // Half bodies hold the caller's share, and others wait for it in their order.
    let large = post(&server.admin, &json!({"keyId": "users", "plaintext": "x".repeat(1_000_000)}).to_string());
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&large.as_bytes()[..1_000]).await.unwrap();
        slow.push(stream);
    }
    tokio::time::sleep(PAUSE).await;
    let whole = post(&server.admin, &json!({"keyId": "users", "plaintext": "x".repeat(100_000)}).to_string());
    let mut stays = TcpStream::connect(address).await.unwrap();
    stays.write_all(whole.as_bytes()).await.unwrap();
    for sent in [whole.as_bytes(), &whole.as_bytes()[..1_000]] {
        let mut gone = TcpStream::connect(address).await.unwrap();
        gone.write_all(sent).await.unwrap();
        gone.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(60), gone.read_to_end(&mut answer)).await;
        let _ = ended.expect("the request ends, although there is no memory");
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }
    // One that waits as long, and whose caller is there, is served when there is memory.
    assert!(!is_closed(&stays));
    drop(slow);
    let mut first = [0; 12];
    stays.read_exact(&mut first).await.expect("an answer");
    assert_eq!(&first, b"HTTP/1.1 200");
}
