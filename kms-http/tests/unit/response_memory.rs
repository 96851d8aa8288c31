//! Unit tests of `src/request/response_memory.rs`.

use super::*;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use std::time::Duration;

#[test]
fn a_large_answer_has_room_until_it_is_taken() {
    let memory = Arc::new(BodyMemory::new(800_000, Duration::from_secs(1)));
    let large = || Response::new(Body::from(vec![b'x'; 300_000]));
    let mut first = hold(large(), None, &memory, "slow", true).expect("room");
    assert_eq!(first.body().size_hint().exact(), Some(300_000));
    assert!(hold(large(), None, &memory, "slow", true).is_err(), "one principal does not get all");
    assert!(hold(large(), None, &memory, "slow", false).is_ok(), "what was done is answered");
    let second = hold(large(), None, &memory, "other", true).expect("room for another");
    let piece = first.body_mut().frame().now_or_never().expect("at once").expect("a piece").expect("good");
    assert_eq!(piece.into_data().expect("data").len(), PIECE);
    assert_eq!(first.body().size_hint().exact(), Some(300_000 - PIECE as u64));
    let rest = first.into_body().collect().now_or_never().expect("at once").expect("good").to_bytes();
    assert_eq!(rest.len(), 300_000 - PIECE);
    drop(second);
    assert_eq!(memory.free(), 800_000);
}
