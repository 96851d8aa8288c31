//! Why a batch was not committed, as far as that decides what happens next.

use crate::types::error::{Error, ErrorCode};

/// Why a batch was not committed. The codes of errors are for callers; the writer decides by these cases.
pub(super) enum Failure {
    /// Another node took precedence and nothing was done: the batch is tried again for a while.
    Contended(Error),
    /// Another node has replaced a key of the service: its successor must be read before the batch is tried again.
    KeysBehind(Error),
    /// The disk is full.
    StoreFull(Error),
    /// One of the submissions may be the cause, so the others must not fail with it.
    OneSubmission(Error),
    /// The store or the ledger cannot be used, whatever the batch contains.
    Unusable(Error),
}

impl Failure {
    /// A failure that occurred while data of the batch was looked up or written.
    pub fn of_batch(self) -> Self {
        match self {
            Self::Unusable(error) if may_be_one_culprit(error.code()) => Self::OneSubmission(error),
            other => other,
        }
    }

    /// The error that callers get.
    pub fn error(&self) -> &Error {
        match self {
            Self::Contended(error)
            | Self::KeysBehind(error)
            | Self::StoreFull(error)
            | Self::OneSubmission(error)
            | Self::Unusable(error) => error,
        }
    }
}

impl From<Error> for Failure {
    /// A failure of the store, or of the ledger itself.
    fn from(error: Error) -> Self {
        match error.code() {
            ErrorCode::StoreContended => Self::Contended(error),
            ErrorCode::StoreFull => Self::StoreFull(error),
            _ => Self::Unusable(error),
        }
    }
}

/// Whether one submission may have caused the failure to write a batch. Excluded are the codes for a store or ledger
/// that cannot be used at all. A statement that is too large for a server is `InvalidConfiguration`.
fn may_be_one_culprit(code: ErrorCode) -> bool {
    !matches!(
        code,
        ErrorCode::StoreUnavailable
            | ErrorCode::StoreReadOnly
            | ErrorCode::ClockSkew
            | ErrorCode::IntegrityFailure
            | ErrorCode::OutcomeUnknown
            | ErrorCode::Closed
    )
}
