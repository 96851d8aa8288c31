//! Work on the runtime's threads for blocking work. If the operating system starts none for this process, tokio panics,
//! and keeps what it was given until it can start one. Here that is an error, and the work is not done later.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::types::error::{Error, ErrorCode, Result};

/// Has a thread do blocking work. Returns the work if there is no thread for it.
pub fn start<W: FnOnce() + Send + 'static>(work: W) -> std::result::Result<(), W> {
    let work = Arc::new(Mutex::new(Some(work)));
    let given = Arc::clone(&work);
    let begin = move || {
        if let Some(work) = take(&given) {
            work();
        }
    };
    match catch_unwind(AssertUnwindSafe(|| drop(tokio::task::spawn_blocking(begin)))) {
        Ok(()) => Ok(()),
        // If it is gone, a thread that was started meanwhile has begun it.
        Err(_) => take(&work).map_or(Ok(()), Err),
    }
}

fn take<W>(work: &Mutex<Option<W>>) -> Option<W> {
    work.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Runs blocking work, such as file access, off the async threads. Computations go to `Workers`.
///
/// # Errors
///
/// `Overloaded` if there is no thread for the work.
pub async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let (reply, answer) = oneshot::channel();
    let work = move || {
        // The caller may have dropped its future meanwhile; ignore the send error.
        let _ = reply.send(work());
    };
    start(work).map_err(|_| no_thread())?;
    answer.await.unwrap_or_else(|_| Err(Error::new(ErrorCode::Internal, "a computation ended unexpectedly")))
}

/// The error for work that no thread does.
pub(super) fn no_thread() -> Error {
    let text = "the operating system starts no further thread for this process; nothing was done, retry later";
    Error::new(ErrorCode::Overloaded, text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::runtime::Builder;

    use super::*;
    use crate::workers::{Length, Workers};

    /// Without a thread, work fails and is not begun; nobody waits, and nothing panics.
    #[test]
    fn work_without_a_thread_is_an_error() {
        // No address space has room for such a stack.
        let runtime = Builder::new_current_thread().thread_stack_size(1 << 60).build().unwrap();
        runtime.block_on(async {
            let begun = || -> Result<()> { panic!("there is no thread") };
            assert_eq!(run_blocking(begun).await.unwrap_err().code(), ErrorCode::Overloaded);
            let workers = Workers::new(2);
            // More calls than threads, so that some wait for threads that others tried to start.
            for _ in 0..5 {
                let both = tokio::join!(workers.run("a", Length::Short, begun), workers.run("b", Length::Long, begun));
                assert_eq!(both.0.unwrap_err().code(), ErrorCode::Overloaded);
                assert_eq!(both.1.unwrap_err().code(), ErrorCode::Overloaded);
            }
            assert_eq!(workers.running(), 0);
        });
    }
}
