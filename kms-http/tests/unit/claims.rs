//! Unit tests of `src/request/claims.rs`.

use super::*;

fn owner(name: &str) -> Owner {
    Owner::principal(name)
}

fn claims(of: &[(&str, Rank, usize)]) -> (Claims<usize>, Vec<u64>) {
    let mut claims = Claims::default();
    let ids = of.iter().enumerate().map(|(n, (name, rank, more))| claims.join(&owner(name), *rank, (*more, 0), n));
    let ids = ids.collect();
    (claims, ids)
}

#[test]
fn owners_take_turns_and_each_keeps_its_order() {
    let waiting = [("a", Rank::Large, 1), ("a", Rank::Large, 1), ("b", Rank::Large, 1), ("a", Rank::Large, 1)];
    let (mut claims, ids) = claims(&waiting);
    let mut order = Vec::new();
    while let Some(place) = claims.next(|_, _| true) {
        order.push(place);
        claims.leave(&owner(waiting[place].0), ids[place]);
    }
    assert_eq!(order, [0, 2, 1, 3]);
    assert!(claims.lines.is_empty() && claims.turns.is_empty());
}

#[test]
fn who_does_not_fit_does_not_keep_out_other_owners() {
    let (mut claims, _) = claims(&[("a", Rank::Large, 9), ("a", Rank::Large, 1), ("b", Rank::Large, 1)]);
    assert_eq!(claims.next(|_, claim| claim.more < 5), Some(2), "of one owner, the first comes first");
    assert_eq!(claims.next(|_, claim| claim.more > 5), Some(0));
    assert_eq!(claims.next(|_, _| false), None);
}

#[test]
fn responses_come_first_and_then_small_bodies() {
    let waiting = [("a", Rank::Large, 1), ("a", Rank::Small, 1), ("a", Rank::Response, 9)];
    let (mut claims, ids) = claims(&waiting);
    let a = owner("a");
    let first = |claims: &Claims<usize>| ids.iter().map(|id| claims.is_first(&a, *id)).collect::<Vec<_>>();
    assert_eq!(first(&claims), [false, true, true], "a large body might take what the response needs");
    assert!(claims.has_before(&a, Rank::Large) && claims.has_before(&a, Rank::Response));
    assert!(!claims.has_before(&a, Rank::Small) && !claims.has_before(&owner("b"), Rank::Large));
    assert_eq!(claims.next(|_, claim| claim.more < 5), Some(1), "it does not wait for the response");
    claims.leave(&a, ids[2]);
    assert_eq!(first(&claims), [true, true, false]);
    claims.leave(&a, ids[1]);
    assert_eq!(claims.next(|_, _| true), Some(0));
}
