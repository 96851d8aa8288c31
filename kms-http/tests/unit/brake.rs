//! Unit tests of `src/auth/brake.rs`.

use super::*;

fn network(n: u8) -> Owner {
    Owner::at(Some([192, 0, 2, n].into()))
}

#[test]
fn each_network_has_its_own_limit() {
    let brake = Brake::new(1);
    let brake = &brake.cheap;
    assert!((0..BURST.as_secs()).all(|_| brake.count(&network(1)).is_ok()));
    let refused = brake.count(&network(1)).expect_err("beyond its limit");
    assert_eq!((refused.code, refused.status.as_u16()), ("RateLimited", 429));
    assert!(refused.retry_after.is_some_and(|seconds| seconds >= 1));
    assert!(brake.count(&network(2)).is_ok());
    let none = Brake::new(0);
    assert!((0..1_000).all(|_| none.cheap.count(&network(1)).is_ok()));
}

#[test]
fn refunds_and_other_kinds_of_failures_do_not_count() {
    let brake = Brake::new(1);
    while brake.cheap.count(&network(1)).is_ok() {}
    for _ in 0..100 {
        brake.signatures.count(&network(1)).expect("within the limit");
        brake.signatures.take_back(&network(1));
    }
    assert!((0..BURST.as_secs()).all(|_| brake.signatures.count(&network(1)).is_ok()));
    assert!(brake.signatures.count(&network(1)).is_err());
}

#[test]
fn networks_without_recent_failures_are_forgotten() {
    let failures = Failures::new(1_000_000_000);
    assert!((0..3 * SWEEP as u32).all(|n| failures.count(&Owner::at(Some(std::net::IpAddr::V4(n.into())))).is_ok()));
    assert!(failures.state.lock().expect("not poisoned").until.len() <= SWEEP);
}
