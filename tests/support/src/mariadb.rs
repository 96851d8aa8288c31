//! A private MariaDB server.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::process::{Running, command, find, folder, free_port, run, succeeds};
use crate::{Server, database_name};

const USER: &str = "mysql";
const FOLDERS: [&str; 3] = ["/usr/sbin", "/usr/bin", "/usr/local/bin"];

/// A private server with the MariaDB of the distribution.
pub struct MariaDb {
    folder: TempDir,
    port: u16,
    arguments: Vec<String>,
    running: Option<Running>,
}

impl MariaDb {
    /// Starts a server with additional `arguments`, or returns None if MariaDB is not installed.
    pub fn try_new(arguments: &[&str]) -> Option<Self> {
        let mut server = Self::prepare(arguments)?;
        server.start();
        Some(server)
    }

    /// Creates the data of a server without starting it.
    pub(crate) fn prepare(arguments: &[&str]) -> Option<Self> {
        let install = find("mariadb-install-db", &FOLDERS)?;
        program()?;
        let folder = Self::install(&install);
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Some(Self { folder, port: free_port(), arguments, running: None })
    }

    /// Creates a folder with the data of a new server. Retried, because an attempt can fail while many servers are
    /// created.
    fn install(program: &Path) -> TempDir {
        let mut tries = 0;
        loop {
            let folder = folder(USER);
            let mut make = command(program, USER);
            make.arg("--no-defaults").arg(format!("--datadir={}", folder.path().join("data").display()));
            make.args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
            tries += 1;
            if tries == 3 {
                run(make);
                return folder;
            }
            if succeeds(make) {
                return folder;
            }
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    }

    /// The folder that contains all files of this server.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Sets additional arguments for the next start.
    pub(crate) fn set_arguments(&mut self, arguments: Vec<String>) {
        self.arguments = arguments;
    }

    /// Executes statements as the administrator and returns their output without column names.
    pub fn sql(&self, statements: &str) -> String {
        let output = self.client(statements).output().expect("the mariadb client");
        assert!(output.status.success(), "{statements}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub(crate) fn client(&self, statements: &str) -> Command {
        let mut client = Command::new(find("mariadb", &FOLDERS).expect("the mariadb client"));
        client.args(["--no-defaults", "-uroot", "-NB", "--connect-timeout=5"]);
        client.arg(format!("--socket={}", self.socket().display()));
        client.args(["-e", statements]);
        client
    }

    /// Starts the process without waiting until it answers.
    pub(crate) fn launch(&mut self) {
        let mut server = command(&program().expect("mariadbd"), USER);
        let folder = self.folder.path();
        server.arg("--no-defaults");
        server.arg(format!("--datadir={}", folder.join("data").display()));
        server.arg(format!("--tmpdir={}", folder.display()));
        server.arg(format!("--socket={}", self.socket().display()));
        server.arg(format!("--pid-file={}", folder.join("pid").display()));
        server.arg(format!("--port={}", self.port));
        server.args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--innodb-buffer-pool-size=64M"]);
        server.args(["--max-connections=300", "--innodb-flush-log-at-trx-commit=1"]);
        server.args(&self.arguments);
        self.running = Some(Running::start(server, &self.log()));
    }

    /// Waits until the output of the statement contains `expected`.
    pub(crate) fn wait_for(&mut self, statement: &str, expected: &str) {
        let mut running = self.running.take().expect("a server that was started");
        running.wait(&self.log(), || {
            let output = self.client(statement).output();
            output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim().contains(expected))
        });
        self.running = Some(running);
    }

    pub(crate) fn is_up(&self) -> bool {
        succeeds(self.client("SELECT 1"))
    }
}

fn program() -> Option<PathBuf> {
    find("mariadbd", &FOLDERS)
}

impl Server for MariaDb {
    fn create_database(&self) -> String {
        let name = database_name();
        // A character set that lacks most characters: the service's tables must not depend on the database's default.
        self.sql(&format!(
            "CREATE DATABASE {name} CHARACTER SET latin1; \
             CREATE USER IF NOT EXISTS kms@'127.0.0.1' IDENTIFIED BY 'kms-test'; \
             GRANT ALL ON {name}.* TO kms@'127.0.0.1'"
        ));
        format!("mysql://kms:kms-test@127.0.0.1:{}/{name}?ssl-mode=disabled", self.port)
    }
    fn port(&self) -> u16 {
        self.port
    }
    fn kill(&mut self) {
        self.running = None;
    }
    fn start(&mut self) {
        self.launch();
        let mut running = self.running.take().expect("a server that was started");
        running.wait(&self.log(), || self.is_up());
        self.running = Some(running);
    }
}
