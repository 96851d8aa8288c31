//! Requests that wait for memory: in lines by owner. The owners take turns.

use std::collections::{HashMap, VecDeque};

use super::owner::Owner;

/// The purposes for which requests wait for memory, in the order in which the requests of one owner are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// The response to a request whose body has arrived. It releases memory when it is sent.
    Response,
    /// A small body.
    Small,
    /// A large body.
    Large,
}

/// A request that waits for memory.
pub struct Claim<P> {
    id: u64,
    /// The purpose of the memory.
    pub rank: Rank,
    /// The number of bytes that it waits for.
    pub more: usize,
    /// The number of bytes that must stay free for others.
    pub left: usize,
    /// The handle of the reservation in the accounting of memory.
    pub place: P,
}

/// The waiting requests of one owner, by rank.
struct Lines<P>([VecDeque<Claim<P>>; 3]);

impl<P> Lines<P> {
    fn of(&self, rank: Rank) -> &VecDeque<Claim<P>> {
        &self.0[rank as usize]
    }

    /// The requests that may be served now: the first of each rank, but no large body while a response waits, because
    /// the body might take the memory that the response needs.
    fn first(&self) -> impl Iterator<Item = &Claim<P>> {
        let has_response = !self.of(Rank::Response).is_empty();
        let ranks = [Rank::Response, Rank::Small, Rank::Large].into_iter();
        ranks.filter(move |rank| !(has_response && *rank == Rank::Large)).filter_map(|rank| self.of(rank).front())
    }
}

/// All waiting requests.
pub struct Claims<P> {
    next: u64,
    lines: HashMap<Owner, Lines<P>>,
    /// The owners of waiting requests, in the order of their turns.
    turns: VecDeque<Owner>,
    /// The bytes held by requests that wait for memory, or for their turn to be worked on.
    pub idle: usize,
}

impl<P> Default for Claims<P> {
    fn default() -> Self {
        Self { next: 0, lines: HashMap::new(), turns: VecDeque::new(), idle: 0 }
    }
}

impl<P: Clone> Claims<P> {
    /// Whether a new request of this owner must wait behind others. Only the memory itself delays a small body.
    pub fn has_before(&self, owner: &Owner, rank: Rank) -> bool {
        let Some(lines) = self.lines.get(owner) else { return false };
        match rank {
            Rank::Response => !lines.of(Rank::Response).is_empty(),
            Rank::Small => false,
            Rank::Large => true,
        }
    }

    /// Adds a request at the end of its line, and returns its id.
    pub fn join(&mut self, owner: &Owner, rank: Rank, (more, left): (usize, usize), place: P) -> u64 {
        let id = self.next;
        self.next += 1;
        let lines = self.lines.entry(owner.clone()).or_insert_with(|| {
            self.turns.push_back(owner.clone());
            Lines(std::array::from_fn(|_| VecDeque::new()))
        });
        lines.0[rank as usize].push_back(Claim { id, rank, more, left, place });
        id
    }

    /// Removes a request.
    pub fn leave(&mut self, owner: &Owner, id: u64) {
        let Some(lines) = self.lines.get_mut(owner) else { return };
        for line in &mut lines.0 {
            if let Ok(at) = line.binary_search_by_key(&id, |claim| claim.id) {
                line.remove(at);
            }
        }
        if lines.0.iter().all(VecDeque::is_empty) {
            self.lines.remove(owner);
            self.turns.retain(|other| other != owner);
        }
    }

    /// Whether a request may be served before all others of its owner.
    pub fn is_first(&self, owner: &Owner, id: u64) -> bool {
        self.lines.get(owner).is_some_and(|lines| lines.first().any(|claim| claim.id == id))
    }

    /// The first request, in the order of turns, for which `fits` is true. Its owner's next turn comes after those of
    /// all others.
    pub fn next(&mut self, fits: impl Fn(&Owner, &Claim<P>) -> bool) -> Option<P> {
        let found = self.turns.iter().enumerate().find_map(|(at, owner)| {
            let claim = self.lines.get(owner)?.first().find(|claim| fits(owner, claim))?;
            Some((at, claim.place.clone()))
        });
        let (at, place) = found?;
        let owner = self.turns.remove(at)?;
        self.turns.push_back(owner);
        Some(place)
    }
}

#[cfg(test)]
#[path = "../../tests/unit/claims.rs"]
mod tests;
