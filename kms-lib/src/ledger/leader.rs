//! The writer of a store whose commits block the thread. The ledger's thread shares it with blocking callers: the
//! thread that has the writer is the leader, and writes one batch for all callers.
//!
//! A blocking caller that finds the writer free leads at once, so that no other thread is between its call and the
//! disk. It writes what waits, at most one batch, and returns the writer. The ledger's thread writes whatever was
//! submitted meanwhile, and everything that asynchronous callers submit. It also continues a batch whose leader stopped
//! early.

use std::cell::RefCell;
use std::future::Future;
use std::mem::replace;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::queue::{HOLD, Queue, Taken};
use super::scrubbing;
use super::writer::{End, Writer};
use crate::types::error::Result;

/// The writer, while no thread has it.
pub(super) struct SharedWriter {
    queue: Arc<Queue>,
    place: Mutex<Place>,
    /// The runtime of the ledger's thread. The timers of the writer belong to it, whichever thread is the leader.
    runtime: Handle,
}

enum Place {
    /// No thread writes.
    Free(Box<Writer>),
    /// A leader has the writer.
    Taken,
    /// A blocking caller stopped before the end of its batch; the ledger's thread continues.
    Left(Work),
    /// The ledger has ended, or the writer was lost in a panic.
    Gone,
}

/// The work of a leader; it returns the writer.
type Work = Pin<Box<dyn Future<Output = Box<Writer>> + Send>>;

/// The next step of the ledger's thread.
enum Step {
    Lead(Lead),
    /// Waits until somebody wakes the thread, or until this time.
    Wait(Instant),
    /// Lets another process write until this time.
    Pause(Instant),
    /// The queue is closed and empty.
    Finish(Box<Writer>),
    /// The writer is lost.
    End,
}

impl SharedWriter {
    /// Shares a writer. Its timers will belong to this runtime.
    pub fn new(writer: Writer, runtime: Handle) -> Self {
        Self { queue: Arc::clone(&writer.queue), place: Mutex::new(Place::Free(Box::new(writer))), runtime }
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the caller the leader of one batch of what waits now. None if there is nothing to take, or if another
    /// thread has the writer: that thread looks at the queue again after it has returned the writer.
    fn lead(self: &Arc<Self>) -> Option<Lead> {
        let mut place = self.place();
        let writer = match replace(&mut *place, Place::Taken) {
            Place::Free(writer) => writer,
            other => {
                *place = other;
                return None;
            }
        };
        let mut batch = Vec::new();
        if writer.other_nodes.paused_until().is_none() {
            self.queue.take_more(&mut batch);
        }
        if batch.is_empty() {
            *place = Place::Free(writer);
            drop(place);
            self.wake_if_needed(false);
            return None;
        }
        drop(place);
        Some(Lead { shared: Arc::clone(self), work: Some(write(writer, batch)), is_caller: true })
    }

    /// Whether no thread has the writer, and nothing waits for it.
    #[cfg(test)]
    pub fn is_free(&self) -> bool {
        self.queue.len() == 0 && matches!(&*self.place(), Place::Free(writer) if !writer.scrubbing.is_wanted())
    }

    /// Wakes the ledger's thread if it has something to do. Called after the writer was returned.
    fn wake_if_needed(&self, is_scrub_wanted: bool) {
        if is_scrub_wanted || self.queue.len() > 0 || self.queue.is_closed() {
            self.queue.wake();
        }
    }

    /// Writes, on the ledger's thread, until the queue is closed and empty. Fails if released results were abandoned.
    /// None if the writer was lost in a panic.
    pub async fn serve(self: Arc<Self>) -> Option<Result<()>> {
        // If this ends early, no caller may wait for it indefinitely.
        let _end = End(Arc::clone(&self.queue));
        loop {
            match self.step() {
                Step::Lead(lead) => lead.await,
                Step::Wait(until) => drop(timeout_at(until, self.queue.woken()).await),
                Step::Pause(until) => sleep_until(until).await,
                Step::Finish(writer) => return Some(writer.finish().await),
                Step::End => return None,
            }
        }
    }

    fn step(self: &Arc<Self>) -> Step {
        let lead = |work| Step::Lead(Lead { shared: Arc::clone(self), work: Some(work), is_caller: false });
        let mut place = self.place();
        let mut writer = match replace(&mut *place, Place::Taken) {
            Place::Free(writer) => writer,
            Place::Left(work) => return lead(work),
            Place::Taken => return Step::Wait(Instant::now() + scrubbing::LOOK),
            Place::Gone => {
                *place = Place::Gone;
                return Step::End;
            }
        };
        let look = writer.next_scrub();
        if look <= Instant::now() {
            return lead(Box::pin(async move {
                writer.scrub().await;
                writer
            }));
        }
        let mut batch = Vec::new();
        let step = match writer.other_nodes.paused_until() {
            Some(until) => Step::Pause(until),
            None => match self.queue.take_now(&mut batch) {
                Taken::Batch => return lead(write(writer, batch)),
                Taken::Closed => {
                    *place = Place::Gone;
                    return Step::Finish(writer);
                }
                Taken::Held => Step::Wait(look.min(Instant::now() + HOLD)),
                Taken::Nothing => Step::Wait(look),
            },
        };
        *place = Place::Free(writer);
        step
    }

    fn give_back(&self, mut writer: Box<Writer>, is_caller: bool) {
        let is_scrub_wanted = writer.is_scrub_wanted();
        *self.place() = Place::Free(writer);
        if is_caller {
            self.wake_if_needed(is_scrub_wanted);
        }
    }

    fn end(&self) {
        *self.place() = Place::Gone;
        self.queue.abandon();
    }
}

fn write(mut writer: Box<Writer>, batch: Vec<super::Submission>) -> Work {
    Box::pin(async move {
        writer.write_batch(batch).await;
        writer.other_nodes.begin_pause();
        writer
    })
}

/// The batch of a leader, written by whoever polls this. If this is dropped early, the ledger's thread continues.
struct Lead {
    shared: Arc<SharedWriter>,
    work: Option<Work>,
    /// Whether the leader is a blocking caller and not the ledger's thread.
    is_caller: bool,
}

impl Future for Lead {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(work) = &mut this.work else { return Poll::Ready(()) };
        let _runtime = this.shared.runtime.enter();
        // A panic must not reach the caller: the ledger ends, as it does after a panic on its own thread.
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
            Ok(polled) => {
                let writer = ready!(polled);
                this.work = None;
                this.shared.give_back(writer, this.is_caller);
            }
            Err(_) => {
                this.work = None;
                this.shared.end();
            }
        }
        Poll::Ready(())
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            *self.shared.place() = Place::Left(work);
            self.shared.queue.wake();
        }
    }
}

