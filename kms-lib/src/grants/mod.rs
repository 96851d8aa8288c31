//! Grants: whether a grant allows an attempt, and whether a principal may pass on its grants.
//!
//! Pure functions over grants, independent of storage and of the states of keys.

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

/// The maximum number of grants of a principal that are searched for one that allows an operation on any key.
const LOOKED_AT: usize = 100;

/// The permissions that the creator of a key gets on the key, unless the creator is an admin.
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
    /// The grant's id.
    pub grant: GrantId,
    /// The grant allows the attempt before this time; `None`: no end.
    pub valid_until: Option<Timestamp>,
}

/// Whether a scope covers the key of an operation or, without a key, all keys.
pub fn covers(scope: GrantScope, key: Option<KeyId>) -> bool {
    match key {
        Some(key) => scope.covers(key),
        None => scope == GrantScope::AllKeys,
    }
}

/// The grant that allows `permission` on `key` (without a key, on all keys) under the given circumstances. Of several,
/// the one that stays valid longest and, among those, the one with the smallest id.
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

/// Whether a grant allows `permission` on any key under the given circumstances. Searches only the first 100 grants or
/// so of a principal; the others are ignored.
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

/// The match of a grant that allows `permission` on `key`. Does not check whether the grant is in force.
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

/// The match that stays valid longer or, if both do equally, has the smaller grant id.
fn better(one: Option<Match>, other: Option<Match>) -> Option<Match> {
    let rank = |m: &Match| (m.valid_until.map_or(i64::MAX, Timestamp::micros), std::cmp::Reverse(m.grant));
    one.into_iter().chain(other).max_by_key(rank)
}

/// Calls `visit` with every grant of a principal that is in force and covers `key` (without a key, all keys).
fn find_all(view: &dyn CatalogView, principal: &str, key: Option<KeyId>, visit: &mut dyn FnMut(&Grant)) {
    for scope in key.map(GrantScope::Key).into_iter().chain([GrantScope::AllKeys]) {
        view.each_grant(principal, scope, &mut |grant| {
            if is_in_force(view, grant) {
                visit(grant);
            }
        });
    }
}
