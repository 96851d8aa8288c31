//! Errors of connections to database servers.

use crate::types::error::{Error, ErrorCode};

/// `StoreUnavailable`: the server cannot be used for now.
pub(super) fn unavailable(what: &str) -> Error {
    Error::new(ErrorCode::StoreUnavailable, what)
}

/// `InvalidConfiguration`: a setting of the store must be changed.
pub(super) fn misconfigured(what: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidConfiguration, what)
}

/// Converts errors that are not the database's response to a statement.
pub(super) fn other_error(error: sqlx::Error) -> Error {
    let shown = match &error {
        sqlx::Error::PoolClosed => Error::new(ErrorCode::Closed, "the service is closed"),
        sqlx::Error::Tls(e) => no_tls(e.as_ref()),
        // Errors that rustls reports about a certificate arrive in this form.
        sqlx::Error::Io(e) if e.kind() == std::io::ErrorKind::InvalidData => no_tls(e),
        // Not attached as a source, since it may contain parts of the URL.
        sqlx::Error::Configuration(e) => {
            return misconfigured(format!("the database cannot be used as configured: {e}"));
        }
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => {
            Error::new(ErrorCode::StoreUnavailable, format!("the database server cannot be used: {error}"))
        }
        _ => Error::new(ErrorCode::Internal, format!("the database server responded unexpectedly: {error}")),
    };
    shown.with_source(error)
}

fn no_tls(why: &dyn std::error::Error) -> Error {
    misconfigured(format!(
        "no TLS with the database server: {why}; its certificate is checked unless the URL says otherwise: name the \
         authority that signed it with ssl-ca=FILE, or turn TLS off with ssl-mode=disable (MySQL and \
         MariaDB: ssl-mode=disabled)"
    ))
}
