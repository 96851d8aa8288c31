//! Unit tests of `src/request/memory.rs`.

use super::*;

const MIB: usize = 1024 * 1024;

/// Counts evictions.
#[derive(Default)]
struct Ended(AtomicUsize);

impl Evict for Ended {
    fn evict(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn principal(name: &str) -> Owner {
    Owner::principal(name)
}

fn network(n: u8) -> Owner {
    Owner::at(Some([192, 0, 2, n].into()))
}

fn take(memory: &Arc<RequestMemory>, owner: Owner, bytes: usize) -> Result<Room, ApiError> {
    memory.room(owner, bytes, Arc::new(Kept))
}

/// A reservation that waits for its caller.
fn waiting(memory: &Arc<RequestMemory>, owner: Owner, bytes: usize) -> (Room, Arc<Ended>) {
    let ended = Arc::<Ended>::default();
    let room = memory.room(owner, bytes, Arc::<Ended>::clone(&ended)).expect("room");
    room.set_waiting(true);
    (room, ended)
}

fn is_ended((_, ended): &(Room, Arc<Ended>)) -> bool {
    ended.0.load(Ordering::Relaxed) > 0
}

fn is_own(refused: Result<Room, ApiError>) -> bool {
    refused.err().expect("refused").code == "CallerOverloaded"
}

#[test]
fn one_owner_gets_at_most_half_and_small_rooms_fit() {
    let memory = Arc::new(RequestMemory::new(64 * MIB));
    let mut held: Vec<Room> = (0..32).map(|_| take(&memory, principal("flood"), MIB).expect("room")).collect();
    assert!(is_own(take(&memory, principal("flood"), 1)), "one owner got more than half");
    held.extend((0..16).map(|_| take(&memory, network(1), MIB).expect("room")));
    assert!(is_own(take(&memory, network(1), 1)));
    held.extend((0..8).map(|n| take(&memory, principal(&format!("p{n}")), MIB).expect("room")));
    assert!(!is_own(take(&memory, principal("late"), MIB)), "an eighth is kept for small rooms");
    held.push(take(&memory, principal("late"), 60_000).expect("room"));
    drop(held);
    assert_eq!(memory.free(), 64 * MIB);
    assert!(memory.state().held.is_empty());
}

#[test]
fn a_room_changes_its_size_and_its_owner() {
    let memory = Arc::new(RequestMemory::new(1_000));
    let room = take(&memory, network(1), 100).expect("room");
    room.grow(50).expect("room");
    room.resize(20).expect("less");
    assert_eq!((room.bytes(), memory.free()), (20, 980));
    room.resize(400).expect("more");
    room.move_to(&principal("a")).expect("room for a");
    assert!(room.grow(400).is_err(), "a got more than half");
    assert_eq!((room.bytes(), memory.free()), (400, 600));
    let same = room.clone();
    drop(room);
    assert_eq!(memory.free(), 600);
    drop(same);
    assert_eq!(memory.free(), 1_000);
    assert!(memory.state().held.is_empty());
}

#[test]
fn a_room_whose_move_fails_keeps_its_owner() {
    let memory = Arc::new(RequestMemory::new(1_000));
    let _other = take(&memory, principal("a"), 400).expect("room");
    let room = take(&memory, network(1), 300).expect("room");
    room.set_waiting(true);
    assert!(room.move_to(&principal("a")).is_err());
    assert_eq!((room.bytes(), memory.free()), (300, 300));
    drop(room);
    assert_eq!(memory.free(), 600);
    assert_eq!(memory.state().held.len(), 1);
}

#[test]
fn a_newcomer_evicts_the_longest_wait_of_the_largest_owner() {
    let memory = Arc::new(RequestMemory::new(1_000));
    // Many owners, each within its share, use all memory.
    let greedy: Vec<_> = (0..5).map(|_| waiting(&memory, network(1), 100)).collect();
    let less: Vec<_> = (2..10).map(|n| waiting(&memory, network(n), if n == 2 { 250 } else { 31 })).collect();
    assert!(memory.free() < 40);
    let newcomer = take(&memory, network(20), 100).expect("room is made");
    assert_eq!(greedy.iter().map(is_ended).collect::<Vec<_>>(), [true, false, false, false, false]);
    assert!(!less.iter().any(is_ended));
    assert_eq!(greedy[0].0.bytes(), 0);
    assert!(greedy[0].0.grow(1).is_err(), "an evicted room can grow");
    // A principal gets memory too, and rooms of requests in process are not evicted.
    greedy[1].0.set_waiting(false);
    let known = take(&memory, principal("a"), 100).expect("room is made");
    assert_eq!(greedy.iter().map(is_ended).collect::<Vec<_>>(), [true, false, true, true, false]);
    assert!(memory.free() >= 1_000 / UNKNOWN, "nothing is left for unknown callers");
    drop((greedy, less, newcomer, known));
    assert_eq!(memory.free(), 1_000);
    assert!(memory.state().held.is_empty());
}

#[test]
fn a_network_evicts_its_own_oldest_room_and_a_principal_is_refused() {
    let memory = Arc::new(RequestMemory::new(1_000));
    let own: Vec<_> = (0..5).map(|_| waiting(&memory, network(1), 100)).collect();
    assert!(is_own(take(&memory, network(1), 100)), "a room that has just begun was evicted");
    memory.state().waited = OWN_PATIENCE;
    let next = waiting(&memory, network(1), 100);
    assert_eq!(own.iter().map(is_ended).collect::<Vec<_>>(), [true, false, false, false, false]);
    drop((own, next));
    let own: Vec<_> = (0..5).map(|_| waiting(&memory, principal("a"), 100)).collect();
    assert!(is_own(take(&memory, principal("a"), 100)));
    assert!(!own.iter().any(is_ended));
    // A network evicts no room of a known caller.
    let all = (0..4).map(|n| take(&memory, network(n), 100)).collect::<Vec<_>>();
    assert!(take(&memory, network(9), 300).is_err() && !own.iter().any(is_ended));
    drop(all);
    // A response that must be sent may exceed the share.
    let room = memory.empty(principal("a"), Arc::new(Kept));
    room.grow_beyond_share(400).expect("free");
    assert_eq!(memory.free(), 100);
}
