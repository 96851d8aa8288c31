//! The `kms-http` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    kms_http::cli::run()
}
