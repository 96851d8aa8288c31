//! Building a tokio runtime, also where the operating system limits the number of threads.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;

use tokio::runtime::{Builder, Runtime};

/// Builds a runtime with this number of threads, or else with a thread for each core.
///
/// Fails if the operating system does not start as many. Then tokio panics, and before that waits indefinitely for the
/// end of those that it has started.
pub fn build_runtime(builder: &mut Builder, threads: Option<usize>) -> io::Result<Runtime> {
    // tokio's own setting.
    let set = || std::env::var("TOKIO_WORKER_THREADS").ok()?.parse().ok();
    let cores = || thread::available_parallelism().map_or(1, std::num::NonZero::get);
    check_threads(threads.or_else(set).unwrap_or_else(cores))?;
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    let build = AssertUnwindSafe(|| builder.build());
    catch_unwind(build).unwrap_or_else(|_| Err(io::Error::other("not all threads of the runtime can be started")))
}

/// Fails unless this number of threads can be started. Tries twice as many, because a thread that has ended may count
/// for a moment longer.
fn check_threads(count: usize) -> io::Result<()> {
    let (mut held, mut threads, mut started) = (Vec::new(), Vec::new(), Ok(()));
    for _ in 0..count.saturating_mul(2) {
        let (hold, released) = mpsc::channel::<()>();
        match thread::Builder::new().spawn(move || released.recv()) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                started = Err(error);
                break;
            }
        }
        held.push(hold);
    }
    drop(held);
    for thread in threads {
        let _ = thread.join();
    }
    started
}
