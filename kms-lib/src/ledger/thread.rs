//! The writer on a thread of its own, for stores whose commits block the thread until the disk has the data: no other
//! task waits for that, and no other thread is between the queue and the disk.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use tokio::runtime::Builder;
use tokio::sync::watch;

use super::Ended;
use super::leader::SharedWriter;
use super::queue::Queue;
use super::writer::Writer;
use crate::types::error::{Error, ErrorCode, Result};

/// Starts a thread that writes, and returns the writer, which it shares with blocking callers. When the writer ends,
/// its result is sent to `ended`; after a panic nothing is sent.
pub(super) fn start(writer: Writer, ended: watch::Sender<Ended>) -> Result<Arc<SharedWriter>> {
    let failed = |e: std::io::Error| {
        let text = format!("the ledger's thread cannot be started: {e}; nothing was done, retry later");
        Error::new(ErrorCode::Overloaded, text).with_source(e)
    };
    let attached = Attached(Arc::clone(&writer.queue));
    let mut end = ended.subscribe();
    let (ready, started) = sync_channel(1);
    let work = move || {
        // The thread has its own runtime: the timers of the caller's runtime may stop in the middle of a commit.
        match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                let writer = Arc::new(SharedWriter::new(writer, runtime.handle().clone()));
                // `start` waits for this message.
                let _ = ready.send(Ok(Arc::clone(&writer)));
                if let Some(written) = runtime.block_on(writer.serve()) {
                    ended.send_replace(Some(written));
                }
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        }
    };
    std::thread::Builder::new().name("kms-ledger".into()).spawn(work).map_err(failed)?;
    let started = started.recv().unwrap_or_else(|_| Err(std::io::Error::other("it ended")));
    let writer = started.map_err(failed)?;
    tokio::spawn(async move {
        let _attached = attached;
        let _ = end.wait_for(Option::is_some).await;
    });
    Ok(writer)
}

/// Closes the queue when the callers' runtime ends: then no further submission can arrive, whether or not the service
/// was closed. Queued submissions are still written.
struct Attached(Arc<Queue>);

impl Drop for Attached {
    fn drop(&mut self) {
        self.0.close();
    }
}
