//! Unit tests of `src/request/greed.rs`.

use super::*;
use std::cell::Cell;

fn network(n: u16) -> Owner {
    let [high, low] = n.to_be_bytes();
    Owner::at(Some([198, 51, high, low].into()))
}

fn networks(many: u16) -> Greed {
    let mut greed = Greed::default();
    (0..many).for_each(|n| greed.change(&network(n), None, Some((0, true, Reverse(u64::from(n))))));
    greed
}

/// Before, each request that found no memory looked at all owners.
#[test]
fn a_search_looks_at_few_owners() {
    let (greed, looked) = (networks(2_000), Cell::new(0));
    let none = greed.greediest(false, |_| {
        looked.set(looked.get() + 1);
        false
    });
    assert!(none.is_none());
    assert_eq!(looked.get(), SEARCHED);
}

#[test]
fn the_greediest_gives_way_first() {
    let mut greed = networks(10);
    let first = |greed: &Greed| greed.greediest(false, |_| true).map(|(_, owner)| owner.clone());
    assert_eq!(first(&greed), Some(network(0)), "the oldest head of those that hold little");
    greed.change(&network(5), Some((0, true, Reverse(5))), Some((70_000, false, Reverse(5))));
    greed.change(&Owner::principal("a"), None, Some((80_000, true, Reverse(20))));
    assert_eq!(first(&greed), Some(network(5)), "the one that holds most");
    assert_eq!(greed.greediest(false, |owner| *owner != network(5)).map(|(_, owner)| owner), Some(&network(0)));
    assert!(greed.greediest(true, |_| true).is_some_and(|(_, owner)| owner.is_known()));
    greed.change(&network(5), Some((70_000, false, Reverse(5))), None);
    assert_eq!((first(&greed), greed.len()), (Some(network(0)), 10));
}
