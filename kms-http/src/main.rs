//! The program `kms-http`: the HTTP service and its command line.

use std::process::ExitCode;

/// mimalloc, because a request makes some fifty small allocations, often freed on another thread; the system allocator
/// spends several times as long on them as the cryptography takes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    kms_http::cli::run()
}
