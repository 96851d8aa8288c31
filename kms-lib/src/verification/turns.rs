//! Turns of verifications: one runs at a time, is shared by all callers that asked for the same before it began, and is
//! dropped when none of them waits any longer. A thousand equal calls cost as much memory and as many reads as one.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::watch;

use super::{Progress, Report, VerifyOptions};
use crate::fair::{Fair, Joint, Places, Run, Turn};
use crate::types::audit::Head;
use crate::types::error::{Error, ErrorCode, Result};

/// The maximum number of calls that wait for a verification, including those that share one.
const WAITING: usize = 1_024;

/// The report of a verification, and the head that it verified. A report may be large: callers that share a
/// verification share its report in memory too.
pub(crate) type Verified = (Report, Option<Head>);

/// The options that distinguish verifications: all but the progress.
type Asked = (Option<u64>, Option<String>, Option<(u64, u64)>);

/// The turns of verifications. All clones share the same state.
#[derive(Clone)]
pub(crate) struct Turns(Arc<Inner>);

impl Default for Turns {
    fn default() -> Self {
        let calls = Arc::new(Places::new(WAITING, "verifications"));
        Self(Arc::new(Inner {
            one: Fair::new(1, 1),
            calls,
            waiting: Mutex::default(),
            closed: watch::Sender::default(),
        }))
    }
}

struct Inner {
    /// The single turn, held by the running verification.
    one: Fair,
    /// The places of the waiting calls.
    calls: Arc<Places>,
    /// The verifications that have not started.
    waiting: Mutex<HashMap<Asked, Weak<Shared>>>,
    /// Set permanently by [`Turns::close`].
    closed: watch::Sender<bool>,
}

/// A verification that other calls may join. It ends when this is dropped.
struct Shared {
    verification: Joint<Result<Arc<Verified>>>,
    told: Arc<Mutex<Told>>,
}

/// The callers that a verification reports its progress to, each with a number.
#[derive(Default)]
struct Told {
    next: u64,
    all: BTreeMap<u64, Progress>,
}

/// A caller that receives progress until this is dropped.
struct Listener<'a>(&'a Mutex<Told>, u64);

impl<'a> Listener<'a> {
    fn add(told: &'a Mutex<Told>, progress: &Progress) -> Self {
        let mut guard = told.lock().unwrap_or_else(PoisonError::into_inner);
        let number = guard.next;
        guard.next += 1;
        guard.all.insert(number, progress.clone());
        Self(told, number)
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).all.remove(&self.1);
    }
}

impl Turns {
    /// Returns the result of a verification with these options that starts after this call: one that other calls wait
    /// for already, or that of `verify`, which gets the options with a shared progress. It starts in the first turn
    /// that one of its waiting callers gets. `CallerOverloaded` if too many calls of this principal wait.
    pub async fn join<F>(
        &self,
        options: &VerifyOptions,
        principal: &str,
        verify: impl FnOnce(VerifyOptions) -> F,
    ) -> Result<Arc<Verified>>
    where
        F: Future<Output = Result<Verified>> + Send + 'static,
    {
        let _place = self.0.calls.take(principal)?;
        self.while_open(async {
            let shared = self.shared(options, verify);
            let _listener = options.progress.as_ref().map(|progress| Listener::add(&shared.told, progress));
            let ended = |_| Error::new(ErrorCode::Internal, "the verification ended unexpectedly");
            shared.verification.result(&self.0.one, principal).await.map_err(ended)?
        })
        .await
    }

    /// Runs work that verifies and is not shared, a backup for example, in a turn of this principal, until the service
    /// is closed.
    pub async fn alone<T>(&self, principal: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let _place = self.0.calls.take(principal)?;
        self.while_open(async {
            let _turn: Turn = self.0.one.turn(principal).await;
            work.await
        })
        .await
    }

    /// Stops all verifications, the waiting ones and the running one.
    pub fn close(&self) {
        self.0.closed.send_replace(true);
    }

    /// Runs `work` until the service is closed; a verification without waiting callers is dropped.
    async fn while_open<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut closed = self.0.closed.subscribe();
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => Err(Error::new(ErrorCode::Closed, "the service is closed")),
            done = work => done,
        }
    }

    /// The verification with these options that has not started yet.
    fn shared<F>(&self, options: &VerifyOptions, verify: impl FnOnce(VerifyOptions) -> F) -> Arc<Shared>
    where
        F: Future<Output = Result<Verified>> + Send + 'static,
    {
        let asked = (options.trusted_size, options.pinned_key.clone(), options.reread);
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = waiting.get(&asked).and_then(Weak::upgrade) {
            return shared;
        }
        // Removes dropped verifications, so that there are never more than there are places for calls.
        waiting.retain(|_, shared| shared.strong_count() > 0);
        let told = Arc::default();
        let options = VerifyOptions { progress: Some(telling(Arc::clone(&told))), ..options.clone() };
        let (inner, begun, verifying) = (Arc::clone(&self.0), asked.clone(), verify(options));
        let work = async move {
            // Later callers want to see what has changed since, so they get another verification.
            inner.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&begun);
            verifying.await.map(Arc::new)
        };
        let shared = Arc::new(Shared { verification: Joint::new(Run::WhileAwaited, work), told });
        waiting.insert(asked, Arc::downgrade(&shared));
        shared
    }
}

