#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use super::*;

/// Keeps a thread busy until the sender is dropped.
fn hold(workers: &Workers, principal: &'static str, length: Length) -> (mpsc::Sender<()>, mpsc::Receiver<()>) {
    let (release, held) = mpsc::channel::<()>();
    let (begun, has_begun) = mpsc::channel();
    let workers = workers.clone();
    let work = move || {
        begun.send(()).unwrap();
        let _ = held.recv();
        Ok(())
    };
    tokio::spawn(async move { workers.run(principal, length, work).await });
    (release, has_begun)
}

#[tokio::test(flavor = "multi_thread")]
async fn principals_take_turns() {
    let workers = Workers::new(2);
    let holds: Vec<_> = (0..2).map(|_| hold(&workers, "greedy", Length::Short)).collect();
    holds.iter().for_each(|(_, begun)| begun.recv_timeout(Duration::from_secs(10)).unwrap());
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for n in 0..20 {
        let principal = if n < 18 { "greedy" } else { "modest" };
        let order = Arc::clone(&order);
        let work = move || {
            order.lock().unwrap().push(principal);
            Ok(())
        };
        let workers = workers.clone();
        tasks.push(tokio::spawn(async move { workers.run(principal, Length::Short, work).await }));
        // So that the tasks are added in this order.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    drop(holds);
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let order = order.lock().unwrap();
    let last = order.iter().rposition(|principal| *principal == "modest").unwrap();
    // On two threads, at most two tasks of the other principal ran before each.
    assert!(last < 8, "{order:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_work_leaves_a_thread_to_short_work() {
    for threads in [2, 4] {
        let workers = Workers::new(threads);
        let holds: Vec<_> = (0..20).map(|_| hold(&workers, "long", Length::Long)).collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let begun = holds.iter().filter(|(_, begun)| begun.try_recv().is_ok()).count();
        assert_eq!(begun, threads - 1);
        let short = workers.run("short", Length::Short, || Ok(1));
        assert_eq!(tokio::time::timeout(Duration::from_secs(10), short).await.unwrap().unwrap(), 1);
        drop(holds);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_threads_work_than_there_may_be_and_all_work_is_done() {
    let workers = Workers::new(3);
    let (at_once, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let tasks: Vec<_> = (0..500)
        .map(|n| {
            let (workers, at_once, most) = (workers.clone(), Arc::clone(&at_once), Arc::clone(&most));
            let length = if n % 3 == 0 { Length::Long } else { Length::Short };
            tokio::spawn(async move {
                let work = move || {
                    most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_micros(100));
                    at_once.fetch_sub(1, Ordering::SeqCst);
                    Ok(n)
                };
                workers.run(&format!("principal-{}", n % 7), length, work).await
            })
        })
        .collect();
    for (n, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap().unwrap(), n);
    }
    assert!(most.load(Ordering::SeqCst) <= 3);
    let state = workers.0.state();
    assert!(state.running_long == 0 && state.short.waiting.is_empty() && state.long.waiting.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_an_error_of_its_caller_alone() {
    let workers = Workers::new(2);
    for _ in 0..5 {
        let work = || -> Result<()> { panic!("meant") };
        assert_eq!(workers.run("a", Length::Long, work).await.unwrap_err().code(), ErrorCode::Internal);
    }
    assert_eq!(workers.run("a", Length::Long, || Ok(2)).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_nobody_waits_for_is_not_begun() {
    let workers = Workers::new(2);
    let holds: Vec<_> = (0..2).map(|_| hold(&workers, "greedy", Length::Short)).collect();
    holds.iter().for_each(|(_, begun)| begun.recv_timeout(Duration::from_secs(10)).unwrap());
    let is_begun = Arc::new(AtomicUsize::new(0));
    let given_up = {
        let is_begun = Arc::clone(&is_begun);
        workers.run("gone", Length::Short, move || Ok(is_begun.fetch_add(1, Ordering::SeqCst)))
    };
    assert!(tokio::time::timeout(Duration::from_millis(20), given_up).await.is_err());
    drop(holds);
    workers.run("gone", Length::Short, || Ok(())).await.unwrap();
    assert_eq!(is_begun.load(Ordering::SeqCst), 0);
}
