//! Who may do what: whether a grant matches an attempt, and whether one grant may be made from others.
//!
//! Pure functions over grants; nothing here knows of storage or of the states of keys.

mod conditions;
mod delegation;
mod validate;

pub use conditions::{Circumstances, holds};
pub use delegation::{NewRights, PassedOn, is_grantor, is_in_force, pass_on};
pub use validate::check_new_grant;

use crate::types::grant::{Grant, GrantScope, Permission, StoredConditions};
use crate::types::ids::{GrantId, KeyId};
use crate::types::time::Timestamp;
use crate::types::view::CatalogView;

/// How many grants of a principal are looked at to find one that allows something on whichever key.
const LOOKED_AT: usize = 100;

/// The permissions that the creator of a key gets on it, unless it is an admin.
pub const CREATOR_PERMISSIONS: [Permission; 7] = [
    Permission::Read,
    Permission::Encrypt,
    Permission::Decrypt,
    Permission::Sign,
    Permission::Verify,
    Permission::Rotate,
    Permission::Revoke,
];

/// A grant that allows an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Which grant.
    pub grant: GrantId,
    /// From when on it no longer does.
    pub valid_until: Option<Timestamp>,
}

/// Whether a grant covers what an operation is about: a key, or (without one) all keys.
pub fn covers(scope: GrantScope, key: Option<KeyId>) -> bool {
    match key {
        Some(key) => scope.covers(key),
        None => scope == GrantScope::AllKeys,
    }
}

/// The grant that allows `permission` on `key` (on all keys without one) under the given circumstances.
/// Of several, the one that stays valid longest; among those, the one with the smallest id.
pub fn find(
    view: &dyn CatalogView,
    principal: &str,
    permission: Permission,
    key: Option<KeyId>,
    circumstances: &Circumstances<'_>,
) -> Option<Match> {
    let mut best: Option<Match> = None;
    find_all(view, principal, key, &mut |grant: &Grant| {
        best = better(best, matching(grant, permission, key, circumstances));
    });
    best
}

/// Whether a grant allows `permission` on any key under the given circumstances. Of a principal with very many grants
/// only the first are looked at; the others count as if they allowed nothing.
pub fn allows_somewhere(
    view: &dyn CatalogView,
    principal: &str,
    permission: Permission,
    circumstances: &Circumstances<'_>,
) -> bool {
    let mut is_allowed = false;
    view.some_grants(principal, LOOKED_AT, &mut |grant: &Grant| {
        let key = match grant.scope {
            GrantScope::Key(key) => Some(key),
            GrantScope::AllKeys => None,
        };
        is_allowed =
            is_allowed || (matching(grant, permission, key, circumstances).is_some() && is_in_force(view, grant));
    });
    is_allowed
}

/// A grant as a match, if it allows `permission` on `key`. Whether it is in force is not asked here.
fn matching(
    grant: &Grant,
    permission: Permission,
    key: Option<KeyId>,
    circumstances: &Circumstances<'_>,
) -> Option<Match> {
    let StoredConditions::Known(conditions) = &grant.conditions else { return None };
    let is_match =
        covers(grant.scope, key) && grant.permissions.contains(&permission) && holds(conditions, circumstances);
    is_match.then_some(Match { grant: grant.id, valid_until: conditions.not_after })
}

/// The better one of two matches.
fn better(one: Option<Match>, other: Option<Match>) -> Option<Match> {
    let rank = |m: &Match| (m.valid_until.map_or(i64::MAX, Timestamp::micros), std::cmp::Reverse(m.grant));
    one.into_iter().chain(other).max_by_key(rank)
}

/// Calls `visit` with every grant of a principal that is in force and covers a key (all keys without one).
fn find_all(view: &dyn CatalogView, principal: &str, key: Option<KeyId>, visit: &mut dyn FnMut(&Grant)) {
    for scope in key.map(GrantScope::Key).into_iter().chain([GrantScope::AllKeys]) {
        view.each_grant(principal, scope, &mut |grant| {
            if is_in_force(view, grant) {
                visit(grant);
            }
        });
    }
}