thread_local! {
    /// None unless a blocking caller polls an operation on this thread. Then it has the writer that the caller may
    /// take, because the operation submitted something to its queue.
    static OFFERED: RefCell<Option<Option<Arc<SharedWriter>>>> = const { RefCell::new(None) };
}

/// Offers the writer to the blocking caller that polls on this thread, if there is one. Returns whether it was offered;
/// the caller then sees to it that what was submitted is written.
pub(super) fn offer(writer: &Arc<SharedWriter>) -> bool {
    OFFERED.with_borrow_mut(|offered| match offered {
        Some(Some(other)) => Arc::ptr_eq(other, writer),
        Some(place) => {
            *place = Some(Arc::clone(writer));
            true
        }
        None => false,
    })
}

/// Lets operations on this thread offer their writer as long as this exists.
struct Scope {
    outer: Option<Option<Arc<SharedWriter>>>,
}

impl Scope {
    fn enter() -> Self {
        Self { outer: OFFERED.replace(Some(None)) }
    }

    /// The writer that was offered.
    fn exit(self) -> Option<Arc<SharedWriter>> {
        OFFERED.take().flatten()
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        // After a panic, the ledger's thread writes what was submitted.
        if let Some(writer) = OFFERED.replace(self.outer.take()).flatten() {
            writer.queue.wake();
        }
    }
}

/// Runs an operation on a thread that may block. When the operation has submitted something and no other thread writes,
/// this thread becomes the leader. Dropping this is allowed at any time.
#[derive(Default)]
pub struct Leader {
    offered: Option<Arc<SharedWriter>>,
    lead: Option<Lead>,
}

impl Leader {
    /// Polls the operation without leading. What it submits is written at the next [`Self::poll`], or by the ledger's
    /// thread after [`Self::leave`].
    pub fn begin<F: Future + ?Sized>(&mut self, operation: Pin<&mut F>, context: &mut Context<'_>) -> Poll<F::Output> {
        let scope = Scope::enter();
        let polled = operation.poll(context);
        if let Some(writer) = scope.exit() {
            match &self.offered {
                Some(other) if !Arc::ptr_eq(other, &writer) => writer.queue.wake(),
                _ => self.offered = Some(writer),
            }
        }
        polled
    }

    /// Polls the operation, and writes as the leader if that is possible.
    pub fn poll<F: Future + ?Sized>(
        &mut self,
        mut operation: Pin<&mut F>,
        context: &mut Context<'_>,
    ) -> Poll<F::Output> {
        loop {
            let polled = self.begin(operation.as_mut(), context);
            if polled.is_ready() {
                self.leave();
                return polled;
            }
            if self.lead.is_none() {
                self.lead = self.offered.take().and_then(|writer| writer.lead());
            }
            let Some(lead) = &mut self.lead else { return Poll::Pending };
            ready!(Pin::new(lead).poll(context));
            self.lead = None;
        }
    }

    /// Whether the operation that was polled last has submitted something. If it is pending, it then waits only for the
    /// ledger, and holds nothing that others wait for.
    pub fn has_offer(&self) -> bool {
        self.offered.is_some()
    }

    /// Leaves everything that is not written yet to the ledger's thread.
    pub fn leave(&mut self) {
        self.lead = None;
        if let Some(writer) = self.offered.take() {
            writer.wake_if_needed(false);
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.leave();
    }
}
