//! Unit tests of `src/error/lines.rs`.

use super::*;

#[test]
fn each_kind_has_its_own_limit_and_a_count_of_left_out_lines() {
    let (lines, begun) = (Lines::new(), Instant::now());
    let written = |kind, at: u64| lines.next_at(kind, begun + Duration::from_secs(at));
    assert!((0..LINES).all(|_| written("Timeout", 0) == Some(Line { left_out: None })));
    assert!((0..100).all(|n| written("Timeout", n % 30).is_none()));
    assert_eq!(written("Internal", 1), Some(Line { left_out: None }), "another kind has its own limit");
    assert_eq!(written("Timeout", 31), Some(Line { left_out: Some(100) }));
    assert_eq!(written("Timeout", 31), Some(Line { left_out: None }));
}
