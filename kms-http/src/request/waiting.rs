//! Memory reservations that wait for their caller, in the order in which they began to wait.

use std::collections::BTreeMap;
use std::time::Instant;

/// The reason why a reservation waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// Nothing: what has arrived is being read, and the reservation is not evicted. It keeps its turn.
    Nothing,
    /// The rest of a request's head, memory for the rest of the request, or the end of a delay after which it is
    /// refused. Every other request of the same network takes precedence.
    Head,
    /// The rest of a body, or frames that have arrived and were not read yet.
    Body,
    /// The caller, to read the response.
    Response,
}

/// A waiting reservation.
pub struct Waiting<P> {
    /// Since when it waits.
    pub since: Instant,
    /// The handle of the reservation in the accounting of memory.
    pub place: P,
}

/// The waiting reservations of one owner, by their turns: the lowest has waited longest.
pub struct WaitingList<P> {
    kept: BTreeMap<u64, Waiting<P>>,
    heads: BTreeMap<u64, Waiting<P>>,
    bodies: BTreeMap<u64, Waiting<P>>,
    responses: BTreeMap<u64, Waiting<P>>,
}

impl<P> Default for WaitingList<P> {
    fn default() -> Self {
        Self { kept: BTreeMap::new(), heads: BTreeMap::new(), bodies: BTreeMap::new(), responses: BTreeMap::new() }
    }
}

impl<P> WaitingList<P> {
    /// The reservations that wait for `what`, by their turns.
    pub fn of(&self, what: Waits) -> &BTreeMap<u64, Waiting<P>> {
        match what {
            Waits::Nothing => &self.kept,
            Waits::Head => &self.heads,
            Waits::Body => &self.bodies,
            Waits::Response => &self.responses,
        }
    }

    /// Whether no reservation waits.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.heads.is_empty() && self.bodies.is_empty() && self.responses.is_empty()
    }

    /// Adds a reservation at this turn.
    pub fn insert(&mut self, turn: u64, what: Waits, waiting: Waiting<P>) {
        let list = match what {
            Waits::Nothing => &mut self.kept,
            Waits::Head => &mut self.heads,
            Waits::Body => &mut self.bodies,
            Waits::Response => &mut self.responses,
        };
        list.insert(turn, waiting);
    }

    /// Removes the reservation at this turn, if there is one.
    pub fn remove(&mut self, turn: u64) -> Option<(Waits, Waiting<P>)> {
        let lists = [
            (Waits::Nothing, &mut self.kept),
            (Waits::Head, &mut self.heads),
            (Waits::Body, &mut self.bodies),
            (Waits::Response, &mut self.responses),
        ];
        lists.into_iter().find_map(|(what, list)| Some((what, list.remove(&turn)?)))
    }

    /// The turn and the reservation of the oldest incomplete head, otherwise of whatever has waited longest.
    pub fn oldest(&self) -> Option<(u64, Waits, &Waiting<P>)> {
        let first = |what: Waits| self.of(what).first_key_value().map(|(turn, waiting)| (*turn, what, waiting));
        let others = [Waits::Body, Waits::Response].into_iter().filter_map(first);
        first(Waits::Head).or_else(|| others.min_by_key(|(turn, _, _)| *turn))
    }
}
