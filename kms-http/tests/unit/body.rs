//! Unit tests of `src/request/body.rs`.

use super::*;
use bytes::Bytes;
use futures_util::FutureExt;

fn read(memory: &Arc<BodyMemory>, principal: &str, bytes: usize) -> Result<(Whole, Option<Room>), ApiError> {
    let body = Body::from(vec![b'x'; bytes]);
    memory.collect(principal, body, 20_000).now_or_never().expect("a body in memory")
}

#[test]
fn bodies_of_many_frames_are_whole() {
    let memory = Arc::new(BodyMemory::new(60_000, Duration::from_secs(1)));
    let frames: Vec<Result<Bytes, std::io::Error>> = (0..100).map(|n| Ok(Bytes::from(vec![n; 150]))).collect();
    let body = Body::from_stream(futures_util::stream::iter(frames));
    let (whole, room) = memory.collect("a", body, 20_000).now_or_never().expect("in memory").expect("room");
    assert!(whole.len() == 15_000 && whole.iter().enumerate().all(|(n, byte)| usize::from(*byte) == n / 150));
    assert_eq!(room.map(|room| room.bytes), Some(15_000));
}

#[test]
fn one_principal_never_has_all_the_room() {
    let memory = Arc::new(BodyMemory::new(60_000, Duration::from_secs(1)));
    let first = read(&memory, "flood", 20_000).expect("room");
    assert!(read(&memory, "flood", 20_000).is_ok(), "it is given back");
    let second = read(&memory, "flood", 20_000).expect("as much is left as it holds then");
    assert!(read(&memory, "flood", 20_000).is_err(), "the rest is for others");
    let other = read(&memory, "other", 20_000).expect("room for another");
    drop((first, second, other));
    assert_eq!(memory.state().free, 60_000);
    assert!(memory.state().held.is_empty());
    assert!(read(&memory, "a", 20_001).is_err(), "over the limit of one body");
}
