//! Unit tests of `src/auth/oidc/verified.rs`.

use super::*;

fn until(end: f64) -> Verified {
    Verified {
        principal: "alice".into(),
        role: Role::App,
        key_id: None,
        algorithm: Algorithm::ES256,
        key: [0; 32],
        times: (None, end),
    }
}

#[test]
fn tokens_are_remembered_within_bounds_and_those_in_use_stay() {
    let tokens = VerifiedTokens::default();
    let later = get_current_timestamp() as f64 + 1_000.0;
    tokens.insert("kept", until(later));
    tokens.insert("unused", until(later));
    for n in 0..4 * REMEMBERED {
        tokens.insert(&n.to_string(), until(later));
        assert!(n % 1_000 > 0 || tokens.find("kept", 0).is_some(), "{n}");
    }
    assert!(tokens.find("unused", 0).is_none());
    let all = tokens.0.lock().expect("not poisoned");
    assert!(all.newer.len() + all.older.len() <= 2 * REMEMBERED);
}

#[test]
fn a_remembered_token_counts_within_its_times() {
    let now = 1_000_000;
    assert!(until(999_990.0).is_in_time(now, 10) && !until(999_989.0).is_in_time(now, 10));
    let from = |begin| Verified { times: (Some(begin), 2_000_000.0), ..until(0.0) };
    assert!(from(1_000_010.0).is_in_time(now, 10) && !from(1_000_011.0).is_in_time(now, 10));
    let tokens = VerifiedTokens::default();
    tokens.insert("over", until(get_current_timestamp() as f64 - 100.0));
    assert!(tokens.find("over", 10).is_none() && tokens.find("over", 1_000).is_some());
}
