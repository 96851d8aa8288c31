//! Unit tests of `src/api/error.rs`.

use super::*;

#[test]
fn every_code_has_the_status_of_an_error() {
    let statuses = ErrorCode::ALL.iter().map(|code| (code.as_str(), code.http_status()));
    for (code, number) in statuses.chain(ServiceCode::ALL.iter().map(|code| (code.name, code.status))) {
        assert_eq!(status(number).as_u16(), number, "{code}");
        assert!((400..600).contains(&number), "{code}");
    }
}

#[test]
fn errors_of_an_unusable_store_are_503() {
    for code in ErrorCode::ALL.iter().filter(|code| code.is_unusable_service()) {
        assert_eq!(status_of(*code), StatusCode::SERVICE_UNAVAILABLE, "{code}");
    }
}

#[test]
fn only_internal_faults_are_500() {
    let faults: Vec<_> = ErrorCode::ALL.iter().filter(|code| status_of(**code).as_u16() == 500).collect();
    use ErrorCode as E;
    assert_eq!(
        faults,
        [
            &E::InvalidConfiguration,
            &E::CryptoFailure,
            &E::IntegrityFailure,
            &E::UsedAfterFork,
            &E::BlockingInAsync,
            &E::InputOutput,
            &E::Internal
        ]
    );
}
