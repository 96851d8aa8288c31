//! Tests of blocking callers that write the batch of everybody: the leaders.

use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Runtime};

use super::{Faults, open, size};
use crate::ledger::Leader;
use crate::session::{Session, Shared};
use crate::types::error::Result;
use crate::{AuditQuery, Context, ErrorCode, NewKey, Paging};

/// A service with injected errors, and the runtime that it was opened on.
struct Service {
    runtime: Runtime,
    shared: Arc<Shared>,
    session: Session,
    faults: Arc<Faults>,
    folder: tempfile::TempDir,
}

impl Service {
    fn open() -> Self {
        let (runtime, folder) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
        let (shared, session, faults) = runtime.block_on(open(&folder.path().join("kms.db")));
        runtime.block_on(session.encrypt("k", b"x", &Context::new())).unwrap();
        let service = Self { runtime, shared, session, faults, folder };
        service.wait_until_free();
        service
    }

    /// Waits until nothing is to be written. The ledger's thread has the writer for a moment after it has answered, and
    /// removes what an earlier process may have left after its first commit.
    fn wait_until_free(&self) {
        wait_until("the writer is free", || self.shared.ledger.is_free());
        self.committed_by();
    }

    /// The number of records. Adds one.
    fn size(&self) -> u64 {
        let size = self.runtime.block_on(size(&self.session));
        self.wait_until_free();
        size
    }

    /// Runs an operation on this thread as the blocking interface does.
    fn run<T>(&self, operation: impl Future<Output = T>) -> T {
        run(self.runtime.handle(), operation)
    }

    fn lock(&self) -> rusqlite::Connection {
        lock(&self.folder.path().join("kms.db"))
    }

    fn committed_by(&self) -> Vec<String> {
        std::mem::take(&mut *self.faults.committed_by.lock().unwrap())
    }
}

fn run<T>(handle: &Handle, operation: impl Future<Output = T>) -> T {
    let (mut operation, mut leader) = (pin!(operation), Leader::default());
    handle.block_on(poll_fn(|context| leader.poll(operation.as_mut(), context)))
}

/// Takes the lock on the store, as another process does.
fn lock(file: &Path) -> rusqlite::Connection {
    let other = rusqlite::Connection::open(file).unwrap();
    other.busy_timeout(Duration::from_secs(30)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    other
}

/// Runs a closure on a thread with this name.
fn on_thread<'s, T: Send + 's>(
    scope: &'s std::thread::Scope<'s, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 's,
) -> std::thread::ScopedJoinHandle<'s, T> {
    std::thread::Builder::new().name(name.into()).spawn_scoped(scope, work).unwrap()
}

