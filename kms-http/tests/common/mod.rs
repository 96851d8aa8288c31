//! The service as a real process on a free port, on the engine that `KMS_TEST_ENGINE` names, and a client that speaks
//! to it.

#![allow(dead_code, clippy::unwrap_used, reason = "each suite uses its part, and a test may fail by a panic")]

#[path = "../../../kms-lib/tests/common/engine.rs"]
pub mod engine;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A running service. Killed when dropped.
pub struct Server {
    /// The process.
    pub process: Child,
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    /// A token of an admin.
    pub admin: String,
    /// Where everything of it is.
    pub home: TempDir,
    environment: Vec<(String, String)>,
}

/// The program, with nothing of this process's environment but what it needs.
pub fn program(home: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kms-http"));
    command.env_clear().env("HOME", home.path()).env("PATH", std::env::var_os("PATH").unwrap());
    command
}

impl Server {
    /// Starts it with the defaults and these variables, on a new store of the engine.
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

    /// The same, with a file as its store on whichever engine the suite runs.
    pub fn start_on_file(environment: &[(&str, &str)]) -> Self {
        Self::start_in(TempDir::new().unwrap(), environment)
    }

    /// The same, in a folder that may hold what it needs already.
    pub fn start_in(home: TempDir, environment: &[(&str, &str)]) -> Self {
        let environment: Vec<(String, String)> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (process, url, token) = spawn(&home, &environment);
        let has_tokens = !environment.iter().any(|(name, value)| name == "KMS_HTTP_AUTH" && !value.contains("token"));
        assert_eq!(token.is_some(), has_tokens, "a token at the first start");
        Self { process, url, admin: token.unwrap_or_default(), home, environment }
    }

    /// Starts it again on what it left.
    pub fn restart(&mut self) {
        let (process, url, token) = spawn(&self.home, &self.environment);
        assert!(token.is_none(), "a token is printed at the first start only");
        (self.process, self.url) = (process, url);
    }

    /// Says that it is to end, and waits until it has.
    pub fn stop(&mut self) -> std::process::ExitStatus {
        self.signal("-TERM");
        self.process.wait().unwrap()
    }

    /// Ends it as a power failure would.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Sends it a signal.
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

    /// A client with the admin's token.
    pub fn client(&self) -> Client {
        self.client_with(Some(&self.admin))
    }

    /// A client with this token, or none.
    pub fn client_with(&self, token: Option<&str>) -> Client {
        Client { http: reqwest::Client::new(), url: self.url.clone(), token: token.map(str::to_owned) }
    }

    /// Its resident memory, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// The file of its store, if it has one.
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

/// A client.
#[derive(Clone)]
pub struct Client {
    /// Its connections.
    pub http: reqwest::Client,
    /// Of the service.
    pub url: String,
    token: Option<String>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: reqwest::header::HeaderMap,
    /// Its text.
    pub text: String,
}

impl Answer {
    /// Its JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }
    /// Its JSON, if it has this status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        if self.text.is_empty() { Value::Null } else { self.json() }
    }
    /// Its message, if it is this error.
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
    /// A request that is not sent yet.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
    /// Sends it.
    pub async fn send(request: RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Answer { status, headers, text: response.text().await.unwrap() }
    }
    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        Self::send(self.request(Method::GET, path)).await
    }
    /// POST.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        Self::send(self.request(Method::POST, path).json(&body)).await
    }
    /// PATCH.
    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        Self::send(self.request(Method::PATCH, path).json(&body)).await
    }
    /// DELETE.
    pub async fn delete(&self, path: &str) -> Answer {
        Self::send(self.request(Method::DELETE, path)).await
    }
    /// POST of a text as it is.
    pub async fn post_raw(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        Self::send(self.request(Method::POST, path).header("content-type", "application/json").body(body)).await
    }

    /// An AES key of this name.
    pub async fn aes_key(&self, name: &str) -> Value {
        let new = json!({"name": name, "type": "AES256_GCM", "purpose": "ENCRYPTION"});
        self.post("/v1/keys", new).await.expect(201)
    }
    /// An RSA key of this name and purpose.
    pub async fn rsa_key(&self, name: &str, purpose: &str) -> Value {
        self.post("/v1/keys", json!({"name": name, "type": "RSA_2048", "purpose": purpose})).await.expect(201)
    }
    /// A client for a principal in a role, with a token of its own.
    pub async fn token_for(&self, principal: &str, role: &str) -> Self {
        let made = self.post("/v1/tokens", json!({"principal": principal, "role": role})).await.expect(201);
        Self { token: made["token"].as_str().map(str::to_owned), ..self.clone() }
    }
}

/// The value of a series without labels in a scrape.
pub fn metric(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

/// Scrapes until a counter is beyond this: a scrape is kept for a second, in which it may count further.
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
