//! Work that several callers wait for, each in the queue of its own principal. It begins in the first turn that one of
//! them gets.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::{Fair, Turn};

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Whether work that has begun continues when no caller waits for it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// The work runs to completion, because later callers can use its result.
    ToItsEnd,
    /// The work is aborted.
    WhileAwaited,
}

/// The work ended without a result: it panicked, or its runtime ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished;

/// Work whose result all waiting callers get. If it is dropped before it has begun, the work is not done.
pub struct Joint<T> {
    state: watch::Sender<State<T>>,
    work: Mutex<Option<Work<T>>>,
    run: Run,
    task: Mutex<Option<AbortHandle>>,
}

enum State<T> {
    Waiting,
    Begun,
    Ended(Option<T>),
}

impl<T: Clone + Send + Sync + 'static> Joint<T> {
    /// Work that no caller waits for yet.
    pub fn new(run: Run, work: impl Future<Output = T> + Send + 'static) -> Self {
        let (state, _) = watch::channel(State::Waiting);
        Self { state, work: Mutex::new(Some(Box::pin(work))), run, task: Mutex::default() }
    }

    /// Waits for the result and, as long as the work has not begun, for a turn of this principal. Dropping the future
    /// leaves the queue.
    pub async fn result(&self, fair: &Fair, principal: &str) -> Result<T, Unfinished> {
        let mut state = self.state.subscribe();
        let has_begun = async { state.wait_for(|state| !matches!(state, State::Waiting)).await.is_ok() };
        tokio::select! {
            biased;
            _ = has_begun => {}
            turn = fair.turn(principal) => self.begin(turn),
        }
        match state.wait_for(|state| matches!(state, State::Ended(_))).await.as_deref() {
            Ok(State::Ended(Some(result))) => Ok(result.clone()),
            _ => Err(Unfinished),
        }
    }

    /// Whether the work has begun.
    pub fn has_begun(&self) -> bool {
        !matches!(*self.state.borrow(), State::Waiting)
    }

    fn begin(&self, turn: Turn) {
        let Some(work) = self.work.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        self.state.send_replace(State::Begun);
        let ending = Ending(self.state.clone());
        let task = tokio::spawn(async move {
            let _turn = turn;
            let result = work.await;
            ending.0.send_replace(State::Ended(Some(result)));
        });
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.abort_handle());
    }
}

impl<T> Drop for Joint<T> {
    fn drop(&mut self) {
        let task = self.task.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task.filter(|_| self.run == Run::WhileAwaited) {
            task.abort();
        }
    }
}

/// Wakes the waiting callers, even if the work panics.
struct Ending<T>(watch::Sender<State<T>>);

impl<T> Drop for Ending<T> {
    fn drop(&mut self) {
        self.0.send_if_modified(|state| {
            let is_cut_off = !matches!(state, State::Ended(_));
            if is_cut_off {
                *state = State::Ended(None);
            }
            is_cut_off
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    /// Waits in a task, for this principal.
    fn wait(
        joint: &Arc<Joint<u32>>,
        fair: &Fair,
        principal: &'static str,
    ) -> tokio::task::JoinHandle<Result<u32, Unfinished>> {
        let (joint, fair) = (Arc::clone(joint), fair.clone());
        tokio::spawn(async move { joint.result(&fair, principal).await })
    }

    async fn settle() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    #[tokio::test]
    async fn it_begins_in_the_first_turn_of_those_who_wait() {
        let fair = Fair::new(1, 1);
        let held = fair.turn("somebody").await;
        let begun = Arc::new(AtomicUsize::new(0));
        let work = |n: u32| {
            let begun = Arc::clone(&begun);
            let work = async move {
                begun.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(30)).await;
                n
            };
            Arc::new(Joint::new(Run::WhileAwaited, work))
        };
        // The greedy principal waits for all of them, and for the last one before the modest principal does.
        let joints: Vec<_> = (0..20).map(work).collect();
        let mut greedy = Vec::new();
        for joint in &joints {
            greedy.push(wait(joint, &fair, "greedy"));
            tokio::task::yield_now().await;
        }
        let modest = wait(&joints[19], &fair, "modest");
        settle().await;
        drop(held);
        assert_eq!(modest.await.unwrap(), Ok(19));
        assert!(begun.load(Ordering::SeqCst) <= 3, "{} came first", begun.load(Ordering::SeqCst));
        assert_eq!(greedy.pop().unwrap().await.unwrap(), Ok(19));
        greedy.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test]
    async fn who_joined_keeps_it_alive_and_who_hangs_up_leaves_the_line() {
        for run in [Run::ToItsEnd, Run::WhileAwaited] {
            let fair = Fair::new(1, 1);
            let held = fair.turn("somebody").await;
            let joint = Arc::new(Joint::new(run, async { 7 }));
            let first = wait(&joint, &fair, "first");
            settle().await;
            let joined = wait(&joint, &fair, "second");
            settle().await;
            first.abort();
            settle().await;
            drop(held);
            assert_eq!(joined.await.unwrap(), Ok(7));
            drop(fair.turn("third").await);
        }
    }

    #[tokio::test]
    async fn it_is_given_up_or_comes_to_its_end_when_nobody_waits() {
        for (run, ended) in [(Run::WhileAwaited, 0), (Run::ToItsEnd, 1)] {
            let (fair, count) = (Fair::new(1, 1), Arc::new(AtomicUsize::new(0)));
            let counted = Arc::clone(&count);
            let joint = Arc::new(Joint::new(run, async move {
                tokio::time::sleep(Duration::from_millis(40)).await;
                counted.fetch_add(1, Ordering::SeqCst);
                0
            }));
            let waiting = wait(&joint, &fair, "a");
            settle().await;
            waiting.abort();
            drop(joint);
            // The turn ends with the work.
            tokio::time::timeout(Duration::from_secs(10), fair.turn("b")).await.unwrap();
            settle().await;
            assert_eq!(count.load(Ordering::SeqCst), ended);
        }
    }

    #[tokio::test]
    async fn a_panic_leaves_nobody_waiting() {
        let fair = Fair::new(1, 1);
        let joint =
            Arc::new(Joint::new(Run::ToItsEnd, async { if fair_is_over() { 1 } else { panic!("on purpose") } }));
        let (one, two) = (wait(&joint, &fair, "a"), wait(&joint, &fair, "b"));
        assert_eq!((one.await.unwrap(), two.await.unwrap()), (Err(Unfinished), Err(Unfinished)));
        drop(fair.turn("c").await);
    }

    fn fair_is_over() -> bool {
        false
    }
}
