//! Unit tests of `src/request/memory.rs`.

use super::super::accounts::OWN_PATIENCE;
use super::*;
use futures_util::FutureExt;
use std::sync::atomic::AtomicUsize;

const MIB: usize = 1024 * 1024;

/// Counts how often its reservation was evicted.
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
    room.waits(Waits::Response);
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
    room.waits(Waits::Body);
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
    greedy[1].0.stops_waiting();
    let known = take(&memory, principal("a"), 100).expect("room is made");
    assert_eq!(greedy.iter().map(is_ended).collect::<Vec<_>>(), [true, false, true, true, false]);
    assert!(memory.free() >= 1_000 / UNKNOWN, "nothing is left for unknown callers");
    drop((greedy, less, newcomer, known));
    assert_eq!(memory.free(), 1_000);
    assert!(memory.state().held.is_empty());
}

#[test]
fn an_owner_beyond_its_share_loses_what_it_has_not_read_for_a_while() {
    for owner in [network(1), principal("a")] {
        let memory = Arc::new(RequestMemory::new(1_000));
        let own: Vec<_> = (0..5).map(|_| waiting(&memory, owner.clone(), 90)).collect();
        assert!(is_own(take(&memory, owner.clone(), 150)), "they have only just begun");
        memory.state().waited = OWN_PATIENCE;
        let body = take(&memory, owner.clone(), 50).expect("room");
        body.waits(Waits::Body);
        drop(take(&memory, owner.clone(), 150).expect("room is made"));
        assert_eq!(own.iter().map(is_ended).collect::<Vec<_>>(), [true, false, false, false, false]);
        // A response of which a part was read is the last to go.
        own[1].0.waits(Waits::Response);
        drop(take(&memory, owner.clone(), 250).expect("room is made"));
        assert_eq!(own.iter().map(is_ended).collect::<Vec<_>>(), [true, false, true, false, false]);
        assert_eq!(body.bytes(), 50);
    }
}

#[test]
fn a_principal_loses_no_body_to_itself_and_nothing_to_networks() {
    let memory = Arc::new(RequestMemory::new(1_000));
    memory.state().waited = OWN_PATIENCE;
    let own: Vec<_> = (0..5).map(|_| waiting(&memory, principal("a"), 90)).collect();
    own.iter().for_each(|(room, _)| room.waits(Waits::Body));
    assert!(is_own(take(&memory, principal("a"), 150)));
    let all = (0..4).map(|n| take(&memory, network(n), 100)).collect::<Vec<_>>();
    assert!(take(&memory, network(9), 300).is_err() && !own.iter().any(is_ended));
    drop(all);
    // A response that must be sent takes what is free, and leaves some to callers that are not known.
    let room = memory.empty(principal("a"), Arc::new(Kept));
    assert!(room.grow_beyond_share(500).is_err());
    room.grow_beyond_share(480).expect("free");
    assert_eq!(memory.free(), 70);
}

#[test]
fn an_incomplete_head_gives_way_at_once_to_other_requests_of_its_network() {
    let memory = Arc::new(RequestMemory::new(MIB));
    let working = take(&memory, network(1), 56_000).expect("room");
    let heads: Vec<_> = (0..40)
        .map(|_| {
            let head = waiting(&memory, network(1), 56_000);
            head.0.waits_now(Waits::Head);
            head
        })
        .collect();
    let ended = heads.iter().take_while(|head| is_ended(head)).count();
    assert!((25..40).contains(&ended), "{ended}");
    assert!(!heads[ended..].iter().any(is_ended), "the oldest end first");
    // Of another kind, they stay for a while.
    heads.iter().for_each(|(room, _)| room.waits_now(Waits::Body));
    assert!(is_own(take(&memory, network(1), 56_000)));
    heads.iter().for_each(|(room, _)| room.waits_now(Waits::Head));
    let newcomer = take(&memory, network(1), 56_000).expect("a complete head has room");
    assert!(is_ended(&heads[ended]));
    assert_eq!((working.bytes(), newcomer.bytes()), (56_000, 56_000));
}

#[test]
fn of_many_networks_the_head_that_waited_longest_ends() {
    let memory = Arc::new(RequestMemory::new(MIB));
    let heads: Vec<_> = (0..24).map(|n| waiting(&memory, network(n), 40_000)).collect();
    heads.iter().for_each(|(room, _)| room.waits_now(Waits::Head));
    // Larger than the others, but a single one.
    let newcomer = waiting(&memory, network(100), 60_000);
    newcomer.0.waits_now(Waits::Head);
    let next: Vec<_> = (30..40).map(|n| waiting(&memory, network(n), 40_000)).collect();
    assert!(!is_ended(&newcomer));
    assert_eq!(heads.iter().filter(|head| is_ended(head)).count(), 10);
    assert!(heads[..10].iter().all(is_ended) && !next.iter().any(is_ended));
}