fn wait_until(what: &str, mut is_done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn blocking_callers_write_and_asynchronous_ones_do_not() {
    let service = Service::open();
    let context = Context::new();
    let encrypt = || service.session.encrypt("k", b"x", &context);
    std::thread::scope(|scope| {
        on_thread(scope, "blocking", || {
            service.run(encrypt()).unwrap();
            service.run(service.session.rotate_key("k", None)).unwrap();
        });
    });
    assert_eq!(service.committed_by(), ["blocking", "blocking"]);
    // The same future on the same kind of thread, but without a leader.
    std::thread::scope(|scope| {
        on_thread(scope, "not blocking", || service.runtime.block_on(encrypt()).unwrap());
    });
    let session = service.session.clone();
    let task = service.runtime.spawn(async move { session.encrypt("k", b"x", &Context::new()).await });
    service.runtime.block_on(task).unwrap().unwrap();
    assert_eq!(service.committed_by(), ["kms-ledger", "kms-ledger"]);
}

/// Every caller gets its own record, in the order in which its operations were made, whoever wrote it.
#[test]
fn threads_and_tasks_share_one_log() {
    const CALLS: usize = 60;
    let service = Service::open();
    let before = service.size();
    let context = Context::new();
    let mut receipts = Vec::new();
    std::thread::scope(|scope| {
        let tasks: Vec<_> = (0..6)
            .map(|_| {
                let session = service.session.clone();
                service.runtime.spawn(async move {
                    let mut receipts = Vec::new();
                    for _ in 0..CALLS {
                        receipts.push(session.encrypt("k", b"x", &Context::new()).await.unwrap().receipt);
                    }
                    receipts
                })
            })
            .collect();
        let threads: Vec<_> = (0..6)
            .map(|n| {
                let (service, context) = (&service, &context);
                on_thread(scope, "blocking", move || {
                    let mut receipts = Vec::new();
                    for call in 0..CALLS {
                        if n == 0 && call % 20 == 0 {
                            service.run(service.session.rotate_key("k", None)).unwrap();
                        }
                        receipts.push(service.run(service.session.encrypt("k", b"x", context)).unwrap().receipt);
                    }
                    receipts
                })
            })
            .collect();
        receipts.extend(threads.into_iter().map(|thread| thread.join().unwrap()));
        receipts.extend(tasks.into_iter().map(|task| service.runtime.block_on(task).unwrap()));
    });
    for of_one in &receipts {
        assert!(of_one.is_sorted_by_key(|receipt| receipt.seq), "{of_one:?}");
    }
    let mut all: Vec<_> = receipts.into_iter().flatten().map(|receipt| (receipt.seq, receipt.hash)).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 12 * CALLS);
    service.runtime.block_on(async {
        for (seq, hash) in all {
            let paging = Paging::new(1).after((seq + 1).to_string());
            let record = service.session.list_audit(&AuditQuery::new(), &paging).await.unwrap().items.remove(0);
            assert_eq!((record.seq, record.hash), (seq, hash));
        }
        // The first verification, the encryptions and three rotations.
        assert_eq!(size(&service.session).await, before + 1 + 12 * CALLS as u64 + 3);
    });
}

/// A panic of the writer ends the ledger and reaches no caller.
#[test]
fn a_leader_survives_a_panic_of_the_writer() {
    let service = Service::open();
    service.faults.panics.store(true, Ordering::SeqCst);
    let code = |result: Result<()>| result.unwrap_err().code();
    let encrypt = || async { service.session.encrypt("k", b"x", &Context::new()).await.map(drop) };
    std::thread::scope(|scope| {
        let leader = on_thread(scope, "blocking", || code(service.run(encrypt())));
        assert_eq!(leader.join().unwrap(), ErrorCode::OutcomeUnknown);
    });
    assert_eq!(service.committed_by(), ["blocking"]);
    assert_eq!(code(service.run(encrypt())), ErrorCode::Closed);
    assert_eq!(code(service.runtime.block_on(encrypt())), ErrorCode::Closed);
    wait_until("the ledger's thread ends", || service.shared.ledger.has_failed());
    // Nothing was promised, so closing succeeds; it does not wait for a writer that is lost.
    service.runtime.block_on(service.shared.ledger.close(Duration::from_secs(30))).unwrap();
}

/// Callers whose leader waits for the store are not stuck with it when the service is closed, and nobody's record is
/// lost.
#[test]
fn closing_waits_for_a_leader() {
    let service = Service::open();
    let before = service.size();
    let other = service.lock();
    let writes = service.faults.writes.load(Ordering::SeqCst);
    let encrypt = || async { service.session.encrypt("k", b"x", &Context::new()).await.map(drop) };
    let queued = || service.shared.ledger.queued();
    std::thread::scope(|scope| {
        let leader = on_thread(scope, "blocking", || service.run(encrypt()));
        wait_until("the leader begins", || service.faults.writes.load(Ordering::SeqCst) > writes);
        let second = on_thread(scope, "blocking too", || service.run(encrypt()));
        wait_until("the second caller waits", || queued() == 1);
        let early = service.runtime.block_on(service.shared.ledger.close(Duration::from_millis(100)));
        assert_eq!(early.unwrap_err().code(), ErrorCode::StoreUnavailable);
        // The submissions that the leader had not taken were abandoned.
        assert_eq!(second.join().unwrap().unwrap_err().code(), ErrorCode::OutcomeUnknown);
        other.execute_batch("ROLLBACK").unwrap();
        leader.join().unwrap().unwrap();
        service.runtime.block_on(service.shared.ledger.close(Duration::from_secs(30))).unwrap();
    });
    assert_eq!(service.committed_by(), ["blocking"]);
    let (session, file) = (service.session.clone(), service.folder.path().join("kms.db"));
    drop(session);
    service.runtime.block_on(async {
        let (_shared, session, _) = super::reopen(&file).await;
        // The first verification and the leader's encryption.
        assert_eq!(size(&session).await, before + 2);
    });
}

