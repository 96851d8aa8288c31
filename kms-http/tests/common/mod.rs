//! Runs the service as a real process on a free port, with the store that `KMS_TEST_ENGINE` selects, and provides a
//! client for it.

#![allow(dead_code, clippy::unwrap_used, reason = "each suite uses its part, and a test may fail by a panic")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use kms_test_support::engine;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A running service. Killed when dropped.
pub struct Server {
    /// The running process.
    pub process: Child,
    /// The base URL, `http://127.0.0.1:PORT`.
    pub url: String,
    /// The admin token from the first start; empty if tokens are disabled.
    pub admin: String,
    /// The home directory, with all files of the service.
    pub home: TempDir,
    environment: Vec<(String, String)>,
}

/// A command that runs the program with only `HOME` and `PATH` in its environment.
pub fn program(home: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kms-http"));
    command.env_clear().env("HOME", home.path()).env("PATH", std::env::var_os("PATH").unwrap());
    command
}

/// Waits until a service that was started listens, and returns its URL. The service can write to its standard output as
/// long as the reader lives.
pub fn wait_for_url(process: &mut Child) -> (String, BufReader<ChildStdout>) {
    let mut output = BufReader::new(process.stdout.take().unwrap());
    let mut line = String::new();
    while output.read_line(&mut line).unwrap() > 0 {
        if let Some(url) = line.strip_prefix("listening   ") {
            return (url.trim().to_owned(), output);
        }
        line.clear();
    }
    panic!("the service did not start");
}

/// The standard output of a command that succeeded.
#[track_caller]
pub fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The JSON that a command printed, which succeeded.
#[track_caller]
pub fn json_output(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap()
}

/// The path of a file in `examples/http`.
pub fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/http").join(name)
}

impl Server {
    /// Starts the service with the defaults and these variables, on a new store of the selected kind.
    pub fn start(environment: &[(&str, &str)]) -> Self {
        let home = TempDir::new().unwrap();
        if engine::name() == "sqlite" {
            return Self::start_in(home, environment);
        }
        let url = engine::new_store(&home.path().join("unused"));
        let server = Self::start_in(home, &[environment, &[("KMS_STORE_URL", &url)]].concat());
        assert!(!server.store().exists(), "it is on the database server");
        server
    }

    /// Starts the service on a SQLite store, whatever `KMS_TEST_ENGINE` says.
    pub fn start_on_file(environment: &[(&str, &str)]) -> Self {
        Self::start_in(TempDir::new().unwrap(), environment)
    }

    /// Starts the service on a SQLite store, in a home directory that may already contain files.
    pub fn start_in(home: TempDir, environment: &[(&str, &str)]) -> Self {
        let environment: Vec<(String, String)> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (process, url, token) = spawn(&home, &environment);
        let has_tokens = !environment.iter().any(|(name, value)| name == "KMS_HTTP_AUTH" && !value.contains("token"));
        assert_eq!(token.is_some(), has_tokens, "a token at the first start");
        Self { process, url, admin: token.unwrap_or_default(), home, environment }
    }

    /// Starts the service again with the same home directory and settings.
    pub fn restart(&mut self) {
        let (process, url, token) = spawn(&self.home, &self.environment);
        assert!(token.is_none(), "a token is printed at the first start only");
        (self.process, self.url) = (process, url);
    }

    /// Sends SIGTERM and waits for the end of the process.
    pub fn stop(&mut self) -> std::process::ExitStatus {
        self.signal("-TERM");
        self.process.wait().unwrap()
    }

