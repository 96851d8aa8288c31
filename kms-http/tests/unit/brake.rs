//! Unit tests of `src/auth/brake.rs`.

use super::*;

fn network(n: u8) -> Owner {
    Owner::at(Some([192, 0, 2, n].into()))
}

#[test]
fn a_network_has_its_limit_and_others_theirs() {
    let brake = Brake::new(1);
    let good = (0..BURST).filter(|_| brake.count(&network(1)).is_ok()).count();
    assert_eq!(good, BURST as usize);
    let refused = brake.count(&network(1)).expect_err("beyond its limit");
    assert_eq!((refused.code, refused.status.as_u16()), ("RateLimited", 429));
    assert!(refused.retry_after.is_some_and(|seconds| seconds >= 1));
    assert!(brake.count(&network(2)).is_ok());
    let none = Brake::new(0);
    assert!((0..1_000).all(|_| none.count(&network(1)).is_ok()));
}

#[test]
fn good_credentials_are_remembered_within_bounds() {
    let brake = Brake::new(1);
    brake.remember("good");
    assert!(brake.is_known("good") && !brake.is_known("bad"));
    (0..KNOWN).for_each(|n| brake.remember(&n.to_string()));
    assert!(brake.is_known("good"), "a generation longer");
    (0..2 * KNOWN).for_each(|n| brake.remember(&format!("other {n}")));
    assert!(!brake.is_known("good"));
    let known = brake.known.lock().expect("not poisoned");
    assert!(known.newer.len() + known.older.len() <= 2 * KNOWN + 2);
}