/// A blocking caller that is interrupted or whose time is over stops at once; the ledger's thread writes its batch.
#[test]
fn an_interrupted_leader_leaves_its_batch_to_the_ledger() {
    let service = Service::open();
    let before = service.size();
    let other = service.lock();
    let writes = service.faults.writes.load(Ordering::SeqCst);
    std::thread::scope(|scope| {
        let leader = on_thread(scope, "blocking", || {
            let context = Context::new();
            let (mut operation, mut leader) = (pin!(service.session.encrypt("k", b"x", &context)), Leader::default());
            service.runtime.block_on(async {
                let mut polls = 0;
                // Stops once it leads and waits for the lock.
                let polling = poll_fn(|context| {
                    polls += 1;
                    match leader.poll(operation.as_mut(), context) {
                        Poll::Pending if polls < 3 => Poll::Pending,
                        polled => Poll::Ready(polled.is_ready()),
                    }
                });
                assert!(!polling.await, "the store is locked");
            });
        });
        leader.join().unwrap();
        assert!(service.faults.writes.load(Ordering::SeqCst) > writes, "it has led");
        let second = on_thread(scope, "blocking too", || {
            service.run(service.session.encrypt("k", b"x", &Context::new())).map(drop)
        });
        wait_until("the second caller waits", || service.shared.ledger.queued() == 1);
        other.execute_batch("ROLLBACK").unwrap();
        second.join().unwrap().unwrap();
    });
    assert_eq!(service.committed_by()[0], "kms-ledger");
    assert_eq!(service.size(), before + 3);
}

/// An operation that submits, and is dropped before its caller could lead, is written.
#[test]
fn what_was_submitted_is_written_without_a_leader() {
    let service = Service::open();
    let before = service.size();
    let context = Context::new();
    {
        let _runtime = service.runtime.enter();
        let (mut operation, mut leader) = (pin!(service.session.encrypt("k", b"x", &context)), Leader::default());
        let mut noop = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(leader.begin(operation.as_mut(), &mut noop).is_pending());
        assert_eq!(service.shared.ledger.queued(), 1);
        assert_eq!(service.committed_by(), [""; 0]);
    }
    // A verification counts what is committed, and the submission is taken out of the queue before.
    service.wait_until_free();
    assert_eq!(service.size(), before + 2);
}

/// Only the submission that causes a failure fails, whoever writes the batch.
#[test]
fn only_the_faulty_submission_of_a_leader_fails() {
    let service = Service::open();
    *service.faults.poison.lock().unwrap() = Some(("k-7".into(), ErrorCode::StoreCorrupt));
    let other = service.lock();
    let create = |n: usize| service.run(service.session.create_key(NewKey::aes(format!("k-{n}")))).map(drop);
    let create = &create;
    std::thread::scope(|scope| {
        let writes = service.faults.writes.load(Ordering::SeqCst);
        let mut threads = vec![on_thread(scope, "blocking", || create(0))];
        // It takes what has been submitted.
        wait_until("the leader begins", || service.faults.writes.load(Ordering::SeqCst) > writes);
        threads.extend((1..12).map(|n| on_thread(scope, "blocking", move || create(n))));
        wait_until("all callers submit", || service.shared.ledger.queued() == 11);
        other.execute_batch("ROLLBACK").unwrap();
        for (n, thread) in threads.into_iter().enumerate() {
            match thread.join().unwrap() {
                Ok(()) => assert_ne!(n, 7),
                Err(error) => assert_eq!((n, error.code()), (7, ErrorCode::StoreCorrupt)),
            }
        }
    });
}
