//! Tests of requests that wait for memory: large calls, half bodies, and callers that are not recognized yet.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::common::Server;
use super::{PAUSE, address, connect_from, patient_with_little_memory};

/// A kept connection, on which requests are sent one after the other.
struct Kept(TcpStream);

impl Kept {
    /// Sends a request, and returns the status and the body of the answer.
    async fn ask(&mut self, request: &str) -> Result<(u16, String), String> {
        let sent = self.0.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&answer);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
                let length: usize = value("content-length:").unwrap();
                if body.len() == length {
                    return Ok((head[9..12].parse().unwrap(), body.to_owned()));
                }
            }
            let bytes = self.0.read_buf(&mut answer).await;
            if !bytes.as_ref().is_ok_and(|bytes| *bytes > 0) {
                return Err(format!("closed after {} bytes: {sent:?} {bytes:?}", answer.len()));
            }
        }
    }
}

/// A request to encrypt, with this token.
fn post(token: &str, body: &str) -> String {
    format!(
        "POST /v1/crypto/encrypt HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: \
         application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A request of the admin to encrypt this many bytes under the key `users`.
pub(super) fn encryption(server: &Server, bytes: usize) -> String {
    post(&server.admin, &json!({"keyId": "users", "plaintext": "x".repeat(bytes)}).to_string())
}

/// Before, the first bytes of a body on a kept connection counted as a head of its caller, and without memory for them
/// the connection was closed without an answer; and large calls of one caller were refused because of each other.
#[tokio::test]
async fn large_calls_of_one_caller_on_kept_connections_wait_for_each_other() {
    let server = patient_with_little_memory().await;
    let request = encryption(&server, 400_000);
    let address = address(&server);
    let one = async |_| {
        let mut kept = Kept(TcpStream::connect(address).await.unwrap());
        for n in 0..6 {
            match kept.ask(&request).await {
                Ok((200, _)) => {}
                other => panic!("request {n}: {other:?}"),
            }
        }
    };
    futures_util::future::join_all((0..24).map(one)).await;
}

/// A request that cannot be admitted in time is answered.
#[tokio::test]
async fn a_request_without_memory_until_its_end_is_refused_and_its_connection_stays() {
    let settings = [
        ("KMS_HTTP_BODY_MEMORY_MIB", "4"),
        ("KMS_HTTP_REQUEST_TIMEOUT_SECONDS", "2"),
        ("KMS_HTTP_IDLE_TIMEOUT_SECONDS", "600"),
    ];
    let server = Server::start(&settings);
    server.client().aes_key("users").await;
    let address = address(&server);
    let large = encryption(&server, 1_000_000);
    let small = encryption(&server, 20_000);
    let mut kept = Kept(TcpStream::connect(address).await.unwrap());
    assert_eq!(kept.ask(&small).await.unwrap().0, 200);
    // Bodies that do not go on hold the caller's share until the end of their requests.
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&large.as_bytes()[..1_000]).await.unwrap();
        slow.push(stream);
    }
    let mut refused = 0;
    for mut stream in slow {
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.expect("an answer");
        match &first[9..] {
            b"429" => refused += 1,
            other => assert_eq!(other, b"504"),
        }
    }
    assert!(refused >= 4, "{refused} are refused for want of memory");
    assert_eq!(kept.ask(&small).await.unwrap().0, 200);
}

/// A body that gives way to another caller's request is answered.
#[tokio::test]
async fn a_half_body_that_gives_way_is_answered() {
    let server = patient_with_little_memory().await;
    let admin = server.client();
    let address = address(&server);
    let callers = [admin.clone(), admin.token_for("other", "app").await, admin.token_for("modest", "app").await];
    let grant = json!({"principal": "modest", "role": "app", "keyId": "users", "allowedOps": ["encrypt"]});
    admin.post("/v1/grants", grant).await.expect(201);
    // Two callers hold as much as they may.
    let mut slow = Vec::new();
    for (caller, bodies) in [(&callers[0], 3), (&callers[1], 2)] {
        for _ in 0..bodies {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let begun = post(caller.token.as_deref().unwrap(), &"x".repeat(650_000));
            stream.write_all(&begun.as_bytes()[..1_000]).await.unwrap();
            slow.push(stream);
        }
    }
    let wanted = json!({"keyId": "users", "plaintext": "x".repeat(500_000)});
    callers[2].post("/v1/crypto/encrypt", wanted).await.expect(200);
    // Which of them gives way depends on the order in which they arrived.
    let waiting = slow.iter_mut().map(|stream| {
        Box::pin(async move {
            let mut first = [0; 12];
            stream.read_exact(&mut first).await.map(|_| first)
        })
    });
    let answer = tokio::time::timeout(Duration::from_secs(60), futures_util::future::select_all(waiting)).await;
    let (first, ..) = answer.expect("one gives way");
    assert_eq!(&first.expect("an answer"), b"HTTP/1.1 429");
}

/// Requests whose callers cannot be recognized yet, because the issuer of their JWTs does not respond, give way.
#[tokio::test]
async fn requests_that_wait_for_the_keys_of_an_issuer_keep_nobody_out() {
    use base64::Engine;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", silent.local_addr().unwrap());
    let server = Server::start(&[
        ("KMS_HTTP_BODY_MEMORY_MIB", "4"),
        ("KMS_HTTP_AUTH", "token,oidc"),
        ("KMS_HTTP_TOKEN_PREFIX", "token:"),
        ("KMS_HTTP_OIDC_PRINCIPAL_PREFIX", "sso:"),
        ("KMS_HTTP_OIDC_ISSUER", &issuer),
        ("KMS_HTTP_OIDC_AUDIENCES", "kms"),
        ("KMS_HTTP_OIDC_TIMEOUT_SECONDS", "600"),
        ("KMS_HTTP_REQUEST_TIMEOUT_SECONDS", "600"),
    ]);
    let admin = server.client();
    admin.aes_key("users").await;
    let claims = json!({"iss": issuer, "aud": "kms", "exp": 32_503_680_000_u64, "sub": "x", "more": "x".repeat(9_000)});
    let parts = [json!({"alg": "RS256", "kid": "x"}), claims, json!("signature")];
    let parts = parts.map(|part| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(part.to_string()));
    let request = format!("GET /v1/keys HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", parts.join("."));
    let mut waiting = Vec::new();
    for n in 0..400_u16 {
        let mut stream = connect_from(&server, [127, 0, 2, u8::try_from(n % 200 + 1).unwrap()]).await;
        let _ = stream.write_all(request.as_bytes()).await;
        waiting.push(stream);
    }
    tokio::time::sleep(PAUSE).await;
    let large = json!({"keyId": "users", "plaintext": "x".repeat(100_000)});
    let served = tokio::time::timeout(Duration::from_secs(60), admin.post("/v1/crypto/encrypt", large)).await;
    served.expect("they hold all memory").expect(200);
    drop(silent);
}
