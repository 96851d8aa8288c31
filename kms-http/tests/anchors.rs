//! Tests of anchors in a file, at an HTTP endpoint and in a bucket, and of the rollbacks, truncations and diverging
//! copies that they reveal.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail by a panic, and says what it skips")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use common::{Client, Server, program};
use kms_test_support::authority::{Authority, Files};
use serde_json::Value;
use tempfile::TempDir;

#[track_caller]
fn parsed(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// Scrapes until the exposition contains a line.
async fn scrape_until(client: &Client, line: &str) {
    for _ in 0..600 {
        if client.get("/metrics").await.text.contains(&format!("{line}\n")) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{line} does not come: {}", client.get("/metrics").await.text);
}

fn sizes(file: &Path) -> Vec<u64> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let size = |line: &str| -> Option<u64> {
        let line: Value = serde_json::from_str(line).ok()?;
        line["checkpoint"].as_str()?.lines().nth(1)?.parse().ok()
    };
    text.lines().filter_map(size).collect()
}

async fn wait_for_anchor(file: &Path, size: u64) {
    for _ in 0..600 {
        if sizes(file).last().is_some_and(|last| *last >= size) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("there is no anchor of {size} records: {:?}", sizes(file));
}

/// A directory for an anchor file, which may have the append-only attribute.
struct Place(TempDir);

impl Place {
    fn new() -> (Self, std::path::PathBuf) {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("anchors.jsonl");
        (Self(folder), file)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let file = self.0.path().join("anchors.jsonl");
        let _ = std::process::Command::new("chattr").arg("-a").arg(file).output();
    }
}

fn copy_store(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap();
}

#[tokio::test]
async fn a_rollback_that_nothing_inside_the_database_shows() {
    let (place, file) = Place::new();
    // Without a high-water file only the anchors can reveal the rollback.
    let environment = [
        ("KMS_HTTP_ANCHORS_FILE", file.to_str().unwrap()),
        ("KMS_HTTP_ANCHORS_EVERY_SECONDS", "1"),
        ("KMS_HIGH_WATER", ""),
        ("KMS_SCHEDULER_ENABLED", "false"),
    ];
    let mut server = Server::start_on_file(&environment);
    let admin = server.client();
    admin.aes_key("users").await;
    wait_for_anchor(&file, admin.log_size().await).await;
    scrape_until(&admin, "kms_anchor_diverged 0").await;
    assert!(server.stop().success());
    let old = place.0.path().join("old.db");
    copy_store(&server.store(), &old);
    server.restart();
    let admin = server.client();
    admin.encrypt(10).await;
    wait_for_anchor(&file, admin.log_size().await).await;
    assert!(server.stop().success());
    let good = server.command(&["--json", "audit", "verify", "--anchors"]);
    assert!(good.status.success(), "{good:?}");
    assert!(parsed(&good)["anchors"]["continued"].as_u64().unwrap() >= 2, "{good:?}");

    // Rolled back: the store in itself is consistent.
    let newest = place.0.path().join("newest.db");
    copy_store(&server.store(), &newest);
    let put_back = || {
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{suffix}", server.store().display()));
        }
        fs::copy(&old, server.store()).unwrap();
    };
    put_back();
    let unnoticed = server.command(&["--json", "audit", "verify"]);
    assert!(unnoticed.status.success(), "{unnoticed:?}");
    let noticed = server.command(&["--json", "audit", "verify", "--anchors"]);
    assert_eq!(noticed.status.code(), Some(4), "{noticed:?}");
    assert_eq!(parsed(&noticed)["anchors"]["faults"][0]["kind"], "rolledBack");
    // Rolled back, and used until it has more records than before.
    put_back();
    server.restart();
    let admin = server.client();
    scrape_until(&admin, "kms_anchor_diverged 1").await;
    admin.encrypt(30).await;
    let records = admin.get("/v1/audit?action=AUDIT_ANCHOR").await.expect(200);
    assert_eq!(records[0]["status"], "FAILURE", "{records}");
    assert_eq!(records[0]["details"]["error"], "RestoreDetected");
    assert!(server.stop().success());
    let noticed = server.command(&["--json", "audit", "verify", "--anchors"]);
    assert_eq!(noticed.status.code(), Some(4), "{noticed:?}");
    // Invalid and truncated lines are skipped.
    let mut appended = fs::File::options().append(true).open(&file).unwrap();
    let rubbish = b"{\"node\":\"x\",\"checkpoint\":\"y\"}\nnothing\n{\"node\":\"x\",\"check";
    std::io::Write::write_all(&mut appended, rubbish).unwrap();
    let anchored = server.command(&["--json", "audit", "anchor"]);
    assert_eq!(anchored.status.code(), Some(4), "{anchored:?}");
    assert_eq!(sizes(&file).last(), Some(&parsed(&anchored)["size"].as_u64().unwrap()));
}

#[tokio::test]
async fn nodes_on_two_copies_notice_each_other() {
    let (_place, file) = Place::new();
    let environment = [
        ("KMS_HTTP_ANCHORS_FILE", file.to_str().unwrap()),
        ("KMS_HTTP_ANCHORS_EVERY_SECONDS", "1"),
        ("KMS_HIGH_WATER", ""),
    ];
    let mut one = Server::start_on_file(&environment);
    one.client().aes_key("users").await;
    assert!(one.stop().success());
    let home = TempDir::new().unwrap();
    for name in [".local/share/mini-kms/kms.db", ".config/mini-kms/root.key"] {
        let to = home.path().join(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(one.home.path().join(name), &to).unwrap();
    }
    one.restart();
    let token = one.admin.clone();
    let mut command = program(&home);
    command.envs(environment).env("KMS_HTTP_LISTEN", "127.0.0.1:0").stderr(std::process::Stdio::null());
    let mut two = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = std::io::BufRead::lines(std::io::BufReader::new(two.stdout.take().unwrap()));
    let url = said.find_map(|line| line.unwrap().strip_prefix("listening   ").map(str::to_owned)).unwrap();
    let first = one.client();
    let mut second = one.client_with(Some(&token));
    second.url = url;
    // The two copies diverge.
    first.encrypt(3).await;
    second.encrypt(5).await;
    scrape_until(&first, "kms_anchor_diverged 1").await;
    scrape_until(&second, "kms_anchor_diverged 1").await;
    two.kill().unwrap();
    two.wait().unwrap();
}

/// An endpoint that stores what it receives, unless it is told to fail.
#[derive(Clone, Default)]
struct Keeper {
    lines: Arc<Mutex<String>>,
    fails: Arc<AtomicBool>,
}

impl Keeper {
    async fn start(&self) -> String {
        let (reading, writing) = (self.clone(), self.clone());
        let list = move || async move { reading.lines.lock().unwrap().clone() };
        let add = move |headers: HeaderMap, body: String| async move {
            assert_eq!(headers["authorization"], "Bearer the-token");
            if writing.fails.load(Ordering::SeqCst) {
                return StatusCode::INTERNAL_SERVER_ERROR;
            }
            writing.lines.lock().unwrap().push_str(&format!("{body}\n"));
            StatusCode::CREATED
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/anchors", listener.local_addr().unwrap());
        tokio::spawn(axum::serve(listener, Router::new().route("/anchors", get(list).post(add))).into_future());
        url
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_fails_stops_nothing() {
    let folder = TempDir::new().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "the-token\n").unwrap();
    let keeper = Keeper::default();
    keeper.fails.store(true, Ordering::SeqCst);
    let url = keeper.start().await;
    let server = Server::start_on_file(&[
        ("KMS_HTTP_ANCHORS_URL", url.as_str()),
        ("KMS_HTTP_ANCHORS_TOKEN_FILE", token.to_str().unwrap()),
        ("KMS_HTTP_ANCHORS_EVERY_SECONDS", "1"),
    ]);
    let admin = server.client();
    admin.aes_key("users").await;
    common::scrape_beyond(&admin, "kms_anchor_failures_total", 1).await;
    admin.encrypt(3).await;
    let records = admin.get("/v1/audit?action=AUDIT_ANCHOR").await.expect(200);
    // One record per outage, so the log does not grow with the number of failed attempts.
    assert_eq!(records.as_array().unwrap().len(), 1, "{records}");
    assert!(records[0]["details"]["reason"].as_str().unwrap().contains("500"), "{records}");
    keeper.fails.store(false, Ordering::SeqCst);
    let wanted = admin.log_size().await;
    for _ in 0..600 {
        let size = |line: &str| serde_json::from_str::<Value>(line).unwrap()["checkpoint"].as_str().unwrap().to_owned();
        let last = keeper.lines.lock().unwrap().lines().last().map(size);
        if last.is_some_and(|note| note.lines().nth(1).unwrap().parse::<u64>().unwrap() >= wanted) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(keeper.lines.lock().unwrap().contains(&format!("\\n{wanted}\\n")), "{wanted}");
    let verified = server.command(&["--json", "audit", "verify", "--anchors"]);
    assert!(verified.status.success(), "{verified:?}");
}

/// An HTTPS endpoint; stopped when dropped.
struct Https(std::process::Child);

impl Https {
    const SCRIPT: &str = "import http.server, ssl, sys\nlines = b''\n\
class Keeper(http.server.BaseHTTPRequestHandler):\n\
\tdef answer(self, code, body):\n\
\t\tself.send_response(code); self.send_header('content-length', str(len(body))); self.end_headers()\n\
\t\tself.wfile.write(body)\n\
\tdef do_GET(self): self.answer(200, lines)\n\
\tdef do_POST(self):\n\
\t\tglobal lines\n\
\t\tlines += self.rfile.read(int(self.headers['content-length'])) + b'\\n'; self.answer(201, b'')\n\
\tdef log_message(self, *_): pass\n\
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Keeper)\n\
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); tls.load_cert_chain(sys.argv[1], sys.argv[2])\n\
server.socket = tls.wrap_socket(server.socket, server_side=True)\n\
print(server.server_address[1], flush=True); server.serve_forever()\n";

    /// Starts the endpoint and returns it with its URL.
    fn start(files: &Files) -> (Self, String) {
        let mut command = std::process::Command::new("python3");
        command.args(["-c", Self::SCRIPT]).args([files.path("server.pem"), files.path("server.key")]);
        let mut process = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut port = String::new();
        let mut said = std::io::BufReader::new(process.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut said, &mut port).unwrap();
        (Self(process), format!("https://localhost:{}/anchors", port.trim()))
    }
}

impl Drop for Https {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The trusted authority is a setting: an endpoint with a certificate of another authority receives nothing.
#[tokio::test]
async fn an_endpoint_over_https_is_verified() {
    let (right, wrong, files) = (Authority::new("right"), Authority::new("wrong"), Files::create());
    files.install(&right.server(1));
    let (right, wrong) = (files.write("right.pem", right.pem()), files.write("wrong.pem", wrong.pem()));
    let (_endpoint, url) = Https::start(&files);
    let environment = |ca: &'static str, file: &Path| {
        [("KMS_HTTP_ANCHORS_URL", url.clone()), (ca, file.to_str().unwrap().to_owned())]
    };
    for (ca, is_trusted) in [(&right, true), (&wrong, false)] {
        let variables = environment("KMS_HTTP_ANCHORS_CA_FILE", ca);
        let mut variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        variables.push(("KMS_HTTP_ANCHORS_EVERY_SECONDS", "1"));
        let server = Server::start_on_file(&variables);
        let admin = server.client();
        admin.aes_key("users").await;
        if is_trusted {
            common::scrape_beyond(&admin, "kms_anchors_written_total", 0).await;
            let verified = server.command(&["--json", "audit", "verify", "--anchors"]);
            assert!(verified.status.success(), "{verified:?}");
            assert!(parsed(&verified)["anchors"]["continued"].as_u64().unwrap() >= 1, "{verified:?}");
        } else {
            let text = common::scrape_beyond(&admin, "kms_anchor_failures_total", 0).await;
            assert_eq!(common::metric(&text, "kms_anchors_written_total"), 0);
            admin.encrypt(3).await;
            let verified = server.command(&["--json", "audit", "verify", "--anchors"]);
            assert_eq!(verified.status.code(), Some(1), "it cannot say that the log is good: {verified:?}");
            assert!(String::from_utf8_lossy(&verified.stderr).contains("UnknownIssuer"), "{verified:?}");
        }
    }
}

#[test]
fn places_that_make_no_sense_are_refused() {
    let home = TempDir::new().unwrap();
    for (variables, said) in [
        (&[("KMS_HTTP_ANCHORS_URL", "http://example.com/anchors")][..], "loopback"),
        (&[("KMS_HTTP_ANCHORS_TOKEN_FILE", "token")], "token_file"),
        (&[("KMS_HTTP_ANCHORS_RETAIN_DAYS", "7")], "bucket"),
        (&[("KMS_HTTP_ANCHORS_BUCKET", "a b")], "letters"),
    ] {
        let checked = program(&home).envs(variables.iter().copied()).args(["config", "check"]).output().unwrap();
        assert_eq!(checked.status.code(), Some(2), "{checked:?}");
        assert!(String::from_utf8_lossy(&checked.stderr).contains(said), "{checked:?}");
    }
    let none = program(&home).args(["init"]).output().unwrap();
    assert!(none.status.success());
    let none = program(&home).args(["audit", "anchor"]).output().unwrap();
    assert_eq!(none.status.code(), Some(2), "{none:?}");
}

#[cfg(feature = "aws-kms")]
#[tokio::test]
async fn a_bucket_with_object_lock() {
    use kms_test_support::aws::environment;
    use kms_test_support::{Moto, REGION};

    let Some(moto) = Moto::try_new() else {
        eprintln!("SKIPPED: moto is not installed (tests/run installs it)");
        return;
    };
    let base = format!("http://127.0.0.1:{}", moto.port());
    let http = reqwest::Client::new();
    let sign = "AWS4-HMAC-SHA256 Credential=admin/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
    let ask = |method: reqwest::Method, path: &str| {
        http.request(method, format!("{base}/{path}")).header("authorization", sign)
    };
    let aws = environment();
    let mut environment: Vec<(&str, &str)> = aws.iter().map(|(name, value)| (*name, value.as_str())).collect();
    environment.extend([
        ("KMS_HTTP_ANCHORS_BUCKET", "anchors"),
        ("KMS_HTTP_ANCHORS_ENDPOINT", &base),
        ("KMS_HTTP_ANCHORS_REGION", REGION),
        ("KMS_HTTP_ANCHORS_RETAIN_DAYS", "1"),
        ("KMS_HTTP_ANCHORS_EVERY_SECONDS", "1"),
    ]);
    let server = Server::start_on_file(&environment);
    let admin = server.client();
    admin.aes_key("users").await;
    // The bucket does not exist yet: the failure is counted and recorded, and stops nothing.
    common::scrape_beyond(&admin, "kms_anchor_failures_total", 1).await;
    admin.encrypt(3).await;
    let records = admin.get("/v1/audit?action=AUDIT_ANCHOR").await.expect(200);
    assert!(records[0]["details"]["reason"].as_str().unwrap().contains("NoSuchBucket"), "{records}");
    let made = ask(reqwest::Method::PUT, "anchors").header("x-amz-bucket-object-lock-enabled", "true");
    let made = made.send().await.unwrap();
    assert!(made.status().is_success(), "{}", made.text().await.unwrap());
    common::scrape_beyond(&admin, "kms_anchors_written_total", 1).await;
    admin.encrypt(3).await;
    let anchored = server.command(&["--json", "audit", "anchor"]);
    assert!(anchored.status.success(), "{anchored:?}");
    let verified = server.command(&["--json", "audit", "verify", "--anchors"]);
    assert!(verified.status.success(), "{verified:?}");
    assert!(parsed(&verified)["anchors"]["continued"].as_u64().unwrap() >= 2, "{verified:?}");
    // No principal can delete an anchor before its retention ends.
    let listed = ask(reqwest::Method::GET, "anchors?versions").send().await.unwrap().text().await.unwrap();
    let between = |before: &str, after: &str| {
        let rest = listed.split_once(before).unwrap_or_else(|| panic!("{listed}")).1;
        rest.split_once(after).unwrap().0.to_owned()
    };
    let (key, version) = (between("<Key>", "</Key>"), between("<VersionId>", "</VersionId>"));
    assert!(key.starts_with("mini-kms/"), "{key}");
    let path = format!("anchors/{key}?versionId={version}");
    let deleted = ask(reqwest::Method::DELETE, &path).send().await.unwrap();
    assert_eq!(deleted.status(), StatusCode::FORBIDDEN, "{}", deleted.text().await.unwrap());
}
