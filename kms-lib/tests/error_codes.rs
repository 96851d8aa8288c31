//! Every error code is reached by a test through the public API, or it says here why none can reach it yet.

#![allow(clippy::unwrap_used)]

use kms_lib::ErrorCode;

/// Reached by no test of this crate, and why.
const UNREACHED: [(ErrorCode, &str); 5] = [
    (
        ErrorCode::VersionDestroyed,
        "stands behind KeyDestroyed: versions are destroyed with their key; see the policy table",
    ),
    (ErrorCode::RootKeyUnavailable, "needs a root key that another service holds; local ones are always there"),
    (ErrorCode::CryptoFailure, "needs a random generator or cipher that fails"),
    (ErrorCode::Internal, "is a fault in this software"),
    (ErrorCode::UsedAfterFork, "needs a fork, which safe Rust does not have; the unit test of blocking pretends one"),
];

/// Where the others are asserted.
const SUITES: [&str; 14] = [
    include_str!("backup.rs"),
    include_str!("bad_input.rs"),
    include_str!("concurrency.rs"),
    include_str!("credentials.rs"),
    include_str!("disk.rs"),
    include_str!("idempotency.rs"),
    include_str!("lifecycle.rs"),
    include_str!("servers.rs"),
    include_str!("streams.rs"),
    include_str!("tampering.rs"),
    include_str!("../src/blocking.rs"),
    include_str!("../src/config/mod.rs"),
    include_str!("../src/config/sources.rs"),
    include_str!("../src/ledger/tests.rs"),
];

#[test]
fn every_code_is_asserted_somewhere() {
    for code in ErrorCode::ALL {
        let name = format!("ErrorCode::{code}");
        let named = |text: &str| {
            text.match_indices(&name).any(|(at, _)| !text[at + name.len()..].starts_with(char::is_alphanumeric))
        };
        let quoted = format!("\"{code}\"");
        let asserted = SUITES.iter().any(|text| named(text) || text.contains(&quoted));
        let excused = UNREACHED.iter().any(|(unreached, _)| unreached == code);
        assert!(asserted || excused, "{code} is asserted by no test");
    }
}

#[test]
fn codes_are_their_names() {
    for code in ErrorCode::ALL {
        assert_eq!(code.as_str(), format!("{code:?}"));
        assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
    }
    let retryable: Vec<&str> =
        ErrorCode::ALL.iter().filter(|code| code.is_retryable()).map(|code| code.as_str()).collect();
    assert_eq!(
        retryable,
        [
            "Overloaded",
            "CallerOverloaded",
            "StoreUnavailable",
            "StoreContended",
            "StoreFull",
            "RootKeyUnavailable",
            "ClockSkew"
        ]
    );
}
