//! Runs `collector.py` in a virtual environment that `tests/run` creates.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

/// A running collector. Killed when dropped.
pub struct Collector {
    folder: TempDir,
    environment: Vec<(&'static str, String)>,
    process: Child,
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Collector {
    /// Starts a collector over http, or returns None if `KMS_TEST_OTLP` is not set.
    pub fn start() -> Option<Self> {
        Self::start_in(TempDir::new().unwrap(), "http", &[])
    }

    /// Starts a collector over https with a self-signed certificate, or returns None if `KMS_TEST_OTLP` is not set.
    pub fn start_with_tls() -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (certificate, key) = (folder.path().join("certificate"), folder.path().join("key"));
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        Self::start_in(folder, "https", &[certificate, key])
    }

    fn start_in(folder: TempDir, scheme: &str, tls: &[PathBuf]) -> Option<Self> {
        // The `bin` folder of a virtual environment with opentelemetry-proto.
        let Some(programs) = std::env::var_os("KMS_TEST_OTLP") else {
            eprintln!("SKIPPED: opentelemetry-proto is not installed (tests/run installs it)");
            return None;
        };
        let mut command = Command::new(PathBuf::from(programs).join("python3"));
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/otlp/collector.py")).arg(folder.path()).args(tls);
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut port = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        fs::write(path("headers"), "authorization: Bearer for-traces\n").unwrap();
        let mut environment = vec![
            ("KMS_HTTP_OTLP_ENDPOINT", format!("{scheme}://localhost:{}", port.trim())),
            ("KMS_HTTP_OTLP_HEADERS_FILE", path("headers")),
        ];
        if !tls.is_empty() {
            environment.push(("KMS_HTTP_OTLP_CA_FILE", path("certificate")));
        }
        Some(Self { folder, environment, process })
    }

    /// The settings that a service needs to send its traces here.
    pub fn environment(&self) -> Vec<(&'static str, &str)> {
        self.environment.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    /// Sets the status of all further responses.
    pub fn answer(&self, status: u16) {
        fs::write(self.folder.path().join("status"), status.to_string()).unwrap();
    }

    /// The spans received so far.
    pub fn spans(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.path().join("spans")).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }

    /// The span of the request with this request id, if it was received.
    pub fn of_request(&self, id: &str) -> Option<Value> {
        self.spans().into_iter().find(|span| span["attributes"]["request_id"] == id)
    }

    /// Waits for the span of the request with this request id.
    pub async fn wait_for(&self, id: &str) {
        self.find(id, |span| span["attributes"]["request_id"] == id).await;
    }

    /// Waits for a span that satisfies `is_so`.
    pub async fn find(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..600 {
            if let Some(span) = self.spans().into_iter().find(&is_so) {
                return span;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no span of {what} was received: {:?}", self.spans());
    }

    /// Whether any request body contained this text.
    pub fn has_seen(&self, text: &str) -> bool {
        let bodies = fs::read(self.folder.path().join("bodies")).unwrap();
        bodies.windows(text.len()).any(|window| window == text.as_bytes())
    }
}
