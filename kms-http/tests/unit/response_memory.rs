//! Unit tests of `src/request/response_memory.rs`.

use super::*;
use futures_util::FutureExt;
use http_body_util::BodyExt;

#[test]
fn a_large_answer_has_room_until_it_is_taken() {
    let memory = Arc::new(RequestMemory::new(800_000));
    let large = || Response::new(Body::from(vec![b'x'; 300_000]));
    let mut first = hold(large(), None, &memory, "slow", true).expect("room");
    assert_eq!(first.body().size_hint().exact(), Some(300_000));
    assert!(hold(large(), None, &memory, "slow", true).is_err(), "one principal does not get all");
    assert!(hold(large(), None, &memory, "slow", false).is_ok(), "what was done is answered");
    let second = hold(large(), None, &memory, "other", true).expect("room for another");
    let piece = first.body_mut().frame().now_or_never().expect("at once").expect("a piece").expect("good");
    let piece = piece.into_data().expect("data");
    assert_eq!(piece.len(), PIECE);
    assert_eq!(first.body().size_hint().exact(), Some(300_000 - PIECE as u64));
    let rest = first.into_body().collect().now_or_never().expect("at once").expect("good").to_bytes();
    assert_eq!(rest.len(), 300_000 - PIECE);
    drop((second, rest));
    assert!(memory.free() < 800_000, "a piece that was handed over is not sent yet");
    drop(piece);
    assert_eq!(memory.free(), 800_000);
}

#[test]
fn a_small_answer_counts_where_its_request_did() {
    let memory = Arc::new(RequestMemory::new(100_000));
    let small = || Response::new(Body::from(vec![b'x'; 1_000]));
    let free = hold(small(), None, &memory, "a", true).expect("no room needed");
    assert_eq!(memory.free(), 100_000);
    let room = memory.room("a", STREAM + 20_000).expect("room");
    let counted = hold(small(), Some(room), &memory, "a", true).expect("room");
    assert_eq!(memory.free(), 100_000 - STREAM - 1_000, "its body is gone");
    drop((free, counted));
    assert_eq!(memory.free(), 100_000);
}
