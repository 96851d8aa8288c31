//! Unit tests of `src/auth/paced.rs`.

use super::*;

fn network(n: u8) -> Owner {
    Owner::at(Some([192, 0, 2, n].into()))
}

/// However many verifications of one connection wait, another connection of the same network is next but one.
#[tokio::test]
async fn connections_take_turns() {
    let paced = Arc::new(Paced::new());
    let held = paced.slow.enter("first").await.expect("a turn");
    let done = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    for (n, connection) in [1, 1, 1, 1, 2].into_iter().enumerate() {
        let (own, done) = (Arc::clone(&paced), Arc::clone(&done));
        tasks.spawn(async move {
            let note = move || done.lock().expect("not poisoned").push((connection, n));
            own.run(&network(1), connection, Pace::Slow, note).await.expect("a turn");
        });
        // Each waits before the next one comes.
        while paced.slow.load().1 <= n {
            tokio::task::yield_now().await;
        }
    }
    drop(held);
    while tasks.join_next().await.is_some() {}
    let order = done.lock().expect("not poisoned").clone();
    assert_eq!(order.iter().map(|(connection, _)| *connection).collect::<Vec<_>>(), [1, 2, 1, 1, 1]);
}

/// A pause follows each verification, and an interrupted one does not stop the others for long.
#[tokio::test]
async fn verifications_use_a_part_of_the_time() {
    let paced = Paced::new();
    let begun = Instant::now();
    paced.run(&network(1), 1, Pace::Slow, || std::thread::sleep(3 * LONGEST)).await.expect("a turn");
    let next = *paced.next.lock().expect("not poisoned");
    let after = next.duration_since(begun);
    assert!(after >= SHARE * LONGEST, "{after:?}");
    paced.run(&network(1), 1, Pace::Slow, || ()).await.expect("a turn");
    assert!(*paced.next.lock().expect("not poisoned") >= next);
}
