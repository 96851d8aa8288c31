//! Starts, watches and ends the process of a server.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Upper limit for the wait until a server answers.
const PATIENCE: Duration = Duration::from_secs(120);

/// A port that is currently free. It is below the range of outgoing connections, of which there are many while tests
/// run, and this process has not used it before.
pub fn free_port() -> u16 {
    const PORTS: std::ops::Range<u16> = 10_000..32_000;
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    // A random start, because other processes search for ports too.
    let next = NEXT.get_or_init(|| AtomicU16::new(RandomState::new().build_hasher().finish() as u16));
    for _ in PORTS {
        let port = PORTS.start + next.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free")
}

/// A temporary folder that belongs to the user of the server.
pub(crate) fn folder(user: &str) -> TempDir {
    let folder = tempfile::Builder::new().prefix("kms-server-").tempdir().expect("a temporary folder");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).expect("its mode");
    if let Some((uid, gid)) = account(user) {
        chown(folder.path(), Some(uid), Some(gid)).expect("its owner");
    }
    folder
}

/// Makes the owner of a folder the owner of a file, which only that user can then read.
pub(crate) fn give(file: &Path, folder: &Path) {
    let owner = std::fs::metadata(folder).expect("the folder");
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).expect("the file's mode");
    chown(file, Some(owner.uid()), Some(owner.gid())).expect("the file's owner");
}

/// The user and group ids for a server, if the tests run as root: servers refuse to run as root.
fn account(user: &str) -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let line = accounts.lines().find(|line| line.split(':').next() == Some(user))?;
    let mut fields = line.split(':').skip(2).map(|field| field.parse().ok());
    Some((fields.next()??, fields.next()??))
}

/// A command that runs as this user and ends with the process that started it.
pub(crate) fn command(program: &Path, user: &str) -> Command {
    let mut command = match account(user) {
        // Numeric ids, because looking up a name may need a service that is not running.
        Some((uid, gid)) => {
            let mut command = Command::new("setpriv");
            command.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
            command.args(["--clear-groups", "--pdeathsig=KILL", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    };
    command.stdin(Stdio::null()).current_dir("/");
    command
}

/// The first of these paths that exists.
pub(crate) fn find(name: &str, folders: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).collect::<Vec<_>>();
    folders.iter().map(PathBuf::from).chain(on_path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Runs a command to its end. Panics with its output if it fails.
pub(crate) fn run(mut command: Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&text));
}

/// Whether a command succeeds.
pub(crate) fn succeeds(mut command: Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Spawns from a thread that lives as long as this process, because the kernel ends such a child with the thread that
/// started it.
fn spawn(command: Command) -> Child {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (reply, answer) = mpsc::channel();
    let name = format!("{command:?}");
    spawner.lock().expect("the spawning thread").send((command, reply)).expect("the spawning thread");
    answer.recv().expect("the spawning thread").unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A running server process. Killed when dropped.
pub(crate) struct Running(Child);

impl Running {
    /// Starts the process. Its output is appended to the file `log`.
    pub(crate) fn start(mut command: Command, log: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log).expect("a log file");
        command.stdout(log.try_clone().expect("a log file")).stderr(log);
        Self(spawn(command))
    }

    /// Waits until `is_ready` returns true. Panics with the log if the process ends or takes too long.
    pub(crate) fn wait(&mut self, log: &Path, is_ready: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is_ready() {
            let ended = self.0.try_wait().expect("the server's state");
            assert!(
                ended.is_none() && begun.elapsed() < PATIENCE,
                "the server does not answer ({ended:?}); it says:\n{}",
                std::fs::read_to_string(log).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
