//! Tests of connections: of silent ones, and of callers that hang up.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::common::Server;
use super::waiting::encryption;
use super::{PAUSE, address, is_closed, patient_with_little_memory};

/// Before, every connection had two buffers of 8 KiB as soon as it was accepted.
#[tokio::test]
async fn a_silent_connection_takes_little_memory() {
    let server = Server::start(&[]);
    let address = address(&server);
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
    let server = patient_with_little_memory().await;
    let address = address(&server);
    // Half bodies hold the caller's share, and others wait for it in their order.
    let large = encryption(&server, 1_000_000);
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&large.as_bytes()[..1_000]).await.unwrap();
        slow.push(stream);
    }
    tokio::time::sleep(PAUSE).await;
    let whole = encryption(&server, 100_000);
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
