//! Delegation: an app may pass on its own permissions under conditions at least as strict, and the new grant records
//! the grants that it came from.

use super::conditions::{Circumstances, no_weaker};
use super::{Match, better, covers, find_all, matching};
use crate::types::actor::Role;
use crate::types::grant::{Conditions, Grant, Permission, StoredConditions};
use crate::types::ids::{GrantId, KeyId};
use crate::types::view::CatalogView;

/// The longest chain of delegated grants.
const CHAIN: usize = 16;
/// The most grants that a grant can depend on, over all branches of its chain.
const ANCESTORS: usize = 64;

/// A right to make a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOn {
    /// The grant that has the permission `grant`.
    pub right: Match,
    /// The ids of all grants that are passed on, sorted.
    pub through: Vec<GrantId>,
}

/// A grant to be made by delegation.
#[derive(Clone, Copy, Debug)]
pub struct NewRights<'a> {
    /// The principal that gets the grant.
    pub to: &'a str,
    /// The permissions of the grant.
    pub permissions: &'a [Permission],
    /// The conditions of the grant.
    pub conditions: &'a Conditions,
    /// The key that the grant is on; `None` for all keys.
    pub key: Option<KeyId>,
}

/// Whether `principal` may make the grant `new`: it has the permission `grant` there now, and each of the new
/// permissions under conditions that are at most as strict as the new ones. A principal cannot make grants to itself or
/// to a principal before it in the chain, because such a grant could outlive the one that it came from.
pub fn pass_on(
    view: &dyn CatalogView,
    principal: &str,
    new: &NewRights<'_>,
    circumstances: &Circumstances<'_>,
) -> Option<PassedOn> {
    let mut right = None;
    let mut held: Vec<Grant> = Vec::new();
    find_all(view, principal, new.key, &mut |grant| {
        // A grant that came from the receiver cannot be passed on to it; another grant may be.
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
    // Grants with most of the permissions come first, so that the new grant depends on few others.
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

/// Whether a grant is in force: no grant that it came from was revoked with the cascade flag.
pub fn is_in_force(view: &dyn CatalogView, grant: &Grant) -> bool {
    grant.grantor.through.is_empty()
        || ancestors(view, &grant.grantor.through).is_some_and(|above| above.iter().all(|parent| !parent.cascade))
}

/// Whether the app `principal` made this grant, or one that this grant came from.
pub fn is_grantor(view: &dyn CatalogView, grant: &Grant, principal: &str) -> bool {
    is_made_by(grant, principal)
        || ancestors(view, &grant.grantor.through)
            .is_some_and(|above| above.iter().any(|parent| is_made_by(parent, principal)))
}

/// Whether an app with this principal made the grant.
fn is_made_by(grant: &Grant, principal: &str) -> bool {
    grant.grantor.role == Role::App && grant.grantor.principal == principal
}

/// These grants and all that they came from, up to grants of admins. `None` if one is missing or a limit is exceeded.
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
