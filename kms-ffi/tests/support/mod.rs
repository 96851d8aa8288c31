//! Helpers of tests that compile C and C++ programs against the library.

#![allow(dead_code, clippy::unwrap_used, clippy::print_stdout)]

pub mod declarations;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// The folder of this crate.
pub fn crate_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The root of the repository.
pub fn root() -> PathBuf {
    crate_dir().parent().unwrap().to_owned()
}

/// The folder where cargo has built the libraries for this test.
pub fn built() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

/// Whether the long tests run (`tests/run --full`).
pub fn is_full() -> bool {
    std::env::var("KMS_TEST_MODE").as_deref() == Ok("full")
}

/// Whether a tool is installed; prints that a test is skipped if not. `tests/run` installs the tools.
pub fn has(tool: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output().unwrap().status.success();
    if !found {
        println!("SKIPPED: {tool} is not installed");
    }
    found
}

/// A folder for compiled programs, in which the loader finds the shared library.
pub struct Bench {
    folder: TempDir,
}

impl Bench {
    /// Creates a folder that contains only links to the shared library.
    pub fn new() -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        for name in ["libmini_kms.so", "libmini_kms.so.1"] {
            std::os::unix::fs::symlink(built().join("libmini_kms.so"), bench.path(name)).unwrap();
        }
        bench
    }
    /// The path of a file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
    /// The folder, which is removed when this value is dropped.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
    /// Compiles a source file with all warnings as errors, and returns the program.
    pub fn compile(&self, compiler: &str, source: &Path, flags: &[&str]) -> PathBuf {
        let program = self.path(&format!("{}-{compiler}{}", source.file_stem().unwrap().display(), flags.len()));
        let is_c = source.extension().is_some_and(|ending| ending == "c");
        let mut command = Command::new(compiler);
        command.args([if is_c { "-std=c99" } else { "-std=c++17" }, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g"]);
        command.args(flags).arg("-I").arg(root().join("include")).arg("-I").arg(crate_dir().join("tests/c"));
        command.arg(source).arg("-L").arg(self.folder()).args(["-lmini_kms", "-lpthread", "-o"]).arg(&program);
        succeed(&mut command);
        program
    }
    /// Runs a program on a new store, under a wrapper such as valgrind unless `wrapper` is empty.
    pub fn run(&self, wrapper: &[&str], program: &Path) -> Output {
        let store = tempfile::tempdir_in(self.folder()).unwrap();
        let mut words: Vec<std::ffi::OsString> = wrapper.iter().map(Into::into).collect();
        words.push(program.into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(store.path().join("kms.db")).env("LD_LIBRARY_PATH", self.folder());
        command.env("KMS_TEST_IMPORT", import_request());
        command.env("ASAN_OPTIONS", "detect_leaks=1").env("UBSAN_OPTIONS", "halt_on_error=1:print_stacktrace=1");
        succeed(&mut command)
    }
}

/// The import request of `import.c`. Its source is the files of an older version of Mini KMS on Node.
fn import_request() -> String {
    let legacy = root().join("tests/legacy");
    let known: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(legacy.join("clean.json")).unwrap()).unwrap();
    let from = legacy.join("older");
    serde_json::json!({ "from": from, "masterSecret": known["masterKey"], "rotate": true }).to_string()
}

/// Runs a command, and fails with its output unless it succeeds.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// The path of a test program's source file.
pub fn source(name: &str) -> PathBuf {
    crate_dir().join("tests/c").join(name)
}

/// Compares a text with a committed file. `MINI_KMS_BLESS=1` rewrites the file.
pub fn compare(text: &str, committed: &Path) {
    if std::env::var_os("MINI_KMS_BLESS").is_some() {
        fs::create_dir_all(committed.parent().unwrap()).unwrap();
        fs::write(committed, text).unwrap();
    }
    let expected = fs::read_to_string(committed).unwrap_or_default();
    let differing = text.lines().zip(expected.lines()).find(|(made, wanted)| made != wanted);
    let differing = differing.map(|(made, wanted)| format!("{made}\ninstead of\n{wanted}")).unwrap_or_default();
    assert!(text == expected, "{} differs; MINI_KMS_BLESS=1 rewrites it\n{differing}", committed.display());
}
