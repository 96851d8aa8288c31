//! Unit tests of `src/server/connections.rs`.

use super::*;
use crate::server::activity::Counted;

/// Connections that were opened ten seconds ago.
struct Opened {
    all: Arc<Connections>,
    connections: Vec<Connection>,
}

impl Opened {
    fn new(most: usize) -> Self {
        let begun = Instant::now().checked_sub(Duration::from_secs(10)).expect("ten seconds ago");
        let all = Connections { begun, ..Connections::new(most, metrics::Connections::default()) };
        Self { all: Arc::new(all), connections: Vec::new() }
    }

    /// Opens a connection of this caller that was silent for this many seconds.
    fn open(&mut self, caller: &str, silent: u64) {
        let known = Caller::new(Owner::principal(caller));
        let connection = self.all.open_one(known).expect("room");
        connection.activity.set_last(Duration::from_secs(10 - silent));
        self.connections.push(connection);
    }

    /// Whether each connection is still open.
    fn is_open(&self) -> Vec<bool> {
        self.connections.iter().map(|connection| self.all.all().contains_key(&connection.id)).collect()
    }
}

#[test]
fn the_longest_silent_connection_is_closed() {
    let mut opened = Opened::new(3);
    for silent in [9, 5, 7] {
        opened.open("a", silent);
    }
    let _busy = Counted::request(&opened.connections[0].activity);
    let _new = opened.all.open_one(Caller::default()).expect("room was made");
    assert_eq!(opened.is_open(), [true, true, false]);
}

/// A search for connections to close looks at all of them, so it must be rare.
#[test]
fn one_search_makes_room_for_many_connections() {
    let mut opened = Opened::new(256);
    for silent in 0..256 {
        opened.open("flood", 2 + silent % 8);
    }
    let mut new = Vec::new();
    let mut left = Vec::new();
    for _ in 0..8 {
        new.push(opened.all.open_one(Caller::default()).expect("room was made"));
        left.push(opened.is_open().into_iter().filter(|is_open| *is_open).count());
    }
    assert_eq!(left, [248; 8]);
    let longest = opened.is_open().chunks(8).filter(|chunk| !chunk[7]).count();
    assert_eq!(longest, 8, "those that were silent longest");
}

#[test]
fn an_eighth_of_the_connections_is_a_crowd() {
    let mut opened = Opened::new(16);
    let crowd = opened.all.crowd();
    let seen: Vec<bool> = (0..4)
        .map(|_| {
            opened.open("a", 0);
            crowd.is_there()
        })
        .collect();
    assert_eq!(seen, [false, false, true, true]);
    opened.connections.truncate(2);
    assert!(!crowd.is_there());
}

#[test]
fn an_owner_of_all_connections_yields_to_others_only() {
    let mut opened = Opened::new(3);
    for _ in 0..3 {
        opened.open("flood", 0);
    }
    let busy: Vec<_> = (0..3).map(|n| Counted::request(&opened.connections[n].activity)).collect();
    let flood = || Caller::new(Owner::principal("flood"));
    assert!(opened.all.open_one(flood()).is_none(), "the owner of all connections got another");
    let stuck = Counted::answer(&opened.connections[1].activity);
    opened.connections[1].activity.set_last(Duration::from_secs(1));
    let _new = opened.all.open_one(Caller::default()).expect("a connection that waits for its caller is closed");
    assert_eq!(opened.is_open(), [true, false, true]);
    let _next = opened.all.open_one(flood()).is_none();
    drop((stuck, busy));
    // All connections are new.
    let mut opened = Opened::new(4);
    for _ in 0..4 {
        opened.open("flood", 0);
    }
    let _new = opened.all.open_one(Caller::default()).expect("the newest connection is closed");
    assert_eq!(opened.is_open(), [true, true, true, false]);
}

#[test]
fn of_equal_owners_the_unknown_one_yields() {
    let mut opened = Opened::new(2);
    opened.open("known", 9);
    opened.connections.push(opened.all.open_one(Caller::default()).expect("room"));
    opened.connections[1].activity.set_last(Duration::from_secs(5));
    let other = Caller::new(Owner::at(Some([192, 0, 2, 1].into())));
    let _new = opened.all.open_one(other).expect("room is made");
    assert_eq!(opened.is_open(), [true, false]);
}

#[test]
fn the_caller_with_most_connections_yields_to_others() {
    let mut opened = Opened::new(6);
    opened.open("victim", 9);
    for _ in 0..5 {
        opened.open("flood", 1);
    }
    let working: Vec<_> = (1..6).map(|n| Counted::request(&opened.connections[n].activity)).collect();
    let new = opened.all.open_one(Caller::default()).expect("a busy connection of the flood is closed");
    assert_eq!(opened.is_open(), [true, true, true, true, true, false]);
    drop((new, working));
    opened.connections.iter().for_each(|connection| connection.activity.set_last(Duration::from_secs(5)));
    opened.open("flood", 1);
    let _new = opened.all.open_one(Caller::default()).expect("an idle connection of the flood is closed");
    assert!(opened.is_open()[0], "the victim's idle connection was closed");
}

#[test]
fn networks_with_few_connections_close_only_each_others() {
    let mut opened = Opened::new(50);
    for _ in 0..20 {
        opened.open("victim", 1);
    }
    let _working: Vec<_> = (0..20).map(|n| Counted::request(&opened.connections[n].activity)).collect();
    for n in 0..200_u32 {
        let network = Owner::at(Some(std::net::IpAddr::V4((0x0a00_0000 + n).into())));
        if let Some(connection) = opened.all.open_one(Caller::new(network)) {
            // The first half is idle, the others are new.
            connection.activity.set_last(Duration::from_secs(if n < 100 { 5 } else { 10 }));
            opened.connections.push(connection);
        }
    }
    assert_eq!(opened.connections.len(), 220, "a newcomer was refused");
    assert!(opened.is_open()[..20].iter().all(|is_open| *is_open), "the victim lost a connection");
    assert_eq!(opened.all.open(), 50);
    // An idle connection of a known caller is not closed either.
    opened.open("idle", 9);
    for n in 0..100_u32 {
        let network = Owner::at(Some(std::net::IpAddr::V4((0x0b00_0000 + n).into())));
        opened.connections.extend(opened.all.open_one(Caller::new(network)));
    }
    assert!(opened.is_open()[220]);
}

#[test]
fn a_network_with_all_of_them_keeps_nobody_of_its_own_out() {
    let mut opened = Opened::new(3);
    for _ in 0..3 {
        opened.connections.push(opened.all.open_one(Caller::default()).expect("room"));
    }
    for (connection, millis) in opened.connections.iter().zip([9_700, 9_800, 10_000]) {
        connection.activity.set_last(Duration::from_millis(millis));
    }
    let _working = Counted::request(&opened.connections[0].activity);
    let _new = opened.all.open_one(Caller::default()).expect("one without a request makes room");
    assert_eq!(opened.is_open(), [true, false, true]);
}
