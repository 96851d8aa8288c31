//! Tests of error codes: names and numbers are pinned, every code is documented, and every code occurs in a test suite
//! unless this file says why no test can reach it.

use std::error::Error as _;
use std::io;

use kms_lib::{Error, ErrorCode};

/// The codes that no test of this crate reaches, with the reason.
const UNREACHED: [(ErrorCode, &str); 4] = [
    (ErrorCode::RootKeyRefused, "needs a root key that another service holds"),
    (ErrorCode::CryptoFailure, "needs a random generator or cipher that fails"),
    (ErrorCode::Internal, "is a fault in this software"),
    (ErrorCode::UsedAfterFork, "needs a fork, which safe Rust does not have; the unit test of blocking pretends one"),
];

/// The test suites in which the other codes are asserted.
const SUITES: [&str; 21] = [
    include_str!("../backup/copies.rs"),
    include_str!("../backup/restores.rs"),
    include_str!("../backup/rollback.rs"),
    include_str!("bad_input.rs"),
    include_str!("../concurrency.rs"),
    include_str!("../engines/credentials.rs"),
    include_str!("../disk.rs"),
    include_str!("../engines/idempotency.rs"),
    include_str!("../import/concurrent.rs"),
    include_str!("../import/crypto.rs"),
    include_str!("../engines/lifecycle.rs"),
    include_str!("../engines/records.rs"),
    include_str!("../engines/root_keys.rs"),
    include_str!("../servers.rs"),
    include_str!("streams.rs"),
    include_str!("../integrity/tampering.rs"),
    include_str!("versions.rs"),
    include_str!("../../src/blocking.rs"),
    include_str!("../../src/config/mod.rs"),
    include_str!("../../src/config/sources.rs"),
    include_str!("../../src/ledger/tests/mod.rs"),
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

/// Every code with its number. A line of this list is never changed or removed, because programs depend on the name or
/// the number.
const PINNED: [(u16, &str); 53] = [
    (101, "InvalidArgument"),
    (102, "InvalidName"),
    (103, "InvalidConfiguration"),
    (104, "IdempotencyConflict"),
    (201, "NotAuthenticated"),
    (202, "AccessDenied"),
    (203, "GrantNotFound"),
    (204, "CredentialNotFound"),
    (301, "NameTaken"),
    (302, "KeyNotFound"),
    (303, "VersionNotFound"),
    (304, "KeyDisabled"),
    (305, "KeyRevoked"),
    (306, "KeyPendingDeletion"),
    (307, "KeyDestroyed"),
    (308, "VersionDisabled"),
    (309, "VersionRevoked"),
    (310, "VersionDestroyed"),
    (311, "VersionNotCurrent"),
    (312, "WrongState"),
    (313, "WrongPurpose"),
    (314, "WrongKeyType"),
    (315, "KeyExhausted"),
    (316, "Conflict"),
    (317, "LimitExceeded"),
    (318, "ImportOpen"),
    (319, "ImportSuperseded"),
    (401, "InvalidCiphertext"),
    (402, "DecryptionFailed"),
    (403, "PlaintextTooLong"),
    (404, "CryptoFailure"),
    (501, "StoreUnavailable"),
    (502, "StoreContended"),
    (503, "StoreFull"),
    (504, "StoreReadOnly"),
    (505, "StoreCorrupt"),
    (506, "SchemaTooNew"),
    (507, "StoreInUse"),
    (508, "RestoreDetected"),
    (509, "IntegrityFailure"),
    (510, "OutcomeUnknown"),
    (511, "ClockSkew"),
    (601, "InvalidRootKey"),
    (602, "WrongRootKey"),
    (603, "RootKeyUnavailable"),
    (604, "RootKeyRefused"),
    (701, "Overloaded"),
    (702, "CallerOverloaded"),
    (703, "Closed"),
    (704, "UsedAfterFork"),
    (705, "BlockingInAsync"),
    (706, "InputOutput"),
    (901, "Internal"),
];

#[test]
fn names_and_numbers_of_codes_are_pinned() {
    let codes: Vec<(u16, &str)> = ErrorCode::ALL.iter().map(|code| (code.number(), code.as_str())).collect();
    assert_eq!(codes, PINNED);
    assert!(PINNED.is_sorted_by(|one, next| one.0 < next.0), "a number twice, or out of order");
}

#[test]
fn numbers_lie_in_their_groups_and_leave_room_for_front_ends() {
    for code in ErrorCode::ALL {
        let (group, within) = (code.number() / 100, code.number() % 100);
        assert!(matches!(group, 1..=7 | 9), "{code} is in no group");
        assert!((1..90).contains(&within), "{code} has a number of a front end");
    }
}

#[test]
fn a_code_is_found_by_its_name_and_by_its_number() {
    for code in ErrorCode::ALL {
        assert_eq!(code.as_str(), format!("{code:?}"));
        assert_eq!(code.as_str(), code.to_string());
        assert_eq!(code.as_str().parse(), Ok(*code));
        assert_eq!(ErrorCode::from_number(code.number()), Some(*code));
        let json = serde_json::to_value(code).unwrap();
        assert_eq!(json, code.as_str());
        assert_eq!(serde_json::from_value::<ErrorCode>(json).unwrap(), *code);
    }
    let unknown = "keynotfound".parse::<ErrorCode>().unwrap_err();
    assert_eq!(unknown.to_string(), "\"keynotfound\" is not the name of an error code");
    assert!(serde_json::from_str::<ErrorCode>("\"NoSuchCode\"").is_err());
    assert!(serde_json::from_str::<ErrorCode>("302").is_err());
    for number in [0, 1, 300, 399, 800, u16::MAX] {
        assert_eq!(ErrorCode::from_number(number), None, "{number}");
    }
}

#[test]
fn codes_say_what_they_mean_and_what_to_do() {
    for code in ErrorCode::ALL {
        for text in [&*code.meaning(), code.advice()] {
            assert!(text.starts_with(char::is_uppercase) && text.ends_with('.'), "{code}: {text:?}");
            assert!(!text.contains("  ") && !text.contains('|'), "{code}: {text:?}");
        }
    }
}

#[test]
fn outages_and_overloads_are_retryable_and_nothing_else() {
    let retryable: Vec<&str> =
        ErrorCode::ALL.iter().filter(|code| code.is_retryable()).map(|code| code.as_str()).collect();
    assert_eq!(
        retryable,
        [
            "StoreUnavailable",
            "StoreContended",
            "StoreFull",
            "ClockSkew",
            "RootKeyUnavailable",
            "Overloaded",
            "CallerOverloaded"
        ]
    );
}

#[test]
fn an_error_keeps_its_cause_and_shows_its_message_once() {
    let cause = io::Error::new(io::ErrorKind::BrokenPipe, "the pipe broke");
    let error = Error::new(ErrorCode::InputOutput, "the output failed: the pipe broke").with_source(cause);
    assert_eq!(error.to_string(), "InputOutput: the output failed: the pipe broke");
    assert_eq!(format!("{error:?}"), error.to_string());
    // A clone has the same cause, which is the original error and not a wrapper around it.
    let copy = error.clone();
    let found = copy.source().and_then(|source| source.downcast_ref::<io::Error>()).unwrap();
    assert_eq!(found.kind(), io::ErrorKind::BrokenPipe);
    assert!(Error::invalid("x").source().is_none());
}
