//! Work that takes the CPU for long, off the async threads: on as many threads as there are cores, in turns by
//! principal.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::types::error::{Error, ErrorCode, Result};

#[cfg(test)]
mod tests;

/// How long a piece of work takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// A few milliseconds. What takes longer is cut into such pieces where it can be.
    Short,
    /// Longer: generating an RSA key, a message of many megabytes. One thread is always left to short work.
    Long,
}

/// The threads that do the work. They are those of the runtime for blocking work, and end when nothing waits. Cheap to
/// clone; all clones are the same threads.
#[derive(Clone)]
pub struct Workers(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// How many may work at once.
    threads: usize,
}

#[derive(Default)]
struct State {
    short: Lane,
    long: Lane,
    /// Threads that are at work, and those of them that do long work.
    running: usize,
    running_long: usize,
    /// Whether long work has its turn.
    is_turn_of_long: bool,
    /// Whether no work is taken any more.
    is_closed: bool,
}

/// Work of one length that waits.
#[derive(Default)]
struct Lane {
    waiting: HashMap<Arc<str>, VecDeque<Task>>,
    /// Principals with work that waits, in the order of their turns.
    turns: VecDeque<Arc<str>>,
}

type Task = Box<dyn FnOnce() + Send>;

impl Default for Workers {
    /// As many threads as there are cores, and at least two.
    fn default() -> Self {
        Self::new(std::thread::available_parallelism().map_or(2, std::num::NonZero::get))
    }
}

impl Workers {
    /// So many threads, and at least two.
    pub fn new(threads: usize) -> Self {
        Self(Arc::new(Inner { state: Mutex::default(), threads: threads.max(2) }))
    }

    /// How many pieces of work may be done at once, and how many are being done.
    #[cfg(test)]
    pub fn threads(&self) -> (usize, usize) {
        (self.0.threads, self.0.state().running)
    }

    /// Does a piece of work when it is this principal's turn. Work that nobody waits for any more is not begun.
    pub async fn run<T: Send + 'static>(
        &self,
        principal: &str,
        length: Length,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let task = move || {
            if !reply.is_closed() {
                // The caller may have dropped its future meanwhile; ignore the send error.
                let _ = reply.send(work());
            }
        };
        self.push(principal, length, Box::new(task));
        answer.await.unwrap_or_else(|_| {
            Err(match self.0.state().is_closed {
                true => Error::new(ErrorCode::Closed, "the service is closed"),
                false => Error::new(ErrorCode::Internal, "a computation ended unexpectedly"),
            })
        })
    }

    /// Takes no work any more, and gives up what waits.
    pub fn close(&self) {
        let mut state = self.0.state();
        state.is_closed = true;
        let given_up = (std::mem::take(&mut state.short), std::mem::take(&mut state.long));
        // What they hold is dropped outside of the lock.
        drop(state);
        drop(given_up);
    }

    fn push(&self, principal: &str, length: Length, task: Task) {
        let mut state = self.0.state();
        if state.is_closed {
            return;
        }
        match length {
            Length::Short => state.short.push(principal, task),
            Length::Long => state.long.push(principal, task),
        }
        if state.running == self.0.threads {
            return;
        }
        state.running += 1;
        drop(state);
        let thread = Thread { inner: Arc::clone(&self.0), is_counted: true };
        drop(tokio::task::spawn_blocking(move || thread.work()));
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread at work. One that never gets to work, because its runtime ends, is not counted any more either.
struct Thread {
    inner: Arc<Inner>,
    is_counted: bool,
}

impl Thread {
    fn work(mut self) {
        let mut ended = None;
        while let Some((length, task)) = self.next(ended) {
            // A panic ends the work, whose caller is told so, and not the thread.
            if catch_unwind(AssertUnwindSafe(task)).is_err() {
                tracing::error!("a computation panicked");
            }
            ended = Some(length);
        }
    }

    /// The next piece of work, after one of this length. Without one, the thread ends: decided under the same lock
    /// under which work is added, so that none is left without a thread.
    fn next(&mut self, ended: Option<Length>) -> Option<(Length, Task)> {
        let mut state = self.inner.state();
        state.running_long -= usize::from(ended == Some(Length::Long));
        let next = state.next(self.inner.threads);
        if next.is_none() {
            state.running -= 1;
            self.is_counted = false;
        }
        next
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if self.is_counted {
            self.inner.state().running -= 1;
        }
    }
}

impl State {
    /// Short and long work take turns, and long work leaves one of the threads alone.
    fn next(&mut self, threads: usize) -> Option<(Length, Task)> {
        let may_be_long = self.running_long + 1 < threads && (self.is_turn_of_long || self.short.turns.is_empty());
        if may_be_long && let Some(task) = self.long.pop() {
            self.is_turn_of_long = false;
            self.running_long += 1;
            return Some((Length::Long, task));
        }
        self.is_turn_of_long = true;
        Some((Length::Short, self.short.pop()?))
    }
}

impl Lane {
    fn push(&mut self, principal: &str, task: Task) {
        if let Some(tasks) = self.waiting.get_mut(principal) {
            return tasks.push_back(task);
        }
        let principal: Arc<str> = Arc::from(principal);
        self.turns.push_back(Arc::clone(&principal));
        self.waiting.insert(principal, VecDeque::from([task]));
    }

    /// The oldest task of the principal whose turn it is.
    fn pop(&mut self) -> Option<Task> {
        let principal = self.turns.pop_front()?;
        let tasks = self.waiting.get_mut(&principal)?;
        let task = tasks.pop_front();
        if tasks.is_empty() {
            self.waiting.remove(&principal);
        } else {
            self.turns.push_back(principal);
        }
        task
    }
}