/// A progress that reports to all waiting callers.
fn telling(told: Arc<Mutex<Told>>) -> Progress {
    Progress::calling(move |done, total| {
        // The callbacks run arbitrary code, so they are called outside the lock.
        let all: Vec<Progress> = told.lock().unwrap_or_else(PoisonError::into_inner).all.values().cloned().collect();
        all.iter().for_each(|progress| progress.tell(done, total));
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    /// Counts verifications: all that were started, those running, and the most that ran at once.
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
    ) -> tokio::task::JoinHandle<Result<Arc<Verified>>> {
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
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let alone = |principal: &'static str, work: tokio::sync::oneshot::Receiver<()>| {
            let turns = turns.clone();
            tokio::spawn(async move { turns.alone(principal, async { work.await.map_err(|_| gone()) }).await })
        };
        let first = alone("a", ended);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let verification = join(&turns, &counts, VerifyOptions::new(), "b".into(), 1);
        let (end_next, next_ended) = tokio::sync::oneshot::channel();
        let next = alone("a", next_ended);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!verification.is_finished() && !next.is_finished());
        end.send(()).unwrap();
        first.await.unwrap().unwrap();
        verification.await.unwrap().unwrap();
        // Closing the service stops both the running work and the waiting work.
        let waiting = alone("b", tokio::sync::oneshot::channel().1);
        tokio::time::sleep(Duration::from_millis(20)).await;
        turns.close();
        for given_up in [next, waiting] {
            let given_up = tokio::time::timeout(Duration::from_secs(10), given_up).await.unwrap().unwrap();
            assert_eq!(given_up.err().map(|error| error.code()), Some(ErrorCode::Closed));
        }
        assert!(end_next.is_closed());
        let late = turns.alone("c", async { Ok(()) }).await;
        assert_eq!(late.err().map(|error| error.code()), Some(ErrorCode::Closed));
    }

    fn gone() -> Error {
        Error::new(ErrorCode::Internal, "the sender is gone")
    }

    #[tokio::test]
    async fn closing_gives_up_what_goes_on() {
        let (turns, counts) = (Turns::default(), Arc::new(Counts::default()));
        let verification = join(&turns, &counts, VerifyOptions::new(), "a".into(), 60_000);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(counts.now.load(Ordering::SeqCst), 1);
        turns.close();
        let given_up = tokio::time::timeout(Duration::from_secs(10), verification).await.unwrap().unwrap();
        assert_eq!(given_up.err().map(|error| error.code()), Some(ErrorCode::Closed));
        while counts.now.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn principals_take_turns_and_no_one_fills_the_waiting_room() {
        let (turns, counts) = (Turns::default(), Arc::new(Counts::default()));
        let options = |n| VerifyOptions::new().trusted_size(n);
        let greedy: Vec<_> =
            (0..WAITING as u64).map(|n| join(&turns, &counts, options(n), "greedy".into(), 20)).collect();
        tokio::time::sleep(Duration::from_millis(5)).await;
        // Alone, and together with the last call of the other principal: after the running verification and at most one
        // more.
        for n in [1_000_000, WAITING as u64 / 2 - 1] {
            let before = counts.begun.load(Ordering::SeqCst) as u64;
            let modest = join(&turns, &counts, options(n), "modest".into(), 1);
            let place = modest.await.unwrap().unwrap().0.size;
            assert!(place <= before + 2, "{place} after {before}");
        }
        greedy.iter().for_each(tokio::task::JoinHandle::abort);
        let mut refused = 0;
        for call in greedy {
            if let Ok(Err(error)) = call.await {
                assert_eq!(error.code(), ErrorCode::CallerOverloaded);
                refused += 1;
            }
        }
        assert_eq!(refused, WAITING / 2);
    }

    /// A caller that joins and disconnects repeatedly leaves nothing behind.
    #[tokio::test]
    async fn those_who_hung_up_are_not_told() {
        let (turns, counts) = (Turns::default(), Arc::new(Counts::default()));
        let first = join(&turns, &counts, VerifyOptions::new(), "a".into(), 50);
        tokio::time::sleep(Duration::from_millis(10)).await;
        let patient = join(&turns, &counts, VerifyOptions::new().progress(&Progress::new()), "b".into(), 1);
        for _ in 0..10 {
            let progress = Progress::new();
            let impatient = join(&turns, &counts, VerifyOptions::new().progress(&progress), "c".into(), 1);
            tokio::task::yield_now().await;
            impatient.abort();
            assert!(impatient.await.is_err());
        }
        let waiting: Vec<_> = turns.0.waiting.lock().unwrap().values().filter_map(Weak::upgrade).collect();
        assert_eq!(waiting.iter().map(|shared| shared.told.lock().unwrap().all.len()).collect::<Vec<_>>(), [1]);
        drop(waiting);
        first.await.unwrap().unwrap();
        patient.await.unwrap().unwrap();
    }

    /// A report that many callers wait for is in memory once.
    #[tokio::test]
    async fn those_who_share_one_share_its_report() {
        let (turns, counts) = (Turns::default(), Arc::new(Counts::default()));
        let calls: Vec<_> = (0..10).map(|_| join(&turns, &counts, VerifyOptions::new(), "a".into(), 20)).collect();
        let mut reports = Vec::new();
        for call in calls {
            reports.push(call.await.unwrap().unwrap());
        }
        assert!(reports.iter().all(|report| Arc::ptr_eq(report, &reports[0])));
        assert_eq!(Arc::strong_count(&reports[0]), 10);
    }
}
