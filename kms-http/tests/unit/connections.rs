//! Unit tests of `src/server/connections.rs`.

use super::*;
use crate::server::activity::Counted;

/// Connections that were opened ten seconds ago, of these callers.
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

    /// One of this caller, silent for as many seconds.
    fn open(&mut self, caller: &str, silent: u64) {
        let known = Caller::default();
        known.set(caller);
        let connection = self.all.open_one(known).expect("room");
        connection.activity.set_last(Duration::from_secs(10 - silent));
        self.connections.push(connection);
    }

    /// Whether each is open yet.
    fn is_open(&self) -> Vec<bool> {
        self.connections.iter().map(|connection| self.all.all().contains_key(&connection.id)).collect()
    }
}

#[test]
fn the_longest_silent_makes_room() {
    let mut opened = Opened::new(3);
    for silent in [9, 5, 7] {
        opened.open("a", silent);
    }
    let _busy = Counted::request(&opened.connections[0].activity);
    let _new = opened.all.open_one(Caller::default()).expect("room was made");
    assert_eq!(opened.is_open(), [true, true, false]);
}

#[test]
fn fresh_and_busy_ones_of_a_single_caller_stay() {
    let mut opened = Opened::new(2);
    opened.open("a", 0);
    opened.open("a", 9);
    let _busy = Counted::answer(&opened.connections[1].activity);
    assert!(opened.all.open_one(Caller::default()).is_none());
    assert_eq!(opened.is_open(), [true, true]);
}

#[test]
fn the_caller_with_most_connections_makes_room_for_others() {
    let mut opened = Opened::new(6);
    opened.open("victim", 9);
    for _ in 0..5 {
        opened.open("flood", 1);
    }
    let working: Vec<_> = (1..6).map(|n| Counted::request(&opened.connections[n].activity)).collect();
    opened.connections[3].activity.set_last(Duration::from_secs(2));
    let new = opened.all.open_one(Caller::default()).expect("a busy one of the flood makes room");
    assert_eq!(opened.is_open(), [true, true, true, false, true, true]);
    drop((new, working));
    opened.connections.iter().for_each(|connection| connection.activity.set_last(Duration::from_secs(5)));
    opened.open("flood", 1);
    let _new = opened.all.open_one(Caller::default()).expect("an idle one of the flood makes room");
    assert!(opened.is_open()[0], "the idle one of the victim stays");
}
