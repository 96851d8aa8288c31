//! Unit tests of `src/request/fair_queue.rs`.

use super::*;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

fn waiting(gate: &Arc<FairQueue>, principal: &'static str) -> BoxFuture<'static, Result<Pass, Full>> {
    let gate = Arc::clone(gate);
    let mut entering = async move { gate.enter(principal).await }.boxed();
    assert!((&mut entering).now_or_never().is_none(), "{principal} did not have to wait");
    entering
}

#[test]
fn principals_take_turns() {
    let gate = Arc::new(FairQueue::new(1, 10));
    let first = gate.enter("flood").now_or_never().expect("at once").expect("let in");
    let mut flood: Vec<_> = (0..3).map(|_| waiting(&gate, "flood")).collect();
    let mut other = waiting(&gate, "other");
    drop(first);
    let second = (&mut flood[0]).now_or_never().expect("its turn").expect("let in");
    assert!((&mut other).now_or_never().is_none());
    drop(second);
    let third = (&mut other).now_or_never().expect("its turn").expect("let in");
    assert!((&mut flood[1]).now_or_never().is_none());
    drop(third);
    assert!((&mut flood[1]).now_or_never().is_some());
}

#[test]
fn a_full_queue_evicts_from_the_principal_with_most() {
    let gate = Arc::new(FairQueue::new(1, 3));
    let _first = gate.enter("flood").now_or_never().expect("at once").expect("let in");
    let mut flood: Vec<_> = (0..3).map(|_| waiting(&gate, "flood")).collect();
    assert_eq!(gate.enter("flood").now_or_never().expect("at once").err(), Some(Full::Caller));
    let _other = waiting(&gate, "other");
    assert_eq!((&mut flood[2]).now_or_never().expect("sent away").err(), Some(Full::Caller));
    assert_eq!(gate.load(), (1, 3));
    // One request of each principal waits, so no principal has more than the others.
    let _third = waiting(&gate, "third");
    assert_eq!(gate.enter("fourth").now_or_never().expect("at once").err(), Some(Full::Everyone));
}

#[test]
fn a_cancelled_request_leaves_the_queue() {
    let gate = Arc::new(FairQueue::new(1, 10));
    let first = gate.enter("a").now_or_never().expect("at once").expect("let in");
    drop(waiting(&gate, "b"));
    let mut third = waiting(&gate, "c");
    drop(first);
    let pass = (&mut third).now_or_never().expect("its turn").expect("let in");
    assert_eq!(gate.load(), (1, 0));
    drop(pass);
    assert_eq!(gate.load(), (0, 0));
}

#[test]
fn cancelled_requests_delay_no_other_request() {
    let gate = Arc::new(FairQueue::new(1, 3));
    let first = gate.enter("a").now_or_never().expect("at once").expect("let in");
    let mut stays = waiting(&gate, "b");
    for _ in 0..2 {
        drop(waiting(&gate, "b"));
    }
    let mut others: Vec<_> = ["c", "d"].map(|name| waiting(&gate, name)).into();
    assert_eq!(gate.load(), (1, 3));
    drop(first);
    let pass = (&mut stays).now_or_never().expect("its turn").expect("let in");
    drop(pass);
    let pass = (&mut others[0]).now_or_never().expect("its turn").expect("let in");
    drop(pass);
    assert!((&mut others[1]).now_or_never().is_some());
}

fn let_in(gate: &Arc<FairQueue>, principal: &str) -> Pass {
    gate.enter(principal).now_or_never().expect("at once").expect("let in")
}

#[test]
fn one_principal_leaves_places_for_others() {
    for (places, most) in [(1, 1), (2, 1), (4, 2), (256, 128)] {
        let gate = Arc::new(FairQueue::new(places, 1_000));
        let mut passes: Vec<_> = (0..most).map(|_| let_in(&gate, "flood")).collect();
        let mut flood: Vec<_> = (0..300).map(|_| waiting(&gate, "flood")).collect();
        assert_eq!(gate.load(), (most, 300));
        if places > 1 {
            // Another principal enters at once, although requests of the flood are waiting.
            passes.push(let_in(&gate, "other"));
        }
        drop(passes);
        let passes: Vec<_> = flood.iter_mut().map_while(|next| next.now_or_never()).collect();
        assert_eq!(passes.len(), most, "the flood does not get its bound of places");
    }
}

/// Requests end in a random order. No place may be free while a request that may take it waits.
#[test]
fn no_waiting_request_of_many_principals_is_forgotten() {
    let gate = Arc::new(FairQueue::new(8, 10_000));
    let (mut passes, mut entering) = (Vec::new(), Vec::new());
    for n in 0..2_000_u32 {
        // The first principal sends half of all requests, and a third of all waiting requests are cancelled.
        let principal = if n % 2 == 0 { "0".to_owned() } else { (n % 37).to_string() };
        let gate = Arc::clone(&gate);
        let mut one = async move { gate.enter(&principal).await }.boxed();
        match (&mut one).now_or_never() {
            Some(pass) => passes.push(pass.expect("let in")),
            None if n % 3 == 0 => drop(one),
            None => entering.push(one),
        }
    }
    let mut random = 1_usize;
    while !entering.is_empty() || !passes.is_empty() {
        assert!(!passes.is_empty(), "{} wait while no request is in process", entering.len());
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        drop(passes.swap_remove((random >> 33) % passes.len()));
        entering.retain_mut(|one| match one.now_or_never() {
            Some(pass) => {
                passes.push(pass.expect("let in"));
                false
            }
            None => true,
        });
        let state = gate.state();
        assert!(state.active <= 8 && state.active == state.active_of.values().sum::<usize>());
        assert!(!state.turns.iter().any(|principal| state.may_take(principal, 8)), "a waiting request could enter");
    }
    assert_eq!(gate.load(), (0, 0));
    assert!(gate.state().active_of.is_empty());
}
