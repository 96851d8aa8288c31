//! Threads for CPU-intensive work, which must not run on the async threads: as many threads as cores, which serve the
//! principals in turns.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::types::error::{Error, ErrorCode, Result};

mod blocking;
mod runtime;
#[cfg(test)]
mod tests;

pub use blocking::{run_blocking, start};
pub use runtime::build_runtime;

/// The expected duration of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// A few milliseconds. Longer work is divided into such tasks where possible.
    Short,
    /// Longer, such as generating an RSA key or encrypting many megabytes. One thread is always left to short tasks.
    Long,
}

/// The worker threads. They are taken from the runtime's threads for blocking work, and end when no task waits. Cheap
/// to clone; clones share the threads.
#[derive(Clone)]
pub struct Workers(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// The maximum number of threads at a time.
    threads: usize,
}

#[derive(Default)]
struct State {
    short: Lane,
    long: Lane,
    /// Number of running threads, and of those with long tasks.
    running: usize,
    running_long: usize,
    /// Whether the next task should be a long one.
    is_turn_of_long: bool,
    /// Whether new tasks are rejected.
    is_closed: bool,
}

/// The waiting tasks of one length.
#[derive(Default)]
struct Lane {
    waiting: HashMap<Arc<str>, VecDeque<Task>>,
    /// Principals with waiting tasks, in the order of their turns.
    turns: VecDeque<Arc<str>>,
}

/// The argument says whether there is a thread for the task; otherwise it answers with an error.
type Task = Box<dyn FnOnce(bool) + Send>;

impl Default for Workers {
    /// As many threads as cores, but at least two.
    fn default() -> Self {
        Self::new(std::thread::available_parallelism().map_or(2, std::num::NonZero::get))
    }
}

impl Workers {
    /// Workers with `threads` threads, but at least two.
    pub fn new(threads: usize) -> Self {
        Self(Arc::new(Inner { state: Mutex::default(), threads: threads.max(2) }))
    }

    /// The maximum number of threads at a time.
    pub fn threads(&self) -> usize {
        self.0.threads
    }

    /// The current number of threads.
    #[cfg(test)]
    pub fn running(&self) -> usize {
        self.0.state().running
    }

    /// Runs `work` when it is this principal's turn. If the future is dropped before, the work is not begun.
    /// `Overloaded` if no thread can be started for it.
    pub async fn run<T: Send + 'static>(
        &self,
        principal: &str,
        length: Length,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let task = move |has_thread: bool| {
            if !reply.is_closed() {
                // The caller may have dropped its future meanwhile; ignore the send error.
                let _ = reply.send(if has_thread { work() } else { Err(blocking::no_thread()) });
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

    /// Rejects new tasks and drops the waiting ones.
    pub fn close(&self) {
        let mut state = self.0.state();
        state.is_closed = true;
        let given_up = (std::mem::take(&mut state.short), std::mem::take(&mut state.long));
        // The tasks are dropped after the lock is released.
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
        // A thread that cannot be started is dropped, and then no longer counted.
        if start(move || thread.work()).is_err() {
            self.0.refuse_without_threads();
        }
    }
}

impl Inner {
    /// Refuses the waiting tasks if there is no thread for them.
    fn refuse_without_threads(&self) {
        let mut state = self.state();
        let mut refused = Vec::new();
        if state.running == 0 {
            let State { short, long, .. } = &mut *state;
            refused.extend([short, long].into_iter().flat_map(|lane| std::iter::from_fn(|| lane.pop())));
        }
        drop(state);
        refused.into_iter().for_each(|task| task(false));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker thread. When it is dropped without having run, because the runtime ends, it is no longer counted.
struct Thread {
    inner: Arc<Inner>,
    is_counted: bool,
}

impl Thread {
    fn work(mut self) {
        let mut ended = None;
        while let Some((length, task)) = self.next(ended) {
            // A panic ends only the task, whose caller gets an error, and not the thread.
            if catch_unwind(AssertUnwindSafe(|| task(true))).is_err() {
                tracing::error!("a computation panicked");
            }
            ended = Some(length);
        }
    }

    /// The next task, after one of this length. Without one, the thread ends. That is decided under the lock under
    /// which tasks are added, so that no task is left without a thread.
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
    /// The next task. Short and long tasks alternate, and one thread is never used for long tasks.
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
