//! Tests of the import from Mini KMS on Node, with real dumps of its database on a private MariaDB server.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod concurrent;
mod crypto;
mod grants;
mod log;
mod numbers;
mod phases;
mod refused;
mod runs;
mod source;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use common::{Place, admin};
use kms_lib::{ImportJob, ImportReport, ImportSource, Kms, Timestamp};
use kms_test_support::{MariaDb, Server};
use serde_json::Value;
use serde_json::value::RawValue;

/// The server that all tests of this process share. None if MariaDB is not installed.
fn server() -> Option<&'static Mutex<MariaDb>> {
    static SERVER: OnceLock<Option<Mutex<MariaDb>>> = OnceLock::new();
    SERVER.get_or_init(|| MariaDb::try_new(&[]).map(Mutex::new)).as_ref()
}

fn locked(server: &Mutex<MariaDb>) -> MutexGuard<'_, MariaDb> {
    // A failed test poisons the lock, but leaves the server usable.
    server.lock().unwrap_or_else(PoisonError::into_inner)
}

fn legacy(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/legacy").join(file)
}

/// A database of the original, with the responses of its API.
struct Original {
    url: String,
    database: String,
    /// The responses of its API, and its master secret.
    known: Value,
    /// The ciphertexts with the additional data as it was sent, because the order of names matters.
    aads: Vec<Option<String>>,
}

impl Original {
    /// Loads a dump into a new database. None if there is no server.
    fn load(name: &str) -> Option<Self> {
        Some(Self::load_into(&locked(server()?), name))
    }

    fn load_into(server: &MariaDb, name: &str) -> Self {
        let url = server.create_database();
        let database = url.rsplit('/').next().unwrap().split('?').next().unwrap().to_owned();
        let dump = std::fs::read_to_string(legacy(&format!("{name}.sql"))).unwrap();
        server.sql(&format!("USE {database}; SET FOREIGN_KEY_CHECKS = 0; {dump}"));
        let known = std::fs::read_to_string(legacy(&format!("{name}.json"))).unwrap();
        let aads = aads(&known);
        Self { url, database, known: serde_json::from_str(&known).unwrap(), aads }
    }

    /// Executes statements on its database.
    fn sql(&self, statements: &str) -> String {
        locked(server().unwrap()).sql(&format!("USE {}; {statements}", self.database))
    }

    fn secret(&self) -> &str {
        self.known["masterKey"].as_str().unwrap()
    }

    fn source(&self) -> ImportSource {
        // No output may contain it.
        common::output::secret(self.secret().as_bytes());
        ImportSource::parse(&self.url).unwrap().master_secret(self.secret())
    }

    fn list(&self, what: &str) -> &Vec<Value> {
        self.known[what].as_array().unwrap()
    }
}

/// The additional data of every ciphertext, with the bytes of the file.
fn aads(known: &str) -> Vec<Option<String>> {
    #[derive(serde::Deserialize)]
    struct Known {
        ciphertexts: Vec<Sent>,
    }
    #[derive(serde::Deserialize)]
    struct Sent {
        aad: Option<Box<RawValue>>,
    }
    let known: Known = serde_json::from_str(known).unwrap();
    known.ciphertexts.into_iter().map(|sent| sent.aad.map(|aad| aad.get().to_owned())).collect()
}

/// A store whose clock is within the grace windows of the dumps.
fn place() -> Place {
    let place = Place::in_a_file();
    let then: Timestamp = "2026-11-25T00:00:00Z".parse().unwrap();
    place.pass_seconds((then.micros() - Timestamp::now().micros()) / 1_000_000);
    place
}

async fn import(kms: &Kms, original: &Original, job: &ImportJob) -> ImportReport {
    admin(kms).import_mini_kms(&original.source(), job).await.unwrap()
}

/// Whether this process runs only the test of this name. If not, the function runs the test in such a process, so that
/// no other test uses memory beside it.
fn is_alone(test: &str) -> bool {
    const ALONE: &str = "KMS_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let program = std::env::current_exe().unwrap();
    let mut command = std::process::Command::new(program);
    let status = command.args(["--exact", test, "--nocapture"]).env(ALONE, "1").status().unwrap();
    assert!(status.success(), "{test} failed in a process of its own");
    false
}

/// Measures the memory of this process.
struct Memory {
    before: u64,
}

impl Memory {
    fn measure() -> Self {
        // Resets the peak to the current use (proc(5)).
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        Self { before: Self::peak() }
    }

    /// The largest amount of memory that the process has used, in KiB.
    fn peak() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse().unwrap()
    }

    /// The growth of the peak since the measurement began, in KiB.
    fn grown(&self) -> u64 {
        Self::peak().saturating_sub(self.before)
    }
}

/// Loads a dump, or returns from the test if there is no server.
macro_rules! original {
    ($name:expr) => {
        match crate::Original::load($name) {
            Some(original) => original,
            None => {
                eprintln!("SKIPPED: MariaDB is not installed");
                return;
            }
        }
    };
}
pub(crate) use original;
