//! Tests of fairness: no caller can block the service for others, by using up its places, its memory or its time.

#![allow(clippy::unwrap_used, reason = "a test may fail by a panic")]

#[path = "../common/mod.rs"]
mod common;
mod connections;
mod waiting;

use std::time::Duration;

use common::{Client, Server};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const PAUSE: Duration = Duration::from_millis(100);
/// Number of bytes of a response that are read between pauses.
const PART: usize = 32 * 1024;

/// A connection with a small receive buffer.
async fn narrow(server: &Server) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.connect(address(server).parse().unwrap()).await.unwrap()
}

fn head(server: &Server, request: &str) -> String {
    format!("{request} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n", server.admin)
}

/// Creates keys whose list is 3 MB long.
async fn many_keys(admin: &Client) {
    for n in 0..200 {
        let metadata = json!({"text": "x".repeat(15_000)});
        let key = json!({"name": format!("k{n}"), "type": "AES256_GCM", "purpose": "ENCRYPTION", "metadata": metadata});
        admin.post("/v1/keys", key).await.expect(201);
    }
}

/// Reads the rest of a response in small parts, with pauses.
async fn read_slowly(stream: &mut TcpStream) -> Vec<u8> {
    let (mut all, mut part, mut rested) = (Vec::new(), vec![0; PART], 0);
    loop {
        match stream.read(&mut part).await {
            Ok(0) => return all,
            Ok(bytes) => all.extend_from_slice(&part[..bytes]),
            Err(error) => panic!("cut after {} bytes: {error}", all.len()),
        }
        if all.len() >= rested + PART {
            rested = all.len();
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// A service with little memory for requests, and no time limit that matters to a test. It has the key `users`.
async fn patient_with_little_memory() -> Server {
    let server = Server::start(&[
        ("KMS_HTTP_BODY_MEMORY_MIB", "4"),
        ("KMS_HTTP_BODY_TIMEOUT_SECONDS", "600"),
        ("KMS_HTTP_REQUEST_TIMEOUT_SECONDS", "600"),
        ("KMS_HTTP_IDLE_TIMEOUT_SECONDS", "600"),
    ]);
    server.client().aes_key("users").await;
    server
}

/// The address of a service, without the scheme.
fn address(server: &Server) -> &str {
    server.url.strip_prefix("http://").unwrap()
}

#[track_caller]
fn assert_whole(answer: &[u8]) {
    assert!(answer.len() > 3_000_000 && answer.ends_with(b"]\r\n0\r\n\r\n"), "{} bytes", answer.len());
}

#[tokio::test]
async fn an_answer_is_not_cut_while_it_is_taken() {
    let server = Server::start(&[("KMS_HTTP_IDLE_TIMEOUT_SECONDS", "2"), ("KMS_HTTP_REQUEST_TIMEOUT_SECONDS", "2")]);
    many_keys(&server.client()).await;
    let mut stream = narrow(&server).await;
    stream.write_all(head(&server, "GET /v1/keys").as_bytes()).await.unwrap();
    // The request is complete; the client still waits for the response.
    stream.shutdown().await.unwrap();
    assert_whole(&read_slowly(&mut stream).await);
}

#[tokio::test]
async fn stopping_waits_for_answers_that_are_taken() {
    let mut server = Server::start(&[]);
    many_keys(&server.client()).await;
    let mut stream = narrow(&server).await;
    stream.write_all(head(&server, "GET /v1/keys").as_bytes()).await.unwrap();
    let mut first = vec![0; 1_000];
    stream.read_exact(&mut first).await.unwrap();
    server.signal("-TERM");
    tokio::time::sleep(Duration::from_secs(1)).await;
    first.extend(read_slowly(&mut stream).await);
    assert_whole(&first);
    assert!(server.process.wait().unwrap().success());
}

#[tokio::test]
async fn a_service_that_is_to_stop_is_not_ready_and_goes_on_for_a_while() {
    let mut server = Server::start(&[("KMS_HTTP_DRAIN_SECONDS", "5")]);
    let admin = server.client();
    admin.aes_key("users").await;
    admin.get("/v1/readyz").await.expect(200);
    server.signal("-TERM");
    let mut looks = 0;
    while admin.get("/v1/readyz").await.status == 200 {
        looks += 1;
        assert!(looks < 1_000, "still ready");
    }
    server.client().get("/v1/readyz").await.refused(503, "Closed");
    server.client().get("/v1/healthz").await.expect(200);
    server.client().post("/v1/crypto/encrypt", json!({"keyId": "users", "plaintext": "x"})).await.expect(200);
    assert!(server.process.wait().unwrap().success());
}

/// Whether the service has closed the connection.
fn is_closed(stream: &TcpStream) -> bool {
    match stream.try_read(&mut [0; 64]) {
        Ok(_) => true,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

#[tokio::test]
async fn large_heads_are_counted() {
    let server = Server::start(&[("KMS_HTTP_BODY_MEMORY_MIB", "4")]);
    let admin = server.client();
    admin.aes_key("users").await;
    let address = address(&server);
    let mut heads = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let text = format!("GET /v1/keys HTTP/1.1\r\nhost: x\r\nx-large: {}", "x".repeat(28_000));
        let _ = stream.write_all(text.as_bytes()).await;
        heads.push(stream);
    }
    let open = || heads.iter().filter(|stream| !is_closed(stream)).count();
    let mut waited = 0;
    while open() > 60 {
        tokio::time::sleep(PAUSE).await;
        waited += 1;
        assert!(waited < 200, "{} heads of 28 kB are held in half of 4 MiB", open());
    }
    assert!(open() > 10, "some have room");
    // Small heads of other callers are accepted, and large ones once memory is available again.
    admin.post("/v1/crypto/encrypt", json!({"keyId": "users", "plaintext": "x"})).await.expect(200);
    drop(heads);
    let mut tries = 0;
    loop {
        let large = server.client().request(reqwest::Method::GET, "/v1/keys").header("x-large", "x".repeat(28_000));
        if large.send().await.is_ok_and(|answer| answer.status() == 200) {
            break;
        }
        tries += 1;
        assert!(tries < 100, "the room does not come back");
        tokio::time::sleep(PAUSE).await;
    }
    // A discarded body does not count as a head.
    let large = json!({"keyId": "users", "plaintext": "x".repeat(8 * 1024 * 1024)});
    server.client_with(None).post("/v1/crypto/encrypt", large).await.refused(401, "NotAuthenticated");
}

/// Connects from this address of the loopback network.
async fn connect_from(server: &Server, from: [u8; 4]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((std::net::Ipv4Addr::from(from), 0).into()).unwrap();
    socket.connect(address(server).parse().unwrap()).await.unwrap()
}

/// Sends `text` and reads until the end of the stream; empty if the connection is reset.
async fn answer(mut stream: TcpStream, text: &str) -> String {
    let mut answer = String::new();
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

#[tokio::test]
async fn half_heads_without_a_credential_leave_room_for_others() {
    let server = Server::start(&[("KMS_HTTP_BODY_MEMORY_MIB", "4")]);
    let large = "x".repeat(28_000);
    let half = format!("GET /v1/keys HTTP/1.1\r\nhost: x\r\nx-large: {large}");
    let whole = head(&server, "GET /v1/keys").replace("connection", &format!("x-large: {large}\r\nconnection"));
    let mut held = Vec::new();
    for n in 0..600_u16 {
        // First from one address, then from many, each within its share.
        let from = if n < 300 { [127, 0, 0, 2] } else { [127, 0, 1, u8::try_from(n % 100 + 1).unwrap()] };
        let mut stream = connect_from(&server, from).await;
        let _ = stream.write_all(half.as_bytes()).await;
        held.push(stream);
        if n % 100 == 99 {
            // Newcomers are served: from elsewhere, and from an address of the flood.
            for newcomer in [[127, 0, 0, 3], [127, 0, 0, 2], [127, 0, 1, 1]] {
                let answer = answer(connect_from(&server, newcomer).await, &whole).await;
                assert!(answer.starts_with("HTTP/1.1 200"), "{newcomer:?} after {n}: {answer:?}");
            }
        }
    }
    assert!(held.iter().filter(|stream| !is_closed(stream)).count() < 150);
}

/// Encrypts a long text of control characters. Decrypted, each takes six bytes of JSON.
async fn long_ciphertext(admin: &Client) -> String {
    admin.aes_key("users").await;
    let plaintext = json!({"keyId": "users", "plaintext": "\u{1}".repeat(50_000)});
    let sealed = admin.post("/v1/crypto/encrypt", plaintext).await.expect(200);
    sealed["ciphertext"].as_str().unwrap().to_owned()
}

/// The memory for the response to a batch is reserved before anything is done.
#[tokio::test]
async fn a_batch_whose_response_finds_no_memory_is_refused_before_anything_is_done() {
    let server = Server::start(&[("KMS_HTTP_BODY_MEMORY_MIB", "4")]);
    let admin = server.client();
    let ciphertext = long_ciphertext(&admin).await;
    let size = async || admin.get("/v1/audit/checkpoint").await.text.lines().nth(1).unwrap().to_owned();
    let item = json!({"keyId": "users", "ciphertext": ciphertext});
    let before = size().await;
    let refused = admin.post("/v1/crypto/decrypt", json!({"items": vec![item.clone(); 15]})).await;
    let refused = refused.refused(400, "InvalidArgument");
    assert!(refused.contains("send fewer or smaller items"), "{refused}");
    assert_eq!(size().await, before, "nothing is recorded");
    let whole = admin.post("/v1/crypto/decrypt", json!({"items": vec![item.clone(); 5]})).await.expect(200);
    assert_eq!(whole["results"].as_array().unwrap().len(), 5);
    let base64 = json!({"items": vec![item; 15], "encoding": "base64"});
    admin.post("/v1/crypto/decrypt", base64).await.expect(200);
}

/// Callers that do not read their responses hold memory. They lose it to other callers that need memory, and to other
/// requests of their own.
#[tokio::test]
async fn responses_that_are_not_read_end_when_their_caller_needs_the_memory() {
    // No response ends because of its age alone.
    let settings = [("KMS_HTTP_BODY_MEMORY_MIB", "4"), ("KMS_HTTP_IDLE_TIMEOUT_SECONDS", "3600")];
    let server = Server::start(&settings);
    let admin = server.client();
    let ciphertext = long_ciphertext(&admin).await;
    let other = admin.token_for("other", "app").await;
    let grant = json!({"principal": "other", "role": "app", "keyId": "users", "allowedOps": ["encrypt"]});
    admin.post("/v1/grants", grant).await.expect(201);
    let body = json!({"items": [{"keyId": "users", "ciphertext": ciphertext}]}).to_string();
    let request = format!(
        "POST /v1/crypto/decrypt HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: \
         application/json\r\ncontent-length: {}\r\n\r\n{body}",
        server.admin,
        body.len()
    );
    // Half of 4 MiB holds six of 300 kB. The others wait until an older one is evicted.
    let mut answered = Vec::new();
    for n in 0..15 {
        let mut stream = narrow(&server).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        answered.push(stream);
        if n % 5 == 0 {
            other.post("/v1/crypto/encrypt", json!({"keyId": "users", "plaintext": "x"})).await.expect(200);
        }
    }
}

#[tokio::test]
async fn one_caller_with_all_connections_keeps_nobody_out() {
    let server = Server::start(&[("KMS_HTTP_CONNECTIONS", "60")]);
    server.client().aes_key("users").await;
    let begun = format!(
        "POST /v1/crypto/encrypt HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: \
         application/json\r\ncontent-length: 100\r\n\r\n{{",
        server.admin
    );
    let mut held = Vec::new();
    for _ in 0..80 {
        let mut stream = connect_from(&server, [127, 0, 0, 2]).await;
        let _ = stream.write_all(begun.as_bytes()).await;
        held.push(stream);
    }
    tokio::time::sleep(PAUSE).await;
    let mut served = Vec::new();
    for _ in 0..10 {
        let mut stream = connect_from(&server, [127, 0, 0, 3]).await;
        let _ = stream.write_all(b"GET /v1/healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.expect("a newcomer gets in");
        assert_eq!(&first, b"HTTP/1.1 200");
        served.push(stream);
    }
    assert!(served.iter().all(|stream| !is_closed(stream) || stream.try_read(&mut [0; 1]).is_ok()), "and stays");
}

/// Number of connections of a server on which something has arrived that it has not read (Linux).
fn unread(server: &Server) -> usize {
    let port = server.url.rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let is_unread = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_own = fields[1].ends_with(&format!(":{port:04X}")) && fields[3] == "01";
        is_own && !fields[4].ends_with(":00000000")
    };
    table.lines().skip(1).filter(is_unread).count()
}

#[tokio::test]
async fn small_bodies_are_counted() {
    // Half of 4 MiB holds at most 262 bodies of 8 kB, and at least 72: what is counted of a head that arrives together
    // with its body may be twice as large. The others are not read, or refused.
    const SENT: usize = 600;
    let patient = [("KMS_HTTP_BODY_TIMEOUT_SECONDS", "600"), ("KMS_HTTP_REQUEST_TIMEOUT_SECONDS", "600")];
    let settings =
        [&patient[..], &[("KMS_HTTP_IDLE_TIMEOUT_SECONDS", "600"), ("KMS_HTTP_BODY_MEMORY_MIB", "4")]].concat();
    let server = Server::start(&settings);
    let admin = server.client();
    admin.aes_key("users").await;
    let other = admin.token_for("other", "app").await;
    let grant = json!({"principal": "other", "role": "app", "keyId": "users", "allowedOps": ["encrypt"]});
    admin.post("/v1/grants", grant).await.expect(201);
    let begun = format!(
        "POST /v1/crypto/encrypt HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: \
         application/json\r\ncontent-length: 8000\r\n\r\n",
        server.admin
    );
    let mut held = Vec::new();
    for _ in 0..SENT {
        let mut stream = connect_from(&server, [127, 0, 0, 2]).await;
        let _ = stream.write_all(begun.as_bytes()).await;
        held.push(stream);
    }
    // The heads have arrived by then, in most cases; otherwise some bodies arrive together with them.
    tokio::time::sleep(PAUSE).await;
    for stream in &mut held {
        let _ = stream.write_all(&[b'x'; 7_000]).await;
    }
    // The service answers only requests that it refuses: the others wait for memory or for the rest of their bodies.
    let (mut refused, mut looks) = (0, 0);
    loop {
        tokio::time::sleep(PAUSE).await;
        held.retain(|one| {
            let mut first = [0; 12];
            let is_answered = one.try_read(&mut first).is_ok_and(|bytes| bytes > 0);
            assert!(!is_answered || &first == b"HTTP/1.1 429", "{}", String::from_utf8_lossy(&first));
            refused += usize::from(is_answered);
            !is_answered
        });
        let read = SENT - refused - unread(&server);
        if (72..=262).contains(&read) {
            break;
        }
        looks += 1;
        assert!(looks < 600, "{read} bodies are read, {refused} requests refused");
    }
    other.post("/v1/crypto/encrypt", json!({"keyId": "users", "plaintext": "x"})).await.expect(200);
}

#[tokio::test]
async fn bad_credentials_are_limited_by_address() {
    let server = Server::start(&[("KMS_HTTP_AUTH_FAILURES_PER_SECOND", "2")]);
    let request = |token: &str| {
        format!("GET /v1/keys HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n")
    };
    let (mut unknown, mut refused) = (0, 0);
    for n in 0..40 {
        let seen = answer(connect_from(&server, [127, 0, 0, 2]).await, &request(&format!("bad-{n}"))).await;
        if seen.starts_with("HTTP/1.1 429") {
            assert!(seen.contains("retry-after: ") && seen.contains("\"RateLimited\""), "{seen}");
            refused += 1;
        } else {
            assert!(seen.starts_with("HTTP/1.1 401"), "{seen}");
            unknown += 1;
        }
    }
    assert!(unknown >= 10 && refused >= 5, "{unknown} unknown, {refused} refused");
    // A valid credential from the same address is served, and other networks have limits of their own.
    let good = answer(connect_from(&server, [127, 0, 0, 2]).await, &request(&server.admin)).await;
    assert!(good.starts_with("HTTP/1.1 200"), "{good}");
    let other = answer(connect_from(&server, [127, 0, 0, 3]).await, &request("bad")).await;
    assert!(other.starts_with("HTTP/1.1 401"), "{other}");
    let metrics = server.client().get("/metrics").await.text;
    assert!(metrics.contains("kms_authentication_refused_total{method=\"token\"}"), "{metrics}");
    let log = std::fs::read_to_string(server.home.path().join("log")).unwrap();
    assert_eq!(log.matches("requests are refused").count(), 1, "{log}");
}

/// Each connection is an open file: connections are closed before no file can be opened any more.
#[tokio::test]
async fn connections_leave_open_files_to_everything_else() {
    let home = tempfile::TempDir::new().unwrap();
    let first = common::program(&home).args(["--json", "init"]).output().unwrap();
    assert!(first.status.success(), "{first:?}");
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -n 250 && exec \"$0\" serve", env!("CARGO_BIN_EXE_kms-http")]);
    limited.env_clear().env("HOME", home.path()).env("KMS_HTTP_LISTEN", "127.0.0.1:0");
    let mut process = limited.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let (url, _output) = common::wait_for_url(&mut process);
    let address = url.strip_prefix("http://").unwrap();
    let mut held = Vec::new();
    for number in 0..500 {
        let mut caller = TcpStream::connect(address).await.unwrap();
        if number % 2 == 1 {
            caller.shutdown().await.unwrap();
        }
        held.push(caller);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..20 {
        let asked = reqwest::get(format!("{url}/v1/readyz"));
        let answer = tokio::time::timeout(Duration::from_secs(20), asked).await.expect("nobody is let in").unwrap();
        assert_eq!(answer.status(), 200);
    }
    process.kill().unwrap();
    process.wait().unwrap();
}
