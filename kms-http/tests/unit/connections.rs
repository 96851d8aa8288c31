//! Unit tests of `src/server/connections.rs`.

use super::*;

#[test]
fn the_longest_silent_makes_room() {
    let all = Arc::new(Connections::new(2, metrics::Connections::default()));
    let (busy, silent) = (all.open_one().expect("room"), all.open_one().expect("room"));
    assert!(all.open_one().is_none(), "both are fresh");
    busy.activity.begin();
    for connection in [&busy, &silent] {
        connection.activity.last.store(0, Ordering::Relaxed);
    }
    let old = Connections {
        begun: all.begun - Duration::from_secs(10),
        ..Connections::new(2, metrics::Connections::default())
    };
    *old.all() = all.all().clone();
    old.next.store(2, Ordering::Relaxed);
    let old = Arc::new(old);
    let third = old.open_one().expect("room was made");
    assert_eq!(old.open(), 2);
    assert!(old.all().contains_key(&busy.id) && old.all().contains_key(&third.id));
}
