//! Failures of commands, and their exit codes.

use std::process::ExitCode;

use kms_lib::{Error, ErrorCode};
use serde_json::json;

/// The reason why a command failed, with its exit code.
#[derive(Debug)]
pub struct Failure {
    /// Whether a retry may succeed: the store does not respond or is overloaded.
    may_pass: bool,
    /// The exit code of the process.
    code: u8,
    /// The error code for `--json`, such as `StoreUnavailable`.
    name: &'static str,
    message: String,
}

impl Failure {
    /// The exit code when a verification found a fault.
    pub const FAULT: u8 = 4;

    /// A failure with this exit code and the error code that corresponds to it.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        let name = match code {
            2 => ErrorCode::InvalidArgument,
            3 => ErrorCode::StoreUnavailable,
            Self::FAULT => ErrorCode::IntegrityFailure,
            _ => ErrorCode::Internal,
        };
        Self { may_pass: false, code, name: name.as_str(), message: message.into() }
    }

    /// Whether a retry may succeed.
    pub fn may_pass(&self) -> bool {
        self.may_pass
    }

    /// Appends a hint to the message.
    #[must_use]
    pub fn with(mut self, help: &str) -> Self {
        self.message = format!("{}; {help}", self.message);
        self
    }

    /// Writes the failure to standard error, as text or as a JSON object, and returns the exit code.
    pub fn report(&self, as_json: bool) -> ExitCode {
        let Self { code, name, message, .. } = self;
        match as_json {
            true => eprintln!("{}", json!({"error": message, "code": name, "exitCode": code})),
            false => eprintln!("kms-http: {message}"),
        }
        ExitCode::from(self.code)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        use ErrorCode as E;
        let code = match error.code() {
            E::InvalidArgument | E::InvalidConfiguration | E::InvalidName => 2,
            code if code.is_unusable_service() => 3,
            E::IntegrityFailure => Self::FAULT,
            _ => 1,
        };
        let may_pass = error.is_retryable() || error.code().is_unusable_service();
        Self { may_pass, code, name: error.code().as_str(), message: error.to_string() }
    }
}

/// Converts errors without an error code of their own to exit code 1.
macro_rules! failures {
    ($($error:ty),+) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::new(1, error.to_string())
            }
        }
    )+};
}

failures! { std::io::Error, serde_json::Error }
