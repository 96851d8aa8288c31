//! Unit tests of `src/request/response_memory.rs`.

use super::*;
use crate::request::memory::Kept;
use axum::http::HeaderMap;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use std::sync::atomic::{AtomicUsize, Ordering};

const PIECE: usize = 64 * 1024;

fn context(room: Option<Room>) -> RequestContext {
    RequestContext { room, ..RequestContext::alone(&HeaderMap::new(), Arc::default()) }
}

/// A response with a body of this many bytes to an HTTP/1.1 caller.
fn answer(memory: &Arc<RequestMemory>, caller: &str, bytes: usize, is_list: bool) -> Result<Response, ApiError> {
    let response = Response::new(Body::from(vec![b'x'; bytes]));
    hold(response, None, memory, &Owner::principal(caller), &context(None), is_list)
}

#[test]
fn a_large_response_counts_until_it_is_sent() {
    let memory = Arc::new(RequestMemory::new(800_000));
    let mut first = answer(&memory, "slow", 300_000, true).expect("room");
    assert_eq!(first.body().size_hint().exact(), Some(300_000));
    assert!(answer(&memory, "slow", 300_000, true).is_err(), "one principal got all memory");
    let second = answer(&memory, "other", 300_000, true).expect("room for another");
    assert_eq!(memory.free(), 200_000);
    let done = answer(&memory, "slow", 150_000, false).expect("the response after a completed change");
    assert_eq!(memory.free(), 50_000, "the response does not count");
    let sent = Arc::new(AtomicUsize::new(0));
    let room = first.extensions_mut().remove::<Room>().expect("room");
    let counter = Arc::clone(&sent);
    let taken: Taken = Arc::new(move |bytes| {
        counter.fetch_add(bytes, Ordering::Relaxed);
    });
    let mut first = guard(first, room, PIECE, taken);
    let piece = first.body_mut().frame().now_or_never().expect("at once").expect("a piece").expect("good");
    let piece = piece.into_data().expect("data");
    assert_eq!(piece.len(), PIECE);
    assert_eq!(first.body().size_hint().exact(), Some(300_000 - PIECE as u64));
    let rest = first.into_body().collect().now_or_never().expect("at once").expect("good").to_bytes();
    assert_eq!(rest.len(), 300_000 - PIECE);
    drop((second, rest, done));
    assert!(memory.free() < 800_000, "a piece that is not sent yet does not count");
    assert_eq!(sent.load(Ordering::Relaxed), 300_000 - PIECE);
    drop(piece);
    assert_eq!((memory.free(), sent.load(Ordering::Relaxed)), (800_000, 300_000));
}

#[test]
fn a_small_response_counts_in_the_room_of_its_request() {
    let memory = Arc::new(RequestMemory::new(100_000));
    let free = answer(&memory, "a", 1_000, true).expect("no room needed");
    assert_eq!(memory.free(), 100_000);
    let owner = Owner::principal("a");
    let room = memory.room(owner.clone(), STREAM + 20_000, Arc::new(Kept)).expect("room");
    let small = Response::new(Body::from(vec![b'x'; 1_000]));
    let counted = hold(small, Some(room.clone()), &memory, &owner, &context(Some(room)), true).expect("room");
    assert_eq!(memory.free(), 100_000 - STREAM - 1_000, "the request's body still counts");
    drop((free, counted));
    assert_eq!(memory.free(), 100_000);
}
