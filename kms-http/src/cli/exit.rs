//! How the program ends.

use std::process::ExitCode;

use kms_lib::{Error, ErrorCode};

/// Why it did not do what it was asked.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// A verification found a fault.
    pub const FAULT: u8 = 4;

    /// A failure with this exit code.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The same, with what helps.
    #[must_use]
    pub fn with(mut self, help: &str) -> Self {
        self.message = format!("{}; {help}", self.message);
        self
    }

    /// Says it, and ends.
    pub fn report(&self) -> ExitCode {
        eprintln!("kms-http: {}", self.message);
        ExitCode::from(self.code)
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
        Self::new(code, error.to_string())
    }
}

/// Declares errors without a code of their own.
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
