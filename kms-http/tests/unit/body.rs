//! Unit tests of `src/request/body.rs`.

use super::*;
use crate::request::memory::Kept;
use bytes::Bytes;
use futures_util::FutureExt;

const LENGTHS: Lengths = Lengths { limit: 20_000, expected: 20_000, claimed: 0 };

fn bodies(total: usize) -> Bodies {
    Bodies::new(Arc::new(RequestMemory::new(total)), Duration::from_secs(1), Duration::from_secs(60))
}

fn room(bodies: &Bodies, principal: &str) -> Room {
    bodies.memory.empty(Owner::principal(principal), Arc::new(Kept))
}

fn read(bodies: &Bodies, principal: &str, bytes: usize) -> Result<(Whole, Room), ApiError> {
    let (room, body) = (room(bodies, principal), Body::from(vec![b'x'; bytes]));
    let whole = collect(&room, body, LENGTHS).now_or_never().expect("a body in memory")?;
    Ok((whole, room))
}

#[test]
fn a_body_of_many_frames_is_complete() {
    let memory = bodies(60_000);
    let frames: Vec<Result<Bytes, std::io::Error>> = (0..100).map(|n| Ok(Bytes::from(vec![n; 150]))).collect();
    let (room, body) = (room(&memory, "a"), Body::from_stream(futures_util::stream::iter(frames)));
    let whole = collect(&room, body, LENGTHS).now_or_never().expect("in memory").expect("room");
    assert!(whole.len() == 15_000 && whole.iter().enumerate().all(|(n, byte)| usize::from(*byte) == n / 150));
    assert_eq!(room.bytes(), whole.capacity(), "the collected body does not count");
}

#[test]
fn one_principal_never_gets_all_memory() {
    let memory = bodies(60_000);
    let first = read(&memory, "flood", 20_000).expect("room");
    assert!(read(&memory, "flood", 20_000).is_ok(), "the memory was not released");
    let second = read(&memory, "flood", 10_000).expect("as much memory is free as the principal holds");
    assert!(read(&memory, "flood", 1).is_err(), "the principal got memory that is kept for others");
    let other = read(&memory, "other", 15_000).expect("room for another principal");
    drop((first, second, other));
    assert_eq!(memory.memory.free(), 60_000);
    assert!(read(&memory, "a", 20_001).is_err(), "the body exceeds the limit");
}

#[tokio::test]
async fn a_body_counts_from_its_first_byte() {
    let memory = bodies(60_000);
    let context = RequestContext::alone(&HeaderMap::new(), Arc::default());
    let (headers, a) = (HeaderMap::new(), Owner::principal("a"));
    let (_, room) = memory.read(&context, &a, &headers, Body::from("x"), 100).await.expect("room");
    assert_eq!(room.map(|room| room.bytes()), Some(1));
    let (_, none) = memory.read(&context, &a, &headers, Body::empty(), 100).await.expect("nothing");
    assert!(none.is_none());
    let own = memory.memory.room(a.clone(), 100, Arc::new(Kept)).expect("room");
    let context = RequestContext { room: Some(own), ..context };
    let (_, room) = memory.read(&context, &a, &headers, Body::from("0123456789"), 100).await.expect("room");
    assert_eq!(room.map(|room| room.bytes()), Some(110));
}

/// Before, a request could be refused or not, depending on how its bytes arrived.
#[tokio::test]
async fn a_body_of_a_known_length_takes_as_much_memory_however_it_arrives() {
    let memory = bodies(60_000);
    let context = RequestContext::alone(&HeaderMap::new(), Arc::default());
    let a = Owner::principal("a");
    let headers: HeaderMap = [(CONTENT_LENGTH, 15_000.into())].into_iter().collect();
    for frame in [150, 4_000, 9_000, 15_000] {
        let bytes = Bytes::from(vec![b'x'; 15_000]);
        let frames: Vec<_> = bytes.chunks(frame).map(|part| Ok::<_, std::io::Error>(bytes.slice_ref(part))).collect();
        let body = Body::from_stream(futures_util::stream::iter(frames));
        let (whole, room) = memory.read(&context, &a, &headers, body, 20_000).await.expect("room");
        assert_eq!((whole.len(), room.map(|room| room.bytes())), (15_000, Some(15_000)), "in frames of {frame} bytes");
    }
}

#[tokio::test]
async fn the_timeout_of_a_body_begins_with_the_head() {
    let hour = Duration::from_secs(3_600);
    let memory = Bodies::new(Arc::new(RequestMemory::new(60_000)), hour, 2 * hour);
    let mut context = RequestContext::alone(&HeaderMap::new(), Arc::default());
    context.started = context.started.checked_sub(hour).expect("an hour ago");
    let endless = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
    let (headers, a) = (HeaderMap::new(), Owner::principal("a"));
    let reading = memory.read(&context, &a, &headers, endless, 100);
    let read = tokio::time::timeout(Duration::from_secs(60), reading).await.expect("the body timed out");
    assert_eq!(read.err().expect("too slow").code, "RequestTimeout");
}

/// Each of several bodies has room, but not all of them at once.
#[tokio::test]
async fn bodies_of_one_caller_wait_for_each_other() {
    let memory = Arc::new(bodies(100_000));
    let read = |memory: Arc<Bodies>| async move {
        let context = RequestContext::alone(&HeaderMap::new(), Arc::default());
        let headers: HeaderMap = [(CONTENT_LENGTH, 30_000.into())].into_iter().collect();
        let body = Body::from(vec![b'x'; 30_000]);
        let read = memory.read(&context, &Owner::principal("a"), &headers, body, 40_000).await;
        // The memory is in use for a while.
        tokio::time::sleep(Duration::from_millis(5)).await;
        read.map(|(whole, _room)| whole.len())
    };
    let all: Vec<_> = (0..20).map(|_| tokio::spawn(read(Arc::clone(&memory)))).collect();
    for one in all {
        assert_eq!(one.await.expect("a task").expect("room"), 30_000);
    }
    assert_eq!(memory.memory.free(), 100_000);
}

#[tokio::test]
async fn few_bodies_of_a_connection_wait() {
    let memory = bodies(100_000);
    let _held = memory.memory.room(Owner::principal("a"), 40_000, Arc::new(Kept)).expect("room");
    let context = RequestContext::alone(&HeaderMap::new(), Arc::default());
    let headers: HeaderMap = [(CONTENT_LENGTH, 65_536.into())].into_iter().collect();
    let a = Owner::principal("a");
    let read = || Box::pin(memory.read(&context, &a, &headers, Body::from("x"), 70_000));
    let mut waiting = [read(), read()];
    for one in &mut waiting {
        assert!(one.now_or_never().is_none(), "it does not wait");
    }
    let refused = read().await.err().expect("the window of the connection is used up");
    assert_eq!(refused.code, "CallerOverloaded");
}