#[test]
fn a_network_with_more_than_one_large_head_loses_its_own_first() {
    let memory = Arc::new(RequestMemory::new(MIB));
    let heads: Vec<_> = (0..15).map(|n| waiting(&memory, network(if n < 10 { n } else { 10 }), 40_000)).collect();
    heads.iter().for_each(|(room, _)| room.waits_now(Waits::Head));
    let others: Vec<_> = (20..40).map(|n| waiting(&memory, network(n), 40_000)).collect();
    // The network with five has one left before the others lose any, the oldest of them first.
    assert!(heads[10..14].iter().all(is_ended) && !is_ended(&heads[14]));
    let ended = heads[..10].iter().take_while(|head| is_ended(head)).count();
    assert!((1..10).contains(&ended) && !heads[ended..10].iter().any(is_ended), "{ended}");
    assert!(!others.iter().any(is_ended));
}

#[test]
fn a_single_call_may_exceed_the_share_of_its_caller() {
    let memory = Arc::new(RequestMemory::new(MIB));
    let call = take(&memory, principal("a"), 200_000).expect("room");
    assert!(call.grow(700_000).is_err(), "more than is free with what the caller has");
    assert!(call.could_grow(700_000) && !call.could_grow(800_000), "an eighth is left to small ones");
    call.grow_for_response(700_000).expect("room");
    call.resize(100_000).expect("less");
    let second = take(&memory, principal("a"), 200_000).expect("room");
    take(&memory, principal("b"), 200_000).expect("room").grow_for_response(300_000).expect("room for another");
    second.grow_for_response(500_000).expect("the first call is within the share again");
    assert!(call.grow_for_response(100_000).is_err(), "the caller has another call beyond the share");
}

/// A caller that sends several large calls at once gets one of them served. Before, each was refused because of what
/// the others held, for as long as the caller repeated them.
#[test]
fn of_several_large_calls_of_one_caller_one_may_exceed_its_share() {
    let memory = Arc::new(RequestMemory::new(64 * MIB));
    let bodies: Vec<Room> = (0..2).map(|_| take(&memory, principal("busy"), 15 * MIB).expect("room")).collect();
    bodies[0].grow_for_response(25 * MIB).expect("one call may exceed the share");
    // Only one. The caller itself is the reason, also if more is wanted than is free.
    for more in [3 * MIB, 30 * MIB] {
        let refused = bodies[1].grow_for_response(more).expect_err("only one");
        assert_eq!(refused.code, "CallerOverloaded");
    }
    assert!(is_own(take(&memory, principal("busy"), 1)), "other reservations stay within the share");
    // An eighth is left to small calls of others.
    take(&memory, principal("other"), 60_000).expect("room");
    // When the first call ends, the second has its turn, and nothing is left in the end.
    let mut bodies = bodies.into_iter();
    drop(bodies.next());
    let second = bodies.next().expect("a second call");
    second.grow_for_response(40 * MIB).expect("the turn of the second call");
    second.resize(MIB).expect("less");
    let third = take(&memory, principal("busy"), 30 * MIB).expect("within the share again");
    third.grow_for_response(20 * MIB).expect("the turn of the third call");
    drop((second, third));
    assert_eq!(memory.free(), 64 * MIB);
    assert!(memory.state().held.is_empty());
}

/// An evicted call does not keep the turn to exceed the share.
#[test]
fn an_evicted_call_leaves_the_turn_to_exceed_the_share_to_the_next() {
    let memory = Arc::new(RequestMemory::new(1_000));
    let large = take(&memory, principal("a"), 100).expect("room");
    large.grow_for_response(820).expect("one call may exceed the share");
    large.waits(Waits::Response);
    memory.state().waited = OWN_PATIENCE;
    drop(take(&memory, principal("b"), 400).expect("the response that is not read is evicted"));
    assert_eq!(large.bytes(), 0);
    let next = [take(&memory, principal("a"), 200).expect("room"), take(&memory, principal("a"), 200).expect("room")];
    next[0].grow_for_response(400).expect("the turn is free");
    assert!(next[1].grow_for_response(1).is_err(), "the turn is taken");
    drop((large, next));
    assert_eq!(memory.free(), 1_000);
    assert!(memory.state().held.is_empty());
}

fn in_an_hour() -> Instant {
    Instant::now() + Duration::from_secs(3_600)
}

