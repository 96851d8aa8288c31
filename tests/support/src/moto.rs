//! A private moto server, which implements AWS KMS. It checks neither the states of keys nor signatures.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Running, free_port};

/// The region of keys if no other is named.
pub const REGION: &str = "us-east-1";

/// A running moto server.
pub struct Moto {
    port: u16,
    _folder: TempDir,
    _running: Running,
}

/// A key that the server created.
#[derive(Clone, Debug)]
pub struct AwsKey {
    /// The key id, a UUID.
    pub id: String,
    /// The ARN that the server returned.
    pub arn: String,
}

/// A key in AWS KMS whose id and material a test determines, so that the server decrypts earlier ciphertexts.
#[derive(Clone, Debug)]
pub struct KnownKey {
    /// The key id, a UUID.
    pub id: String,
    /// The material: 32 bytes in hex.
    pub material: String,
}

impl Moto {
    /// Starts a server, or returns None if moto is not installed. `KMS_TEST_MOTO` names the program; otherwise the one
    /// that `tests/run` installs is used.
    pub fn try_new() -> Option<Self> {
        Some(Self::start(&program()?, &[]))
    }

    /// Like [`try_new`](Self::try_new), with these keys in [`REGION`].
    pub fn try_with_keys(keys: &[KnownKey]) -> Option<Self> {
        let interpreter = program()?.parent()?.join("python");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/moto-with-keys.py").to_owned();
        let keys: Vec<String> = keys.iter().map(|key| format!("{}={}", key.id, key.material)).collect();
        Some(Self::start(&interpreter, &[script, keys.join(",")]))
    }

    fn start(program: &Path, arguments: &[String]) -> Self {
        let folder = tempfile::Builder::new().prefix("kms-moto-").tempdir().expect("a temporary folder");
        let (port, log) = (free_port(), folder.path().join("log"));
        let mut command = match rustix::process::geteuid().is_root() {
            // The server ends with the process that started it.
            true => {
                let mut command = Command::new("setpriv");
                command.args(["--pdeathsig=KILL", "--"]).arg(program);
                command
            }
            false => Command::new(program),
        };
        command.args(arguments).args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        command.stdin(Stdio::null()).current_dir(folder.path());
        let mut running = Running::start(command, &log);
        running.wait(&log, || {
            let answer = exchange(port, "GET /moto-api/ HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n");
            answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
        });
        Self { port, _folder: folder, _running: running }
    }

    /// The port of the loopback interface on which the server listens.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Administrative calls to the moto server at this port, without a proxy.
#[derive(Clone, Copy, Debug)]
pub struct MotoAdmin(pub u16);

impl MotoAdmin {
    /// Creates a symmetric encryption key in [`REGION`].
    pub fn create_key(&self) -> AwsKey {
        self.create_key_in(REGION, &json!({}))
    }

    /// Creates a key in this region with these parameters of `CreateKey`.
    pub fn create_key_in(&self, region: &str, parameters: &Value) -> AwsKey {
        let answer = self.call(region, "CreateKey", parameters);
        let text = |name: &str| answer["KeyMetadata"][name].as_str().expect("a key").to_owned();
        AwsKey { id: text("KeyId"), arn: text("Arn") }
    }

    /// Creates an alias, `alias/NAME`, of a key.
    pub fn create_alias(&self, alias: &str, key: &AwsKey) {
        self.call(REGION, "CreateAlias", &json!({"AliasName": alias, "TargetKeyId": key.id}));
    }

    /// Makes an alias name another key.
    pub fn update_alias(&self, alias: &str, key: &AwsKey) {
        self.call(REGION, "UpdateAlias", &json!({"AliasName": alias, "TargetKeyId": key.id}));
    }

    /// Calls the API of AWS KMS. Panics if the call fails.
    pub fn call(&self, region: &str, operation: &str, body: &Value) -> Value {
        let body = body.to_string();
        let head = format!(
            "POST / HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-type: application/x-amz-json-1.1\r\n\
             x-amz-target: TrentService.{operation}\r\ncontent-length: {}\r\nauthorization: AWS4-HMAC-SHA256 \
             Credential=admin/20260101/{region}/kms/aws4_request, SignedHeaders=host, Signature=none\r\n\r\n",
            body.len()
        );
        let answer = exchange(self.0, &(head + &body)).unwrap_or_else(|e| panic!("{operation} of moto: {e}"));
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer of moto");
        assert!(head.starts_with("HTTP/1.1 200"), "{operation}: {answer}");
        serde_json::from_str(if body.is_empty() { "null" } else { body }).expect("JSON of moto")
    }
}

/// Sends one HTTP request to the server at this port; returns its response, with the head.
fn exchange(port: u16, request: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    connection.write_all(request.as_bytes())?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

fn program() -> Option<PathBuf> {
    if let Some(program) = std::env::var_os("KMS_TEST_MOTO") {
        return Some(PathBuf::from(program));
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let is_moto = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("moto-"));
    let environments = std::fs::read_dir(target).ok()?.filter_map(|entry| Some(entry.ok()?.path())).filter(is_moto);
    let mut programs: Vec<_> =
        environments.map(|path| path.join("bin/moto_server")).filter(|program| program.is_file()).collect();
    programs.sort();
    programs.pop()?.canonicalize().ok()
}
