//! Unit tests of `src/request/fair_queue.rs`.

use super::*;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

fn waiting(gate: &Arc<FairQueue>, principal: &'static str) -> BoxFuture<'static, Result<Pass, Full>> {
    let gate = Arc::clone(gate);
    let mut entering = async move { gate.enter(principal).await }.boxed();
    assert!((&mut entering).now_or_never().is_none(), "{principal} has to wait");
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
fn a_full_line_makes_room_for_who_has_less() {
    let gate = Arc::new(FairQueue::new(1, 3));
    let _first = gate.enter("flood").now_or_never().expect("at once").expect("let in");
    let mut flood: Vec<_> = (0..3).map(|_| waiting(&gate, "flood")).collect();
    assert_eq!(gate.enter("flood").now_or_never().expect("at once").err(), Some(Full::Caller));
    let _other = waiting(&gate, "other");
    assert_eq!((&mut flood[2]).now_or_never().expect("sent away").err(), Some(Full::Caller));
    assert_eq!(gate.load(), (1, 3));
    // With one of each waiting, nobody has more than others.
    let _third = waiting(&gate, "third");
    assert_eq!(gate.enter("fourth").now_or_never().expect("at once").err(), Some(Full::Everyone));
}

#[test]
fn who_goes_away_leaves_no_hole() {
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
fn those_who_have_gone_away_keep_nobody_out() {
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