/// Each of several requests has room, but not all of them at once.
#[tokio::test]
async fn requests_wait_for_memory_and_owners_take_turns() {
    let memory = Arc::new(RequestMemory::new(20 * MIB));
    let mut held = vec![take(&memory, principal("a"), 10 * MIB).expect("room")];
    let empty: Vec<Room> = ["a", "a", "b", "c"].map(|name| memory.empty(principal(name), Arc::new(Kept))).into();
    let claim = |n: usize, name: &str, more| {
        Box::pin({
            let (room, owner) = (empty[n].clone(), principal(name));
            async move { room.claim_for_body(&owner, more, in_an_hour()).await }
        })
    };
    let (mut first, mut second) = (claim(0, "a", 6 * MIB), claim(1, "a", MIB));
    assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
    // Another owner has memory although they wait, and so has a small request of their own.
    claim(2, "b", 2 * MIB).now_or_never().expect("at once").expect("room");
    claim(3, "c", 1_000).now_or_never().expect("at once").expect("room");
    held.clear();
    assert!(second.as_mut().now_or_never().is_none(), "they keep their order");
    first.await.expect("room");
    second.await.expect("room");
    assert_eq!(empty.iter().map(Room::bytes).collect::<Vec<_>>(), [6 * MIB, MIB, 2 * MIB, 1_000]);
    drop(empty);
    assert_eq!(memory.free(), 20 * MIB);
    let state = memory.state();
    assert!(state.held.is_empty() && state.claims.idle == 0);
}

#[tokio::test]
async fn a_request_that_found_no_memory_until_its_end_is_refused() {
    let memory = Arc::new(RequestMemory::new(MIB));
    let _held = take(&memory, principal("a"), MIB / 2).expect("room");
    let own = memory.empty(principal("a"), Arc::new(Kept));
    let refused = own.claim_for_body(&principal("a"), 1_000, Instant::now()).await.expect_err("no room");
    assert_eq!(refused.code, "CallerOverloaded");
    // A request whose caller is gone leaves the others their turn.
    let rooms = [(); 2].map(|()| memory.empty(principal("a"), Arc::new(Kept)));
    let (a, large) = (principal("a"), 200_000);
    let mut gone = Box::pin(rooms[0].claim_for_body(&a, large, in_an_hour()));
    let mut next = Box::pin(rooms[1].claim_for_body(&a, large, in_an_hour()));
    assert!(gone.as_mut().now_or_never().is_none() && next.as_mut().now_or_never().is_none());
    drop(_held);
    drop(gone);
    next.await.expect("room");
}

#[tokio::test]
async fn a_request_that_waits_for_memory_hears_of_its_eviction() {
    let memory = Arc::new(RequestMemory::new(MIB));
    let _held = take(&memory, principal("a"), MIB / 2).expect("room");
    let ended = Arc::<Ended>::default();
    let heads: Vec<Room> =
        (0..40).map_while(|_| memory.room(network(1), 60_000, Arc::<Ended>::clone(&ended)).ok()).collect();
    let a = principal("a");
    let mut waiting: Vec<_> =
        heads.iter().map(|head| Box::pin(head.claim_for_body(&a, 100_000, in_an_hour()))).collect();
    assert!(waiting.iter_mut().all(|one| one.as_mut().now_or_never().is_none()));
    drop(take(&memory, network(1), 60_000).expect("other requests of the network take precedence"));
    let told: Vec<_> = waiting.iter_mut().filter_map(|one| one.as_mut().now_or_never()).collect();
    assert!(told.len() == 1 && told[0].as_ref().is_err_and(|error| error.code == "CallerOverloaded"));
    assert_eq!(ended.0.load(Ordering::Relaxed), 0, "it can still be answered");
}

/// Requests that hold memory while they wait for more never wait for each other for long.
#[tokio::test]
async fn of_requests_that_would_wait_for_each_other_one_is_refused() {
    let memory = Arc::new(RequestMemory::new(8 * MIB));
    let bodies = ["a", "b"].map(|name| take(&memory, principal(name), 2 * MIB).expect("room"));
    let answered = bodies.each_ref().map(|body| async move {
        let claimed = body.claim_for_response(4 * MIB, in_an_hour()).await;
        // The response is sent.
        let _ = body.resize(0);
        claimed
    });
    let [a, b] = answered;
    let (a, b) = tokio::join!(a, b);
    assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
}

/// The order in which owners give way is kept up to date with every change.
#[test]
fn owners_are_found_by_their_greed() {
    let memory = Arc::new(RequestMemory::new(64 * MIB));
    let rooms: Vec<_> = (0..100).map(|n| waiting(&memory, network(n), 1_000 + usize::from(n))).collect();
    assert_eq!(memory.state().greed.len(), 100);
    for (room, _) in &rooms {
        room.resize(200_000).expect("room");
        room.waits_now(Waits::Head);
        room.move_to(&principal("a")).expect("room");
        room.stops_waiting();
    }
    assert_eq!(memory.state().greed.len(), 0, "nothing waits any more");
    rooms[0].0.waits(Waits::Body);
    assert_eq!(memory.state().greed.len(), 1);
    drop(rooms);
    assert!(memory.state().greed.len() == 0 && memory.state().held.is_empty());
}
