//! Uses the files that `kms-ffi/install` installs, outside of the repository: with pkg-config, with CMake, and linked
//! statically together with the system's SQLite and another Rust library.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use support::{built, crate_dir, has, root, source, succeed};
use tempfile::TempDir;

/// Installs the libraries that cargo built for this test.
fn install(prefix: &Path, destdir: Option<&Path>) {
    let mut command = Command::new(crate_dir().join("install"));
    command.arg("--prefix").arg(prefix).arg("--built").arg(built());
    if let Some(destdir) = destdir {
        command.env("DESTDIR", destdir);
    }
    succeed(&mut command);
}

/// The prefix of the installation that all tests share.
fn prefix() -> &'static Path {
    static PREFIX: LazyLock<PathBuf> = LazyLock::new(|| {
        let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mini-kms");
        if prefix.exists() {
            fs::remove_dir_all(&prefix).unwrap();
        }
        install(&prefix, None);
        prefix
    });
    &PREFIX
}

/// A copy of an example's folder, outside of the repository.
fn copied(example: &str) -> (TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("example");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(root().join("examples").join(example)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    (place, copy)
}

fn run(program: &Path, prefix: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).env("LD_LIBRARY_PATH", prefix.join("lib"));
    String::from_utf8(succeed(&mut command).stdout).unwrap()
}

#[test]
fn examples_are_built_by_pkg_config_and_run() {
    if !has("pkg-config") || !has("make") {
        return;
    }
    let (prefix, (place, folder)) = (prefix(), copied("c"));
    let mut make = Command::new("make");
    succeed(make.current_dir(&folder).env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")).env("CFLAGS", "-Werror"));
    let url = |name: &str| format!("sqlite:{}", place.path().join(name).display());
    let said = run(&folder.join("quickstart"), prefix, &[&url("quickstart.db")]);
    assert!(said.contains("decrypted: 4111 1111 1111 1111\nsignature: valid\n"), "{said}");
    assert!(run(&folder.join("threads"), prefix, &[&url("threads.db")]).contains("800 messages"));

    let [plain, sealed, opened] = ["plain", "sealed", "opened"].map(|name| place.path().join(name));
    fs::write(&plain, vec![42; 1_000_000]).unwrap();
    for (what, from, to) in [("encrypt", &plain, &sealed), ("decrypt", &sealed, &opened)] {
        let files = [from.to_str().unwrap(), to.to_str().unwrap()];
        let said = run(&folder.join("encrypt_file"), prefix, &[&url("files.db"), what, files[0], files[1]]);
        assert!(said.starts_with("1000000 bytes"), "{said}");
    }
    assert!(fs::read(&sealed).unwrap() != fs::read(&plain).unwrap());
    assert!(fs::read(&opened).unwrap() == fs::read(&plain).unwrap());
}

#[test]
fn examples_are_built_by_cmake_and_run() {
    if !has("cmake") || !has("g++") {
        return;
    }
    let (prefix, (place, folder)) = (prefix(), copied("cpp"));
    let build = folder.join("build");
    let mut configure = Command::new("cmake");
    configure.arg("-S").arg(&folder).arg("-B").arg(&build);
    succeed(configure.arg(format!("-DCMAKE_PREFIX_PATH={}", prefix.display())));
    succeed(Command::new("cmake").arg("--build").arg(&build));
    for name in ["quickstart", "quickstart_static"] {
        let url = format!("sqlite:{}", place.path().join(name).display());
        let said = run(&build.join(name), prefix, &[&url]);
        assert!(said.contains("refused: AccessDenied\ndecrypted: 4111") && said.contains("\"ok\":true"), "{said}");
    }
}

#[test]
fn the_static_library_links_with_sqlite_and_another_rust_library() {
    if !has("gcc") || !has("rustc") {
        return;
    }
    let (place, prefix) = (tempfile::tempdir().unwrap(), prefix());
    let other = place.path().join("other.rs");
    fs::write(
        &other,
        "#[unsafe(no_mangle)]\npub extern \"C\" fn other_sum(n: u32) -> u32 {\n    \
         std::panic::catch_unwind(|| (0..n).map(|i| format!(\"{i}\").len() as u32).sum()).unwrap_or(0)\n}\n",
    )
    .unwrap();
    let library = place.path().join("libother.a");
    let mut rustc = Command::new("rustc");
    succeed(rustc.args(["--edition=2024", "--crate-type=staticlib", "-o"]).arg(&library).arg(&other));
    let program = place.path().join("beside");
    let mut gcc = Command::new("gcc");
    gcc.args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]);
    gcc.arg("-I")
        .arg(prefix.join("include"))
        .arg("-I")
        .arg(crate_dir().join("tests/c"))
        .arg(source("static_library.c"));
    gcc.arg(prefix.join("lib/libmini_kms.a")).arg(&library);
    if Path::new("/usr/include/sqlite3.h").exists() {
        gcc.args(["-DWITH_SQLITE", "-lsqlite3"]);
    } else {
        println!("SKIPPED: libsqlite3-dev is not installed");
    }
    succeed(gcc.args(["-lpthread", "-ldl", "-lm", "-o"]).arg(&program));
    let url = place.path().join("kms.db");
    assert!(run(&program, prefix, &[url.to_str().unwrap()]).ends_with("ok\n"));
}

#[test]
fn every_path_is_below_destdir() {
    let place = tempfile::tempdir().unwrap();
    install(Path::new("/opt/mini-kms"), Some(place.path()));
    let lib = place.path().join("opt/mini-kms/lib");
    for name in ["libmini_kms.so.1", "libmini_kms.so", "libmini_kms.a", "cmake/MiniKms/MiniKmsConfig.cmake"] {
        assert!(lib.join(name).exists(), "{name}");
    }
    let text = fs::read_to_string(lib.join("pkgconfig/mini-kms.pc")).unwrap();
    assert!(text.contains("libdir=/opt/mini-kms/lib\n") && !text.contains(place.path().to_str().unwrap()), "{text}");
    assert!(place.path().join("opt/mini-kms/include/mini_kms.hpp").exists());
}
