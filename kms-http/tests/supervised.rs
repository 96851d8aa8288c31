//! Tests of supervision: notifications of readiness and liveness, inherited sockets, and `healthcheck`.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Server, program};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};
use tempfile::TempDir;

/// The notification socket of a supervisor.
struct Supervisor {
    socket: UnixDatagram,
    home: TempDir,
}

impl Supervisor {
    fn new() -> Self {
        let home = TempDir::new().unwrap();
        let socket = UnixDatagram::bind(home.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { socket, home }
    }

    fn start(&self, environment: &[(&str, &str)]) -> Running {
        let mut command = program(&self.home);
        command.env("KMS_HTTP_LISTEN", "127.0.0.1:0").env("NOTIFY_SOCKET", self.home.path().join("notify"));
        command.envs(environment.iter().copied()).stdout(Stdio::null()).stderr(Stdio::null());
        Running(command.spawn().unwrap())
    }

    /// The next notification other than those for the watchdog.
    fn told(&self) -> String {
        loop {
            let text = self.told_all();
            if text.trim() != "WATCHDOG=1" {
                return text;
            }
        }
    }

    fn told_all(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).expect("the supervisor is told something");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }
}

struct Running(Child);

impl Running {
    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_supervisor_is_told() {
    let supervisor = Supervisor::new();
    let mut service = supervisor.start(&[("WATCHDOG_USEC", "400000")]);
    assert!(supervisor.told().contains("READY=1"));
    // The watchdog notifications come in time.
    for _ in 0..3 {
        assert_eq!(supervisor.told_all().trim(), "WATCHDOG=1");
    }
    service.signal("-HUP");
    let reloading = supervisor.told();
    assert!(reloading.contains("RELOADING=1") && reloading.contains("MONOTONIC_USEC="), "{reloading}");
    assert!(supervisor.told().contains("READY=1"));
    service.signal("-TERM");
    assert!(supervisor.told().contains("STOPPING=1"));
    assert!(service.0.wait().unwrap().success());
}

/// A service whose store is not open yet neither listens nor reports that it is ready.
#[test]
fn nobody_connects_before_the_store_is_open() {
    let supervisor = Supervisor::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    // A database server that accepts connections and never replies.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://kms:secret@{}/kms?sslmode=disable", silent.local_addr().unwrap());
    let key = "hex:0707070707070707070707070707070707070707070707070707070707070707";
    let environment = [("KMS_STORE_URL", url.as_str()), ("KMS_HTTP_LISTEN", &address), ("KMS_MASTER_KEY", key)];
    let mut service = supervisor.start(&environment);
    // The service has read its settings and connects to the database.
    let _asked = silent.accept().unwrap();
    for _ in 0..10 {
        assert!(std::net::TcpStream::connect(&address).is_err(), "it listens, and there is no store");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(service.0.try_wait().unwrap().is_none(), "it waits for the store");
    supervisor.socket.set_nonblocking(true).unwrap();
    assert!(supervisor.socket.recv(&mut [0; 64]).is_err(), "it is not ready");
}

#[test]
fn sockets_are_passed_on() {
    let home = TempDir::new().unwrap();
    // As systemd does: the socket is opened before the program, which inherits it as descriptor 3.
    let activate = "import os,socket,sys\ns=socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\n\
                    print(s.getsockname()[1], flush=True)\nos.dup2(s.fileno(), 3)\nos.set_inheritable(3, True)\n\
                    os.environ['LISTEN_FDS']='1'; os.environ['LISTEN_PID']=str(os.getpid())\n\
                    os.execv(sys.argv[1], sys.argv[1:])";
    let mut command = Command::new("python3");
    command.args(["-c", activate]).arg(program(&home).get_program()).arg("serve");
    // The service could not listen on this address.
    command.env("HOME", home.path()).env("KMS_HTTP_LISTEN", "192.0.2.1:1").stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let _child = Running(child);
    let port = lines.next().unwrap().unwrap();
    // A caller that connects early gets its response.
    let early = std::thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        let request = b"GET /v1/healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request).unwrap();
        std::io::read_to_string(stream).unwrap()
    });
    assert!(early.join().unwrap().starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_ledger_that_has_stopped_fails_the_check_of_health() {
    let server = Server::start_on_file(&[]);
    let admin = server.client();
    admin.aes_key("users").await;
    let address = server.url.strip_prefix("http://").unwrap().to_owned();
    let check = |arguments: &[&str]| {
        let mut command = program(&server.home);
        command.env("KMS_HTTP_LISTEN", &address).arg("healthcheck").args(arguments).output().unwrap()
    };
    for arguments in [&[][..], &["--ready"]] {
        assert!(check(arguments).status.success(), "{:?}", check(arguments));
    }
    let old = server.home.path().join("old.db");
    let mut store = SqliteConnection::connect(&format!("sqlite:{}", server.store().display())).await.unwrap();
    let copy = format!("VACUUM INTO '{}'", old.display());
    sqlx::query(AssertSqlSafe(copy)).execute(&mut store).await.unwrap();
    for _ in 0..3 {
        let request = json!({"keyId": "users", "plaintext": "x"});
        admin.post("/v1/crypto/encrypt", request).await.expect(200);
    }
    // The log is rolled back while the service is running.
    let back = format!(
        "ATTACH '{}' AS old; BEGIN IMMEDIATE; DELETE FROM audit_head; INSERT INTO audit_head SELECT * FROM old.audit_head; \
         DELETE FROM audit_logs WHERE seq > (SELECT max(seq) FROM old.audit_logs); COMMIT",
        old.display()
    );
    sqlx::raw_sql(AssertSqlSafe(back)).execute(&mut store).await.unwrap();
    store.close().await.unwrap();
    let request = json!({"keyId": "users", "plaintext": "x"});
    let refused = admin.post("/v1/crypto/encrypt", request).await;
    assert!(refused.status.is_server_error(), "{}", refused.text);
    server.client_with(None).get("/v1/healthz").await.refused(503, "IntegrityFailure");
    let failed = check(&[]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(String::from_utf8_lossy(&failed.stderr).contains("IntegrityFailure"));
}

#[test]
fn a_check_of_health_where_nothing_runs_fails() {
    let home = TempDir::new().unwrap();
    let run = program(&home).env("KMS_HTTP_LISTEN", "127.0.0.1:9").arg("healthcheck").output().unwrap();
    assert_eq!(run.status.code(), Some(1), "{run:?}");
    assert!(String::from_utf8_lossy(&run.stderr).contains("no response from"));
}
