//! Floods over HTTP/2. The service ends each of them, and serves other callers meanwhile.

use std::time::Duration;

use kms_test_support::authority::{Authority, Files};
use serde_json::json;

use crate::certificates::serve;
use crate::client::{config, request, send};
use crate::common::Server;
use crate::frames::{CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RESET, Raw, SETTINGS, frame, head};

/// Upper limit for the wait until the service ends a flood.
const TIME: Duration = Duration::from_secs(60);
const FLOOD: [u8; 4] = [127, 0, 0, 2];

struct Service {
    servers: Authority,
    server: Server,
    _files: Files,
}

impl Service {
    fn start(settings: &[(&str, &str)]) -> Self {
        let (servers, files) = (Authority::new("servers"), Files::create());
        let server = serve(&servers, &files, settings);
        Self { servers, server, _files: files }
    }

    async fn connect(&self, from: [u8; 4], window: u32) -> Raw {
        Raw::connect(&self.server, from, config(&self.servers, None, Some("h2")), window).await.unwrap()
    }

    /// Asserts that a caller at another address is served over a new connection.
    async fn assert_served(&self) {
        let asked = request("/v1/keys", Some(&self.server.admin), None);
        let answer = send(&self.server, config(&self.servers, None, Some("h2")), asked).await.unwrap();
        assert_eq!(answer.status, 200, "{:?}", answer.body);
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.server.admin)
    }
}

/// The frames of GET requests for `path` on this many streams.
fn requests(streams: u32, path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let head = head("GET", path, fields);
    (0..streams).flat_map(|n| frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &head)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_requests_is_answered() {
    let service = Service::start(&[("KMS_HTTP_BODY_MEMORY_MIB", "4")]);
    let (token, large) = (service.bearer(), "x".repeat(3_000));
    let burst = requests(100, "/v1/keys", &[("authorization", &token), ("x-large", &large)]);
    let mut all = Vec::new();
    for _ in 0..12 {
        let mut one = service.connect(FLOOD, 65_535).await;
        let burst = burst.clone();
        all.push(tokio::spawn(async move {
            one.send(&burst).await.unwrap();
            let mut answers = 0;
            while answers < 100 {
                let (kind, stream) = one.next().await.expect("the connection was closed");
                assert!(kind != RESET || stream == 0, "stream {stream} was reset");
                answers += usize::from(kind == HEADERS);
            }
        }));
    }
    for one in all {
        tokio::time::timeout(TIME, one).await.expect("answers are missing").unwrap();
    }
    service.assert_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_behind_a_closed_window_are_reset_despite_pings() {
    let service = Service::start(&[("KMS_HTTP_IDLE_TIMEOUT_SECONDS", "2"), ("KMS_HTTP_BODY_MEMORY_MIB", "4")]);
    let mut held = Vec::new();
    for _ in 0..6 {
        let mut one = service.connect(FLOOD, 0).await;
        one.send(&requests(100, "/v1/keys", &[])).await.unwrap();
        held.push(tokio::spawn(async move {
            let ping = frame(PING, 0, 0, &[0; 8]);
            let mut resets = 0;
            loop {
                match tokio::time::timeout(Duration::from_millis(200), one.next()).await {
                    Ok(Some((RESET, _))) => resets += 1,
                    Ok(Some(_)) => {}
                    Ok(None) => return resets,
                    Err(_) => drop(one.send(&ping).await),
                }
            }
        }));
    }
    // The service resets streams of the flood when another caller needs their memory.
    service.assert_served().await;
    let mut resets = 0;
    for one in held {
        resets += tokio::time::timeout(TIME, one).await.expect("the connection stays open").unwrap();
    }
    assert!(resets > 300, "too few streams were reset: {resets}");
}

#[tokio::test(flavor = "multi_thread")]
async fn incomplete_heads_leave_room_for_others() {
    let service = Service::start(&[("KMS_HTTP_BODY_MEMORY_MIB", "4")]);
    let half = [head("GET", "/v1/keys", &[]), vec![0, 127]].concat();
    let mut held = Vec::new();
    for n in 0..400 {
        // 50 addresses, each within its share, and then the address from which the others are served.
        let from = if n < 200 { [127, 0, 1, u8::try_from(n % 50 + 1).unwrap()] } else { [127, 0, 0, 1] };
        let mut one = service.connect(from, 65_535).await;
        let begun = frame(HEADERS, 0, 1, &[half.clone(), vec![0; 16_000]].concat());
        drop(one.send(&begun[..16_000]).await);
        held.push(one);
        if n % 200 == 199 {
            service.assert_served().await;
        }
    }
    // There is memory for HTTP/2 bodies too.
    let key = json!({"name": "k", "type": "AES256_GCM", "purpose": "ENCRYPTION", "metadata": {"x": "x".repeat(9_000)}});
    let made = request("/v1/keys", Some(&service.server.admin), Some(&key));
    let made = send(&service.server, config(&service.servers, None, Some("h2")), made).await.unwrap();
    assert_eq!(made.status, 201, "{:?}", made.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_serve_no_request_end_the_connection() {
    let service = Service::start(&[]);
    let block = head("GET", "/v1/keys", &[]);
    let floods = [
        ("pings", Vec::new(), frame(PING, 0, 0, &[0; 8])),
        ("settings", Vec::new(), frame(SETTINGS, 0, 0, &[])),
        ("an endless head", frame(HEADERS, 0, 1, &block), frame(CONTINUATION, 0, 1, &[0x20])),
        ("empty parts of a body", frame(HEADERS, END_HEADERS, 1, &block), frame(DATA, 0, 1, &[])),
        ("frames of an unknown type", Vec::new(), frame(0xbe, 0, 0, &[0; 100])),
    ];
    for (name, begin, part) in floods {
        let mut one = service.connect(FLOOD, 65_535).await;
        one.send(&begin).await.unwrap();
        let (mut reading, mut writing) = tokio::io::split(one.stream);
        let part = part.repeat(1_000);
        let sending = async {
            // Five million frames, more than any limit of the service.
            for _ in 0..5_000 {
                if tokio::io::AsyncWriteExt::write_all(&mut writing, &part).await.is_err() {
                    return;
                }
            }
            panic!("{name}: all frames were accepted");
        };
        let reading = async {
            let _ = tokio::io::copy(&mut reading, &mut tokio::io::sink()).await;
        };
        tokio::time::timeout(TIME, async {
            tokio::select! {
                () = sending => {}
                () = reading => {}
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{name}: the connection stays open"));
    }
    service.assert_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_resets_end_the_connection() {
    let service = Service::start(&[]);
    let token = service.bearer();
    let block = head("POST", "/v1/crypto/encrypt", &[("authorization", &token), ("content-type", "application/json")]);
    let mut one = service.connect(FLOOD, 65_535).await;
    let reading = async {
        let mut seen = 0;
        for n in 0..2_000 {
            let stream = 2 * n + 1;
            if one.send(&frame(HEADERS, END_HEADERS, stream, &block)).await.is_err() {
                return n;
            }
            // Lets the service begin with the request.
            tokio::time::sleep(Duration::from_millis(1)).await;
            if one.send(&frame(RESET, 0, stream, &8_u32.to_be_bytes())).await.is_err() {
                return n;
            }
            seen += 1;
        }
        panic!("{seen} were accepted")
    };
    let resets = tokio::time::timeout(TIME, reading).await.expect("the connection stays open");
    assert!(resets > 20, "only {resets} resets were accepted");
    service.assert_served().await;
}
