//! Passing on: an actor may give what it holds itself, with conditions no weaker, and what it gave stays traceable to
//! it.

use super::conditions::{Circumstances, no_weaker};
use super::{Match, better, covers, find_all, matching};
use crate::types::actor::Role;
use crate::types::grant::{Conditions, Grant, Permission, StoredConditions};
use crate::types::ids::{GrantId, KeyId};
use crate::types::view::CatalogView;

/// The longest chain of grants that were passed on one through the other.
const CHAIN: usize = 16;
/// The most grants that a grant can depend on, over all branches of its chain.
const ANCESTORS: usize = 64;

/// A right to make a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOn {
    /// The grant that holds the permission `grant`.
    pub right: Match,
    /// All grants that what is passed on comes from, sorted.
    pub through: Vec<GrantId>,
}

/// What is to be passed on: permissions on a key (on all keys without one), under conditions, to a principal.
#[derive(Clone, Copy, Debug)]
pub struct NewRights<'a> {
    /// The principal that is to hold them.
    pub to: &'a str,
    /// What the grant is to allow.
    pub permissions: &'a [Permission],
    /// The conditions under which it is to allow that.
    pub conditions: &'a Conditions,
    /// The key that the grant is for; none for all keys.
    pub key: Option<KeyId>,
}

/// Whether `principal` may pass `new` on: it holds `grant` there now, and each of the permissions under conditions that
/// the new ones do not weaken. Nobody passes on to itself or to somebody above it in the chain, so that no right
/// outlives the grant that it came from unnoticed.
pub fn pass_on(
    view: &dyn CatalogView,
    principal: &str,
    new: &NewRights<'_>,
    circumstances: &Circumstances<'_>,
) -> Option<PassedOn> {
    let mut right = None;
    let mut held: Vec<Grant> = Vec::new();
    find_all(view, principal, new.key, &mut |grant| {
        // What came from the one who is to get it leads nowhere; another grant may do.
        if is_grantor(view, grant, new.to) {
            return;
        }
        right = better(right, matching(grant, Permission::Grant, new.key, circumstances));
        let StoredConditions::Known(own) = &grant.conditions else { return };
        if covers(grant.scope, new.key) && no_weaker(new.conditions, own) {
            held.push(grant.clone());
        }
    });
    let right = right?;
    // The fewer grants it depends on, the clearer: those that hold most of what is passed on come first.
    let useful = |grant: &Grant| new.permissions.iter().filter(|p| grant.permissions.contains(p)).count();
    held.sort_by_key(|grant| (std::cmp::Reverse(useful(grant)), grant.id));
    let mut through = vec![right.grant];
    for permission in new.permissions {
        let is_covered = |grant: &&Grant| grant.permissions.contains(permission);
        let known = held.iter().filter(|grant| through.contains(&grant.id)).find(is_covered);
        let source = known.or_else(|| held.iter().find(is_covered))?;
        through.push(source.id);
        through.sort_unstable();
        through.dedup();
    }
    let above = ancestors(view, &through)?;
    let is_above = new.to == principal || above.iter().any(|grant| is_made_by(grant, new.to));
    (!is_above).then_some(PassedOn { right, through })
}

/// Whether a grant that was passed on still is in force: no grant that it came from was withdrawn together with what
/// was passed on through it.
pub fn is_in_force(view: &dyn CatalogView, grant: &Grant) -> bool {
    grant.grantor.through.is_empty()
        || ancestors(view, &grant.grantor.through).is_some_and(|above| above.iter().all(|parent| !parent.cascade))
}

/// Whether the app `principal` made this grant, or one that it came from.
pub fn is_grantor(view: &dyn CatalogView, grant: &Grant, principal: &str) -> bool {
    is_made_by(grant, principal)
        || ancestors(view, &grant.grantor.through)
            .is_some_and(|above| above.iter().any(|parent| is_made_by(parent, principal)))
}

/// Whether an app of this name made the grant.
fn is_made_by(grant: &Grant, principal: &str) -> bool {
    grant.grantor.role == Role::App && grant.grantor.principal == principal
}

/// The grants that came before, up to those of admins. None if one is missing, or if there are more than allowed.
fn ancestors<'v>(view: &'v dyn CatalogView, through: &[GrantId]) -> Option<Vec<&'v Grant>> {
    let mut found: Vec<&Grant> = Vec::new();
    let mut level: Vec<GrantId> = through.to_vec();
    for _ in 0..CHAIN {
        let mut next = Vec::new();
        for id in level {
            if found.iter().any(|grant| grant.id == id) {
                continue;
            }
            let grant = view.grant(id)?;
            found.push(grant);
            next.extend_from_slice(&grant.grantor.through);
            if found.len() > ANCESTORS {
                return None;
            }
        }
        if next.is_empty() {
            return Some(found);
        }
        level = next;
    }
    None
}
