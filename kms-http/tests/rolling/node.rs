//! Nodes: processes of the service on one database. Each keeps its port when it is restarted.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};

use kms_test_support::authority::{Authority, Files};
use kms_test_support::free_port;
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

use crate::common::program;
use crate::is_full;

/// The database, the root key and the certificates that all nodes share.
pub struct Cluster {
    url: String,
    authority: Authority,
    files: Files,
    home: TempDir,
}

/// A running node. Killed when dropped.
pub struct Node {
    process: Child,
    home: Arc<TempDir>,
    /// The port that it listens on.
    pub port: u16,
    /// The first token, if this node created it.
    pub token: Option<String>,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Cluster {
    /// Prepares a cluster without nodes on this database.
    pub fn new(url: &str) -> Self {
        let (authority, files) = (Authority::new("servers"), Files::create());
        files.install(&authority.server(1));
        Self { url: url.to_owned(), authority, files, home: TempDir::new().unwrap() }
    }

    /// The TLS configuration for clients of the nodes.
    pub fn client_config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        builder.with_root_certificates(roots).with_no_client_auth()
    }

    /// Starts a node on a free port.
    pub fn start_node(&self) -> Node {
        self.start(Arc::new(TempDir::new().unwrap()), free_port())
    }

    /// Starts a node again, with its port and its home directory.
    pub fn start_again(&self, node: &Node) -> Node {
        self.start(Arc::clone(&node.home), node.port)
    }

    /// Runs a command on the nodes' store and returns its output.
    pub fn command(&self, arguments: &[&str]) -> String {
        let output = self.program(&self.home).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn program(&self, home: &TempDir) -> Command {
        let mut command = program(home);
        command
            .env("KMS_STORE_URL", &self.url)
            .env("KMS_MASTER_KEY", format!("hex:{}", "07".repeat(32)))
            .env("KMS_HTTP_DRAIN_SECONDS", if is_full() { "2" } else { "1" })
            .env("KMS_HTTP_TLS_CERTIFICATE_FILE", self.files.path("server.pem"))
            .env("KMS_HTTP_TLS_KEY_FILE", self.files.path("server.key"));
        command
    }

    fn start(&self, home: Arc<TempDir>, port: u16) -> Node {
        let log = std::fs::File::options().create(true).append(true).open(home.path().join("log")).unwrap();
        let mut command = self.program(&home);
        command.env("KMS_HTTP_LISTEN", format!("127.0.0.1:{port}")).stdout(Stdio::piped()).stderr(log);
        let mut node = Node { process: command.spawn().unwrap(), home, port, token: None };
        for line in BufReader::new(node.process.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some(file) = line.strip_prefix("token file  ") {
                node.token = Some(std::fs::read_to_string(file).unwrap());
            }
            if line.starts_with("listening   ") {
                return node;
            }
        }
        panic!("the node did not start: {}", std::fs::read_to_string(node.home.path().join("log")).unwrap());
    }
}

impl Node {
    /// Sends a signal to the process.
    pub fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap().success());
    }

    /// Waits for the end of the process.
    pub async fn wait(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
