//! The writer on a thread of its own: where a commit blocks its thread until the disk has it, no other task may have to
//! wait for that, and the way from the queue to the disk leads over no other thread.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use tokio::runtime::Builder;
use tokio::sync::watch;

use super::Ended;
use super::queue::Queue;
use super::writer::Writer;
use crate::types::error::{Error, ErrorCode, Result};

/// Starts the writer on a thread. When it has come to its end it says so; after a panic it cannot.
pub(super) fn start(writer: Writer, ended: watch::Sender<Ended>) -> Result<()> {
    let failed = |e: std::io::Error| {
        Error::new(ErrorCode::Internal, format!("the ledger's thread cannot be started: {e}")).with_source(e)
    };
    let attached = Attached(Arc::clone(&writer.queue));
    let mut end = ended.subscribe();
    let (ready, started) = sync_channel(1);
    let work = move || {
        // A runtime of its own: the timers of the caller's may end in the middle of a commit.
        match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                // Who starts it waits for this.
                let _ = ready.send(Ok(()));
                let written = runtime.block_on(writer.run());
                ended.send_replace(Some(written));
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        }
    };
    std::thread::Builder::new().name("kms-ledger".into()).spawn(work).map_err(failed)?;
    let started = started.recv().unwrap_or_else(|_| Err(std::io::Error::other("it ended")));
    started.map_err(failed)?;
    tokio::spawn(async move {
        let _attached = attached;
        let _ = end.wait_for(Option::is_some).await;
    });
    Ok(())
}

/// Closes the queue with the runtime that its callers belong to: then nobody comes any more, whether or not the service
/// was closed. What is in it is still written.
struct Attached(Arc<Queue>);

impl Drop for Attached {
    fn drop(&mut self) {
        self.0.close();
    }
}
