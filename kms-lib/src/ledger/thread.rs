//! The writer on a thread of its own, for stores whose commits block the thread until the disk has the data: no other
//! task waits for that, and no other thread is between the queue and the disk.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use tokio::runtime::Builder;
use tokio::sync::watch;

use super::Ended;
use super::queue::Queue;
use super::writer::Writer;
use crate::types::error::{Error, ErrorCode, Result};

/// Starts the writer on a thread. When the writer ends, it sends its result to `ended`; after a panic nothing is sent.
pub(super) fn start(writer: Writer, ended: watch::Sender<Ended>) -> Result<()> {
    let failed = |e: std::io::Error| {
        Error::new(ErrorCode::Internal, format!("the ledger's thread cannot be started: {e}")).with_source(e)
    };
    let attached = Attached(Arc::clone(&writer.queue));
    let mut end = ended.subscribe();
    let (ready, started) = sync_channel(1);
    let work = move || {
        // The thread has its own runtime: the timers of the caller's runtime may stop in the middle of a commit.
        match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                // `start` waits for this message.
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

/// Closes the queue when the callers' runtime ends: then no further submission can arrive, whether or not the service
/// was closed. Queued submissions are still written.
struct Attached(Arc<Queue>);

impl Drop for Attached {
    fn drop(&mut self) {
        self.0.close();
    }
}
