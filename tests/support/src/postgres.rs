//! A private PostgreSQL server.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::process::{Running, command, find, folder, free_port, give, run, succeeds};
use crate::{Server, database_name};

const USER: &str = "postgres";

/// A private server with the PostgreSQL of the distribution.
pub struct Postgres {
    folder: TempDir,
    binaries: PathBuf,
    port: u16,
    arguments: Vec<String>,
    running: Option<Running>,
}

impl Postgres {
    /// Starts a server with additional `arguments`, or returns None if PostgreSQL is not installed.
    pub fn try_new(arguments: &[&str]) -> Option<Self> {
        let binaries = binaries()?;
        let folder = folder(USER);
        let mut make = command(&binaries.join("initdb"), USER);
        make.arg("-D").arg(folder.path().join("data"));
        make.args(["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "--pwfile"]);
        let password = folder.path().join("password");
        std::fs::write(&password, "kms-test\n").expect("the password file");
        make.arg(&password);
        give(&password, folder.path());
        run(make);
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut server = Self { folder, binaries, port: free_port(), arguments, running: None };
        server.start();
        Some(server)
    }

    /// The folder that contains all files of this server.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Executes statements as the administrator in this database and returns their output.
    pub fn sql(&self, database: &str, statements: &str) -> String {
        let output = self.client(database, statements).output().expect("psql");
        assert!(output.status.success(), "{statements}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn client(&self, database: &str, statements: &str) -> Command {
        let mut client = Command::new(self.binaries.join("psql"));
        client.args(["-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres"]);
        client.args(["-p", &self.port.to_string(), "-d", database, "-c", statements]);
        client.env("PGPASSWORD", "kms-test").env("PGCONNECT_TIMEOUT", "5");
        client
    }
}

/// The programs of the newest version. Debian has a folder for each version, which is not in `PATH`.
fn binaries() -> Option<PathBuf> {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|folder| folder.join("initdb").is_file())
        .collect();
    versions.sort();
    let found = versions.pop();
    found.or_else(|| find("initdb", &[]).and_then(|file| Some(file.parent()?.to_owned())))
}

impl Server for Postgres {
    fn create_database(&self) -> String {
        let name = database_name();
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        format!("postgres://postgres:kms-test@127.0.0.1:{}/{name}?ssl-mode=disable", self.port)
    }
    fn port(&self) -> u16 {
        self.port
    }
    fn kill(&mut self) {
        self.running = None;
        // The server can be started again only when the processes of its sessions have noticed and ended.
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    fn start(&mut self) {
        let folder = self.folder.path();
        let mut server = command(&self.binaries.join("postgres"), USER);
        server.arg("-D").arg(folder.join("data")).args(["-p", &self.port.to_string(), "-h", "127.0.0.1"]);
        server.arg("-k").arg(folder);
        server.args(["-c", "max_connections=200"]).args(&self.arguments);
        let mut running = Running::start(server, &self.log());
        running.wait(&self.log(), || succeeds(self.client("postgres", "SELECT 1")));
        self.running = Some(running);
    }
}
