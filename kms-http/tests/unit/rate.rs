//! Unit tests of `src/request/rate.rs`.

use super::*;

#[test]
fn each_principal_has_its_own_rate() {
    let rate = Rate::new(1, 3).expect("a rate");
    assert_eq!((0..3).filter(|_| rate.check("a").is_ok()).count(), 3);
    assert!(rate.check("a").expect_err("too many") >= 1);
    assert!(rate.check("b").is_ok());
    assert!(Rate::new(0, 3).is_none());
}
