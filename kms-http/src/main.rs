//! The `kms-http` program.

use std::process::ExitCode;

/// A request makes and drops some fifty small things, on whichever thread has time: the system's allocator spends
/// several times as long on them as the cryptography takes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    kms_http::cli::run()
}
