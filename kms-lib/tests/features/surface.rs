//! Tests of the public API as listed in `public-api.txt`, which `tests/public-api/run` compares with the crate: every
//! async method has a blocking counterpart, and every type in a signature has a public name.

use std::collections::BTreeMap;

const LISTING: &str = include_str!("../../public-api.txt");

/// The functions of a type by name: whether they are async, and the rest of the signature.
fn functions(of: &str) -> BTreeMap<&'static str, (bool, String)> {
    let mut found = BTreeMap::new();
    for line in LISTING.lines() {
        let Some(line) = line.strip_prefix("pub ") else { continue };
        let (is_async, line) = line.strip_prefix("async ").map_or((false, line), |line| (true, line));
        let function = line.strip_prefix("fn ").and_then(|line| line.strip_prefix(of)?.strip_prefix("::"));
        if let Some((name, signature)) = function.and_then(|function| function.split_once('(')) {
            found.insert(name.split('<').next().unwrap(), (is_async, signature.to_owned()));
        }
    }
    found
}

/// Methods whose blocking counterparts take other readers and writers.
const OTHER_STREAMS: [&str; 2] = ["encrypt_reader", "decrypt_reader"];

#[test]
fn every_method_is_there_for_callers_without_a_runtime() {
    for (of, least) in [("Kms", 10), ("Session", 55)] {
        let methods = functions(&format!("kms_lib::{of}"));
        let mirrored = functions(&format!("kms_lib::blocking::{of}"));
        let count = methods.values().filter(|(is_async, _)| *is_async).count();
        assert!(count >= least, "only {count} async methods of {of}: the listing is not read rightly");
        for (name, (_, signature)) in methods {
            // Methods of derived traits exist on both sides.
            let Some((is_async, twin)) = mirrored.get(name) else { panic!("blocking::{of}::{name} is missing") };
            assert!(!is_async, "blocking::{of}::{name} is async");
            let twin = twin.replace("kms_lib::blocking::", "kms_lib::");
            let is_alike = signature == twin || OTHER_STREAMS.contains(&name) || signature.contains("Formatter");
            assert!(is_alike, "{of}::{name}({signature}\nblocking::{of}::{name}({twin}");
        }
    }
}

#[test]
fn the_future_of_every_method_is_checked() {
    let checks = include_str!("futures.rs");
    for of in ["Kms", "Session"] {
        for (name, (is_async, _)) in functions(&format!("kms_lib::{of}")) {
            let is_named = [format!(".{name}("), format!("::{name}(")].iter().any(|call| checks.contains(call));
            assert!(!is_async || is_named, "futures.rs lacks {of}::{name}");
        }
    }
}

/// No signature mentions a private module: a user can name every type by a path with at most one public module.
#[test]
fn every_type_of_a_signature_has_a_public_name() {
    let modules = ["audit", "blocking", "json", "limits", "metrics"];
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    for line in LISTING.lines() {
        for path in line.split(|c| !is_word(c)).filter_map(|path| path.strip_prefix("kms_lib::")) {
            let module = path.split("::").next().unwrap();
            let is_module = module.starts_with(|c: char| c.is_ascii_lowercase()) && path.contains("::");
            assert!(!is_module || modules.contains(&module), "{module} in: {line}");
        }
    }
}

/// Enums that may grow are `#[non_exhaustive]`.
#[test]
fn enums_can_grow() {
    for line in LISTING.lines() {
        if line.contains("pub enum ") {
            assert!(line.starts_with("#[non_exhaustive]"), "{line}");
        }
    }
}
