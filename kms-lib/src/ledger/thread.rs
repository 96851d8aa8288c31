//! The writer on a thread of its own: where a commit blocks its thread until the disk has it, no other task may have to
//! wait for that, and the way from the queue to the disk leads over no other thread.

use std::sync::Arc;

use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::queue::Queue;
use super::writer::Writer;
use crate::types::error::{Error, ErrorCode, Result};

/// Starts the writer, and a task of the present runtime that ends when it has ended.
pub(super) fn start(writer: Writer) -> Result<JoinHandle<()>> {
    let failed = |e| Error::new(ErrorCode::Internal, format!("the ledger's thread cannot be started: {e}"));
    // A runtime of its own: the timers of the present one may end in the middle of a commit.
    let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let attached = Attached(Arc::clone(&writer.queue));
    let (end, ended) = oneshot::channel();
    let work = move || {
        runtime.block_on(writer.run());
        // The task that waits for this may be gone with its runtime.
        let _ = end.send(());
    };
    std::thread::Builder::new().name("kms-ledger".into()).spawn(work).map_err(failed)?;
    Ok(tokio::spawn(async move {
        let _attached = attached;
        if ended.await.is_err() {
            tracing::error!("the ledger's thread ended unexpectedly");
        }
    }))
}

/// Closes the queue with the runtime that its callers belong to: then nobody comes any more, whether or not the service
/// was closed. What is in it is still written.
struct Attached(Arc<Queue>);

impl Drop for Attached {
    fn drop(&mut self) {
        self.0.close();
    }
}
