//! Unit tests of `src/request/memory.rs`.

use super::*;

const MIB: usize = 1024 * 1024;

fn is_own(refused: Result<Room, ApiError>) -> bool {
    refused.err().expect("refused").code == "CallerOverloaded"
}

#[test]
fn one_owner_never_has_all_and_small_rooms_always_fit() {
    let memory = Arc::new(RequestMemory::new(64 * MIB));
    let mut held: Vec<Room> = (0..32).map(|_| memory.room("flood", MIB).expect("room")).collect();
    assert!(is_own(memory.room("flood", 1)), "half of it is the most");
    // What nobody owns yet is no more than one more owner.
    held.extend((0..16).map(|_| memory.room_for_unknown(MIB).expect("room")));
    assert!(is_own(memory.room_for_unknown(1)));
    held.extend((0..8).map(|n| memory.room(&format!("p{n}"), MIB).expect("room")));
    assert!(!is_own(memory.room("late", MIB)), "an eighth is left to small ones");
    held.push(memory.room("late", 60_000).expect("room"));
    drop(held);
    assert_eq!(memory.free(), 64 * MIB);
    assert!(memory.state().held.is_empty());
}

#[test]
fn a_room_changes_its_size_and_its_owner() {
    let memory = Arc::new(RequestMemory::new(1_000));
    let room = memory.room_for_unknown(100).expect("room");
    room.grow(50).expect("room");
    room.resize(20).expect("less");
    assert_eq!((room.bytes(), memory.free()), (20, 980));
    room.resize(400).expect("more");
    room.move_to("a").expect("as much for a");
    assert!(room.grow(400).is_err(), "more than is free with what a has");
    assert_eq!((room.bytes(), memory.free()), (400, 600));
    let same = room.clone();
    drop(room);
    assert_eq!(memory.free(), 600);
    drop(same);
    assert_eq!(memory.free(), 1_000);
}

#[test]
fn a_room_that_finds_no_place_with_its_owner_holds_nothing() {
    let memory = Arc::new(RequestMemory::new(1_000));
    let _other = memory.room("a", 400).expect("room");
    let room = memory.room_for_unknown(300).expect("room");
    assert!(room.move_to("a").is_err());
    assert_eq!((room.bytes(), memory.free()), (0, 600));
    drop(room);
    assert_eq!(memory.free(), 600);
}
