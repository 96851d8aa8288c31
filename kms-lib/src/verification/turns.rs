//! Verifications take turns: one at a time, each shared by all who asked for the same before it began, and given up
//! when none of them waits any more. What one costs in memory and in reads of the store, so do a thousand.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::{Progress, Report, VerifyOptions};
use crate::fair::{Fair, Turn};
use crate::types::audit::Head;
use crate::types::error::{Error, ErrorCode, Result};

/// Most verifications that wait for their turn.
const WAITING: usize = 64;

/// What a verification found, and the head that it verified.
pub(crate) type Verified = (Report, Option<Head>);

/// What tells verifications apart: all options but the progress.
type Asked = (Option<u64>, Option<String>, Option<(u64, u64)>);

/// The turns. All clones are the same.
#[derive(Clone)]
pub(crate) struct Turns(Arc<Inner>);

impl Default for Turns {
    fn default() -> Self {
        let (waiting, closed) = (Mutex::default(), watch::Sender::default());
        Self(Arc::new(Inner { one: Fair::new(1), waiting, closed }))
    }
}

struct Inner {
    /// The turn of the verification that goes on.
    one: Fair,
    /// Those that have not begun.
    waiting: Mutex<HashMap<Asked, Weak<Run>>>,
    /// Set for good by [`Turns::close`].
    closed: watch::Sender<bool>,
}

/// A verification that others may join. It ends when it is dropped.
struct Run {
    result: watch::Receiver<Option<Result<Verified>>>,
    task: AbortHandle,
    progress: Arc<Mutex<Vec<Progress>>>,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Turns {
    /// The result of a verification with these options that begins after this call: of one that others wait for
    /// already, or of `verify`, which is told whom to tell how far it is. `CallerOverloaded` if too many others wait.
    pub async fn join<F>(
        &self,
        options: &VerifyOptions,
        principal: &str,
        verify: impl FnOnce(VerifyOptions) -> F,
    ) -> Result<Verified>
    where
        F: Future<Output = Result<Verified>> + Send + 'static,
    {
        let run = self.waiting(options, principal, verify)?;
        run.progress.lock().unwrap_or_else(PoisonError::into_inner).extend(options.progress.clone());
        let mut result = run.result.clone();
        let ended = || Error::new(ErrorCode::Internal, "the verification ended unexpectedly");
        let mut closed = self.0.closed.subscribe();
        tokio::select! {
            result = result.wait_for(Option::is_some) => match result {
                Ok(result) => result.clone().unwrap_or_else(|| Err(ended())),
                Err(_) => Err(ended()),
            },
            // With nobody left who waits, the verification is given up.
            _ = closed.wait_for(|closed| *closed) => Err(Error::new(ErrorCode::Closed, "the service is closed")),
        }
    }

    /// Waits for the turn of a verification that is part of something else, a backup for example, which nobody shares.
    pub async fn alone(&self, principal: &str) -> Result<Turn> {
        let mut closed = self.0.closed.subscribe();
        tokio::select! {
            turn = self.0.one.turn(principal) => Ok(turn),
            _ = closed.wait_for(|closed| *closed) => Err(Error::new(ErrorCode::Closed, "the service is closed")),
        }
    }

    /// Gives up all verifications.
    pub fn close(&self) {
        self.0.closed.send_replace(true);
    }

    fn waiting<F>(
        &self,
        options: &VerifyOptions,
        principal: &str,
        verify: impl FnOnce(VerifyOptions) -> F,
    ) -> Result<Arc<Run>>
    where
        F: Future<Output = Result<Verified>> + Send + 'static,
    {
        let asked = (options.trusted_size, options.pinned_key.clone(), options.reread);
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(run) = waiting.get(&asked).and_then(Weak::upgrade) {
            return Ok(run);
        }
        waiting.retain(|_, run| run.strong_count() > 0);
        if waiting.len() >= WAITING {
            let text = "too many verifications wait for their turn; nothing was done, retry later";
            return Err(Error::new(ErrorCode::CallerOverloaded, text));
        }
        let progress = Arc::new(Mutex::new(Vec::new()));
        let options = VerifyOptions { progress: Some(telling(Arc::clone(&progress))), ..options.clone() };
        let (tell, result) = watch::channel(None);
        let (inner, principal) = (Arc::clone(&self.0), principal.to_owned());
        let (begun, verifying) = (asked.clone(), verify(options));
        let task = tokio::spawn(async move {
            let _turn = inner.one.turn(&principal).await;
            // Who asks from here on wants to see what has changed since.
            inner.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&begun);
            tell.send_replace(Some(verifying.await));
        });
        let run = Arc::new(Run { result, task: task.abort_handle(), progress });
        waiting.insert(asked, Arc::downgrade(&run));
        Ok(run)
    }
}

