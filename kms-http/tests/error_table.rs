//! Tests that `docs/errors.md`, which is generated from the tables of error codes, is up to date.
//!
//! `UPDATE_DOCS=1 cargo test -p kms-http --test error_table` writes the file.

#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::path::Path;

use kms_http::error::ServiceCode;
use kms_lib::ErrorCode;

const GROUPS: [(u16, &str); 8] = [
    (1, "arguments"),
    (2, "rights"),
    (3, "keys and versions"),
    (4, "cryptography"),
    (5, "store"),
    (6, "root key"),
    (7, "process"),
    (9, "internal"),
];

const INTRODUCTION: &str = "\
# Error codes

<!-- Generated: `UPDATE_DOCS=1 cargo test -p kms-http --test error_table` writes this file. -->

Every error has a code with a stable name and number, the same in Rust, C, Python and over HTTP, and a message for a
person. Programs compare the code; messages may change with any release. Names and numbers are never changed or used
again. The number's first digit is the group; numbers are not HTTP statuses.

*Retry* says whether the same call may succeed when it is simply made again, after a short wait. *Status* is the HTTP
status of `kms-http`; a few routes answer with another one where they know more. Retryable answers with status 429, 503
or 504 have a `Retry-After` header, except those of `/v1/readyz`.
";

const SERVICE: &str = "\
## Codes of the HTTP service alone

These appear only in answers of `kms-http`, and have no number.
";

fn yes(is_retryable: bool) -> &'static str {
    if is_retryable { "yes" } else { "no" }
}

fn document() -> String {
    let mut text = INTRODUCTION.to_owned();
    for (group, title) in GROUPS {
        write!(text, "\n## {group}xx: {title}\n\n").unwrap();
        text.push_str(
            "| number | name | status | retry | meaning | what to do |\n| --- | --- | --- | --- | --- | --- |\n",
        );
        for code in ErrorCode::ALL.iter().filter(|code| code.number() / 100 == group) {
            let (number, status, retry) = (code.number(), code.http_status(), yes(code.is_retryable()));
            let (meaning, advice) = (code.meaning(), code.advice());
            writeln!(text, "| {number} | `{code}` | {status} | {retry} | {meaning} | {advice} |").unwrap();
        }
    }
    write!(text, "\n{SERVICE}\n").unwrap();
    text.push_str("| name | status | retry | meaning | what to do |\n| --- | --- | --- | --- | --- |\n");
    for ServiceCode { name, status, is_retryable, meaning, advice } in ServiceCode::ALL {
        writeln!(text, "| `{name}` | {status} | {} | {meaning} | {advice} |", yes(*is_retryable)).unwrap();
    }
    text
}

#[test]
fn the_committed_table_is_that_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors.md");
    let made = document();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert!(made == committed, "docs/errors.md is out of date; run this test with UPDATE_DOCS=1");
}

#[test]
fn every_code_is_in_the_table_once() {
    let text = document();
    let names = ErrorCode::ALL.iter().map(|code| code.as_str()).chain(ServiceCode::ALL.iter().map(|code| code.name));
    for name in names {
        assert_eq!(text.matches(&format!("| `{name}` |")).count(), 1, "{name}");
    }
}
