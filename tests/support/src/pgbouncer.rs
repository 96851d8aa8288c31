//! A private PgBouncer in front of a PostgreSQL server.

use tempfile::TempDir;

use crate::process::{Running, command, find, folder, free_port, give};

const USER: &str = "postgres";
const FOLDERS: [&str; 3] = ["/usr/sbin", "/usr/bin", "/usr/local/bin"];

/// A private instance of the distribution's PgBouncer.
pub struct PgBouncer {
    _folder: TempDir,
    _running: Running,
    port: u16,
}

impl PgBouncer {
    /// Starts an instance in front of the PostgreSQL server at this port, or returns None if PgBouncer is not
    /// installed. `pool_mode` is `session`, `transaction` or `statement`; `servers` is the maximum number of sessions
    /// on the server.
    pub fn try_new(server: u16, pool_mode: &str, servers: u32) -> Option<Self> {
        let program = find("pgbouncer", &FOLDERS)?;
        let (folder, port) = (folder(USER), free_port());
        let configuration = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={server} user=postgres password=kms-test\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = {pool_mode}\ndefault_pool_size = {servers}\n"
        );
        std::fs::write(&configuration, text).expect("the configuration");
        give(&configuration, folder.path());
        let mut start = command(&program, USER);
        start.arg(&configuration);
        let log = folder.path().join("log");
        let mut running = Running::start(start, &log);
        running.wait(&log, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Some(Self { _folder: folder, _running: running, port })
    }

    /// The port of 127.0.0.1 on which it listens.
    pub fn port(&self) -> u16 {
        self.port
    }
}