/// A progress that tells all who wait.
fn telling(waiting: Arc<Mutex<Vec<Progress>>>) -> Progress {
    Progress::calling(move |done, total| {
        // What they do when they are told is their own: not under the lock.
        let all = waiting.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.iter().for_each(|progress| progress.tell(done, total));
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    /// Counts verifications: all that were begun, those that go on, and the most that went on at once.
    #[derive(Default)]
    struct Counts {
        begun: AtomicUsize,
        now: AtomicUsize,
        most: AtomicUsize,
    }

    struct Ended(Arc<Counts>);

    impl Drop for Ended {
        fn drop(&mut self) {
            self.0.now.fetch_sub(1, Ordering::SeqCst);
        }
    }

    async fn verify(counts: Arc<Counts>, options: VerifyOptions, millis: u64) -> Result<Verified> {
        let number = counts.begun.fetch_add(1, Ordering::SeqCst) as u64;
        let now = counts.now.fetch_add(1, Ordering::SeqCst) + 1;
        let _ended = Ended(Arc::clone(&counts));
        counts.most.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(millis)).await;
        options.tell(1, 1);
        Ok((Report::new(number, 0), None))
    }

    fn join(
        turns: &Turns,
        counts: &Arc<Counts>,
        options: VerifyOptions,
        principal: String,
        millis: u64,
    ) -> tokio::task::JoinHandle<Result<Verified>> {
        let (turns, counts) = (turns.clone(), Arc::clone(counts));
        tokio::spawn(async move { turns.join(&options, &principal, |options| verify(counts, options, millis)).await })
    }

    #[tokio::test]
    async fn those_who_ask_for_the_same_share_one_that_begins_after_they_asked() {
        let (turns, counts) = (Turns::default(), Arc::new(Counts::default()));
        let first = join(&turns, &counts, VerifyOptions::new(), "a".into(), 50);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let progress = Progress::new();
        let options = VerifyOptions::new().progress(&progress);
        let others: Vec<_> =
            (0..200).map(|n| join(&turns, &counts, options.clone(), format!("caller-{}", n % 3), 50)).collect();
        assert_eq!(first.await.unwrap().unwrap().0.size, 0);
        for other in others {
            assert_eq!(other.await.unwrap().unwrap().0.size, 1);
        }
        assert_eq!((counts.begun.load(Ordering::SeqCst), counts.most.load(Ordering::SeqCst)), (2, 1));
        assert_eq!(progress.done(), 1);
    }

    #[tokio::test]
    async fn one_that_nobody_waits_for_is_given_up() {
        let (turns, counts) = (Turns::default(), Arc::new(Counts::default()));
        let given_up: Vec<_> =
            (0..3).map(|n| join(&turns, &counts, VerifyOptions::new().trusted_size(n), "a".into(), 60_000)).collect();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(counts.now.load(Ordering::SeqCst), 1);
        given_up.iter().for_each(tokio::task::JoinHandle::abort);
        let next = join(&turns, &counts, VerifyOptions::new(), "b".into(), 1);
        tokio::time::timeout(Duration::from_secs(10), next).await.unwrap().unwrap().unwrap();
        assert_eq!(counts.now.load(Ordering::SeqCst), 0);
        assert_eq!(counts.begun.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn what_nobody_shares_takes_turns_with_the_others() {
        let (turns, counts) = (Turns::default(), Arc::new(Counts::default()));
        let turn = turns.alone("a").await.unwrap();
        let verification = join(&turns, &counts, VerifyOptions::new(), "b".into(), 1);
        let next = tokio::spawn({
            let turns = turns.clone();
            async move { turns.alone("a").await.map(drop) }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!verification.is_finished() && !next.is_finished());
        drop(turn);
        verification.await.unwrap().unwrap();
        next.await.unwrap().unwrap();
        let _turn = turns.alone("a").await.unwrap();
        turns.close();
        assert_eq!(turns.alone("b").await.err().map(|error| error.code()), Some(ErrorCode::Closed));
    }

    #[tokio::test]
    async fn principals_take_turns_and_only_so_many_wait() {
        let (turns, counts) = (Turns::default(), Arc::new(Counts::default()));
        let options = |n| VerifyOptions::new().trusted_size(n);
        let greedy: Vec<_> =
            (0..WAITING as u64 - 1).map(|n| join(&turns, &counts, options(n), "greedy".into(), 20)).collect();
        tokio::time::sleep(Duration::from_millis(5)).await;
        let modest = join(&turns, &counts, options(1_000), "modest".into(), 1);
        // After the one that goes on, and at most one more of the other principal.
        let place = modest.await.unwrap().unwrap().0.size;
        assert!(place <= 2, "{place}");
        for _ in 0..WAITING {
            drop(join(&turns, &counts, options(2_000), "greedy".into(), 1));
        }
        let refused: Vec<_> =
            (0..WAITING as u64).map(|n| join(&turns, &counts, options(3_000 + n), "greedy".into(), 1)).collect();
        let mut codes = Vec::new();
        for call in refused {
            codes.extend(call.await.unwrap().err().map(|error| error.code()));
        }
        assert!(codes.contains(&ErrorCode::CallerOverloaded));
        greedy.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
