//! Tests of the service on a Unix socket.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::json;
use tempfile::TempDir;
use tokio::net::UnixStream;

use crate::client::{Answer, one, request};
use crate::common::{Server, program};

/// A service that listens only on a Unix socket. Killed when dropped.
struct OnSocket {
    process: Child,
    token: String,
}

impl Drop for OnSocket {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn serve(home: &TempDir, socket: &Path) -> OnSocket {
    let mut command = program(home);
    command.args(["serve", "--listen", "none", "--unix-socket"]).arg(socket);
    let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
    let output = BufReader::new(process.stdout.take().unwrap());
    let mut running = OnSocket { process, token: String::new() };
    for line in output.lines() {
        let line = line.unwrap();
        if let Some(file) = line.strip_prefix("token file  ") {
            running.token = std::fs::read_to_string(file).unwrap();
        }
        if let Some(place) = line.strip_prefix("listening   ") {
            assert_eq!(place, format!("unix:{}", socket.display()), "the service listens elsewhere too");
            return running;
        }
    }
    panic!("the service did not start");
}

async fn get(socket: &Path, path: &str, token: Option<&str>) -> Answer {
    one(UnixStream::connect(socket).await.unwrap(), request(path, token, None)).await.unwrap()
}

#[tokio::test]
async fn the_service_listens_on_a_socket() {
    let home = TempDir::new().unwrap();
    let socket = home.path().join("kms.sock");
    let mut server = serve(&home, &socket);
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600, "the default mode");
    let token = server.token.clone();
    let body = json!({"name": "users", "type": "AES256_GCM", "purpose": "ENCRYPTION"});
    let stream = UnixStream::connect(&socket).await.unwrap();
    let made = one(stream, request("/v1/keys", Some(&token), Some(&body))).await.unwrap();
    assert_eq!(made.status, 201, "{:?}", made.body);
    assert_eq!(get(&socket, "/v1/keys/users", Some(&token)).await.status, 200);
    assert_eq!(get(&socket, "/v1/keys/users", None).await.body["code"], "NotAuthenticated");

    // A second service does not replace the socket of the first.
    let mut second = program(&home);
    let second = second.args(["serve", "--listen", "none", "--unix-socket"]).arg(&socket).output().unwrap();
    assert_eq!(second.status.code(), Some(2), "{second:?}");
    assert!(String::from_utf8_lossy(&second.stderr).contains("already listening on"), "{second:?}");
    assert_eq!(get(&socket, "/v1/healthz", None).await.status, 200);

    // A crash leaves the socket behind. The next start replaces it, and an orderly end removes it.
    server.process.kill().unwrap();
    server.process.wait().unwrap();
    assert!(socket.symlink_metadata().unwrap().file_type().is_socket());
    let mut server = serve(&home, &socket);
    assert_eq!(get(&socket, "/v1/keys/users", Some(&token)).await.status, 200);
    let asked = std::process::Command::new("kill").arg(server.process.id().to_string()).status().unwrap();
    assert!(asked.success());
    assert!(server.process.wait().unwrap().success());
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_file_that_is_not_a_socket_is_not_replaced() {
    let home = TempDir::new().unwrap();
    let precious = home.path().join("precious");
    std::fs::write(&precious, "kept").unwrap();
    let mut refused = program(&home);
    let refused = refused.args(["serve", "--listen", "none", "--unix-socket"]).arg(&precious).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "kept");
}

#[tokio::test]
async fn the_service_listens_on_a_socket_and_an_address() {
    let home = TempDir::new().unwrap();
    let socket = home.path().join("kms.sock");
    let variables = [("KMS_HTTP_UNIX_SOCKET", socket.to_str().unwrap()), ("KMS_HTTP_UNIX_SOCKET_MODE", "0660")];
    let server = Server::start_in(home, &variables);
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    let admin = server.client();
    admin.aes_key("users").await;
    assert_eq!(get(&socket, "/v1/keys/users", Some(&server.admin)).await.status, 200);
    // A caller on a socket has no address, and its `x-forwarded-for` is ignored.
    let shop = admin.post("/v1/tokens", json!({"principal": "shop", "role": "app"})).await.expect(201);
    let near = json!({
        "principal": "shop", "role": "app", "keyId": "users", "allowedOps": ["read"],
        "conditions": {"sourceIp": ["127.0.0.0/8"]},
    });
    admin.post("/v1/grants", near).await.expect(201);
    let shop = shop["token"].as_str().unwrap();
    server.client_with(Some(shop)).get("/v1/keys/users").await.expect(200);
    let mut forged = request("/v1/keys/users", Some(shop), None);
    forged.headers_mut().insert("x-forwarded-for", "127.0.0.1".parse().unwrap());
    let forged = one(UnixStream::connect(&socket).await.unwrap(), forged).await.unwrap();
    assert_eq!(forged.body["code"], "AccessDenied", "{:?}", forged.body);
}
