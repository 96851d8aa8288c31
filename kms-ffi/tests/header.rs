//! Compares the committed header with the one that cbindgen generates from the sources. `MINI_KMS_BLESS=1` rewrites it.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use kms_lib::ErrorCode;

/// The source files, in the order in which the header declares their contents.
const SOURCES: [&str; 23] = [
    "version",
    "status",
    "error",
    "error_info",
    "buffer",
    "context",
    "config",
    "config_root_keys",
    "kms",
    "operation",
    "session",
    "algorithm",
    "crypto",
    "items",
    "batch",
    "stream",
    "keys",
    "versions",
    "rights",
    "audit",
    "service",
    "root_keys",
    "import",
];

fn crate_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn header() -> PathBuf {
    crate_dir().join("../include/mini_kms.h")
}

fn generate() -> String {
    let config = cbindgen::Config::from_file(crate_dir().join("cbindgen.toml")).unwrap();
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(crate_dir().join(format!("src/{source}.rs")));
    }
    let mut text = Vec::new();
    builder.generate().unwrap().write(&mut text);
    String::from_utf8(text).unwrap()
}

#[test]
fn the_committed_header_is_generated() {
    let made = generate();
    if std::env::var_os("MINI_KMS_BLESS").is_some() {
        fs::create_dir_all(header().parent().unwrap()).unwrap();
        fs::write(header(), &made).unwrap();
    }
    let committed = fs::read_to_string(header()).unwrap_or_default();
    assert!(made == committed, "include/mini_kms.h is stale; run MINI_KMS_BLESS=1 cargo test -p kms-ffi --test header");
}

#[test]
fn every_source_with_a_function_is_in_the_header() {
    for entry in fs::read_dir(crate_dir().join("src")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let has_functions = fs::read_to_string(&path).unwrap().contains("#[unsafe(no_mangle)]");
        assert!(!has_functions || name == "test_hooks" || SOURCES.contains(&&*name), "{name}.rs is not in the header");
    }
}

/// `KeyNotFound` as `MKMS_KEY_NOT_FOUND`.
fn constant(name: &str) -> String {
    let mut constant = String::from("MKMS");
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            constant.push('_');
        }
        constant.push(letter.to_ascii_uppercase());
    }
    constant
}

#[test]
fn every_error_code_has_its_status() {
    let header = generate();
    for code in ErrorCode::ALL {
        let wanted = format!("#define {} {}\n", constant(code.as_str()), mini_kms::status::of(*code));
        assert!(header.contains(&wanted), "{}", wanted.trim());
    }
}
