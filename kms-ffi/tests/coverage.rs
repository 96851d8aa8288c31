//! Checks that C has a function for every method of the blocking Rust interface.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::fs;

use support::declarations::{functions, header};
use support::root;

/// Rust methods whose C function has another name: the method, and the function.
const RENAMED: [(&str, &str); 21] = [
    ("Kms::open", "mkms_open"),
    ("Kms::session", "mkms_session_new"),
    ("Kms::authenticate", "mkms_session_authenticate"),
    ("Kms::close", "mkms_close"),
    ("Kms::verify_backup_with", "mkms_verify_backup"),
    ("Kms::restore_with", "mkms_restore"),
    ("Session::with_idempotency_key", "mkms_session_with"),
    ("Session::decrypt_with", "mkms_decrypt_checked"),
    ("Session::decrypt_item", "mkms_decrypt_checked"),
    ("Session::decrypt_oaep", "mkms_decrypt_checked"),
    ("Session::generate_data_key_without_plaintext", "mkms_generate_data_key"),
    ("Session::verify_audit_incrementally", "mkms_verify_audit"),
    ("Session::verify_audit_with", "mkms_verify_audit"),
    ("Session::backup_with", "mkms_backup"),
    ("Session::encrypt_reader", "mkms_encrypt_stream"),
    ("Session::decrypt_reader", "mkms_decrypt_stream"),
    ("Session::encrypt_stream", "mkms_encryptor_new"),
    ("Session::decrypt_stream", "mkms_decryptor_new"),
    ("Config::from_env", "mkms_config_load"),
    ("Config::overlaid", "mkms_config_load"),
    ("Config::no_high_water", "mkms_config_high_water"),
];

/// Rust methods that C does not need.
const LEFT_OUT: [&str; 12] = [
    // For the command line, which finds the key to add in the configuration.
    "Config::next_root_key",
    // The caller named the actor itself.
    "Session::actor",
    // A clock other than the system's is for tests of the library.
    "Config::clock",
    // For front ends that show the telemetry to their callers. A program that embeds the service may read it anyway.
    "Session::permit_telemetry",
    // The service writes and compares anchors; a program that embeds the library has the high-water file.
    "Session::compare_anchors",
    "Session::record_anchor_failure",
    // The telemetry contains it.
    "Kms::is_alive",
    // For services that wait for running requests before they close. Closing stops verifications too.
    "Kms::stop_verifying",
    // For exports of the log, which the command line makes.
    "Session::kept_checkpoint",
    // `mkms_open` checks the configuration.
    "Config::check",
    // For programs that have environment variables of their own with the same prefix.
    "Config::is_service_link",
    // For the log of a service.
    "Config::shown_store_url",
];

/// The public methods of a type in a source file, including those that `mirror!` and `mirror_on_key!` declare.
fn methods(source: &str, kind: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in source.lines() {
        let is_mirrored = line.starts_with("mirror") && line.ends_with("! {");
        if line.starts_with("impl") || is_mirrored || line.starts_with("macro_rules!") {
            let is_mirror = kind == "Session" && (is_mirrored || line.starts_with("macro_rules! mirror"));
            inside = line.starts_with(&format!("impl {kind} ")) || is_mirror;
        } else if line == "}" {
            inside = false;
        }
        if !inside {
            continue;
        }
        let trimmed = line.trim_start();
        let name = match trimmed.strip_prefix("pub fn ") {
            Some(rest) => rest,
            // An entry of `mirror!`: `name(arguments) -> answer;`.
            None if line.starts_with("    ") && !line.starts_with("     ") && kind == "Session" => trimmed,
            None => continue,
        };
        let name: String = name.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        if !name.is_empty() && trimmed.contains('(') && name != "impl" {
            found.push(format!("{kind}::{name}"));
        }
    }
    found
}

#[test]
fn c_has_every_method_of_rust() {
    let declared: BTreeSet<String> = functions(&header()).into_iter().map(|function| function.name).collect();
    let blocking = fs::read_to_string(root().join("kms-lib/src/blocking.rs")).unwrap();
    let config = fs::read_to_string(root().join("kms-lib/src/config/mod.rs")).unwrap();
    let mut all = methods(&blocking, "Kms");
    all.extend(methods(&blocking, "Session"));
    all.extend(methods(&config, "Config"));
    assert!(all.len() > 80, "the sources were not read: {all:?}");
    for method in &all {
        if LEFT_OUT.contains(&method.as_str()) {
            continue;
        }
        let (kind, name) = method.split_once("::").unwrap();
        let same = if kind == "Config" { format!("mkms_config_{name}") } else { format!("mkms_{name}") };
        let renamed = RENAMED.iter().find(|(rust, _)| rust == method).map(|(_, c)| (*c).to_owned());
        let wanted = renamed.unwrap_or(same);
        assert!(declared.contains(&wanted), "{method} has no counterpart in C: {wanted} is not in the header");
    }
    for method in RENAMED.iter().map(|(rust, _)| *rust).chain(LEFT_OUT) {
        assert!(all.iter().any(|known| known == method), "{method} is in a list of this test, but no longer in Rust");
    }
}
