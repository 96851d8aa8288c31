//! The owners with reservations that wait for their callers, in the order in which they give way to others.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::owner::Owner;

/// How soon an owner gives way: by its bytes if it holds more than one request needs, then owners with an incomplete
/// head, then the one whose reservation has waited longest, by its turn.
pub type Rank = (usize, bool, Reverse<u64>);

/// Number of owners that one search looks at. Those further down are hardly less greedy, and a search for each of many
/// requests must not look at as many owners.
const SEARCHED: usize = 64;

/// The owners by rank. Two never have the same rank, because turns are unique.
#[derive(Default)]
pub struct Greed {
    networks: BTreeMap<Rank, Owner>,
    principals: BTreeMap<Rank, Owner>,
}

impl Greed {
    /// Changes the rank of an owner; `None` is that of an owner without a waiting reservation.
    pub fn change(&mut self, owner: &Owner, old: Option<Rank>, new: Option<Rank>) {
        let owners = if owner.is_known() { &mut self.principals } else { &mut self.networks };
        if let Some(old) = old {
            owners.remove(&old);
        }
        if let Some(new) = new {
            owners.insert(new, owner.clone());
        }
    }

    /// The greediest of the principals, or of the networks, that `may` give way.
    pub fn greediest(&self, is_known: bool, may: impl Fn(&Owner) -> bool) -> Option<(Rank, &Owner)> {
        let owners = if is_known { &self.principals } else { &self.networks };
        let greediest = owners.iter().rev().take(SEARCHED).find(|(_, owner)| may(owner));
        greediest.map(|(rank, owner)| (*rank, owner))
    }

    /// The number of owners.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.networks.len() + self.principals.len()
    }
}

#[cfg(test)]
#[path = "../../tests/unit/greed.rs"]
mod tests;