    /// Kills the process, as a power failure would.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Runs another command of the program on the same store.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let mut command = program(&self.home);
        command.envs(self.environment.iter().cloned()).args(arguments);
        command.output().unwrap()
    }

    /// A client that uses the admin token.
    pub fn client(&self) -> Client {
        self.client_with(Some(&self.admin))
    }

    /// A client with this token, or without a token.
    pub fn client_with(&self, token: Option<&str>) -> Client {
        Client { http: reqwest::Client::new(), url: self.url.clone(), token: token.map(str::to_owned) }
    }

    /// The resident memory of the process, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// The path of the SQLite store; the file does not exist with a database server.
    pub fn store(&self) -> PathBuf {
        self.home.path().join(".local/share/mini-kms/kms.db")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(home: &TempDir, environment: &[(String, String)]) -> (Child, String, Option<String>) {
    let log = std::fs::File::options().create(true).append(true).open(home.path().join("log")).unwrap();
    let mut command = program(home);
    command.env("KMS_HTTP_LISTEN", "127.0.0.1:0").envs(environment.iter().cloned());
    let mut process = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
    let mut token = None;
    for line in BufReader::new(process.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        assert!(!line.starts_with("token   "), "no token goes to what is not a terminal");
        if let Some(file) = line.strip_prefix("token file  ") {
            token = Some(std::fs::read_to_string(file).unwrap());
        }
        if let Some(url) = line.strip_prefix("listening   ").filter(|url| url.starts_with("http")) {
            return (process, url.to_owned(), token);
        }
    }
    process.wait().unwrap();
    let log = std::fs::read_to_string(home.path().join("log")).unwrap();
    panic!("the service did not start: {log}");
}

/// An HTTP client for the service.
#[derive(Clone)]
pub struct Client {
    /// The connection pool.
    pub http: reqwest::Client,
    /// The base URL of the service.
    pub url: String,
    /// The token that requests carry.
    pub token: Option<String>,
}

/// A response that was read completely.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: StatusCode,
    /// The response headers.
    pub headers: reqwest::header::HeaderMap,
    /// The body as text.
    pub text: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }
    /// Checks the status and returns the body as JSON, or null if it is empty.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        if self.text.is_empty() { Value::Null } else { self.json() }
    }
    /// Checks that the response is this error and returns the error message.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> String {
        let body = self.expect(status);
        assert_eq!(body["code"], code, "{body}");
        assert_eq!(body["requestId"], self.headers["x-request-id"].to_str().unwrap());
        assert_eq!(body.as_object().unwrap().len(), 3, "{body}");
        body["error"].as_str().unwrap().to_owned()
    }
}

impl Client {
    /// A request with the client's token, not sent yet.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
    /// Sends a request and reads the response.
    pub async fn send(request: RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Answer { status, headers, text: response.text().await.unwrap() }
    }
    /// Sends a GET request.
    pub async fn get(&self, path: &str) -> Answer {
        Self::send(self.request(Method::GET, path)).await
    }
    /// Sends a POST request with a JSON body.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        Self::send(self.request(Method::POST, path).json(&body)).await
    }
    /// Sends a PATCH request with a JSON body.
    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        Self::send(self.request(Method::PATCH, path).json(&body)).await
    }
    /// Sends a DELETE request.
    pub async fn delete(&self, path: &str) -> Answer {
        Self::send(self.request(Method::DELETE, path)).await
    }
    /// Sends a POST request with this body, which need not be valid JSON.
    pub async fn post_raw(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        Self::send(self.request(Method::POST, path).header("content-type", "application/json").body(body)).await
    }

    /// Creates an AES-256-GCM key with this name.
    pub async fn aes_key(&self, name: &str) -> Value {
        let new = json!({"name": name, "type": "AES256_GCM", "purpose": "ENCRYPTION"});
        self.post("/v1/keys", new).await.expect(201)
    }
    /// Encrypts under the key `users`, this many times.
    pub async fn encrypt(&self, times: usize) {
        for _ in 0..times {
            self.post("/v1/crypto/encrypt", json!({"keyId": "users", "plaintext": "x"})).await.expect(200);
        }
    }
    /// The number of records in the audit log.
    pub async fn log_size(&self) -> u64 {
        self.get("/v1/audit/checkpoint").await.text.lines().nth(1).unwrap().parse().unwrap()
    }
    /// Creates an RSA-2048 key with this name and purpose.
    pub async fn rsa_key(&self, name: &str, purpose: &str) -> Value {
        self.post("/v1/keys", json!({"name": name, "type": "RSA_2048", "purpose": purpose})).await.expect(201)
    }
    /// Creates a token for this principal and role and returns a client that uses it.
    pub async fn token_for(&self, principal: &str, role: &str) -> Self {
        let made = self.post("/v1/tokens", json!({"principal": principal, "role": role})).await.expect(201);
        Self { token: made["token"].as_str().map(str::to_owned), ..self.clone() }
    }
}

/// The value of a metric without labels in an exposition.
pub fn metric(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

/// Scrapes until a counter exceeds `count`. An exposition is cached for a second, so the value may be higher by then.
pub async fn scrape_beyond(client: &Client, name: &str, count: u64) -> String {
    for _ in 0..600 {
        let text = client.get("/metrics").await.text;
        if metric(&text, name) > count {
            return text;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("{name} stays at {count}: {}", client.get("/metrics").await.text);
}
