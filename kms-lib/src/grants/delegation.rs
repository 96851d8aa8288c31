//! Passing on: an actor may give what it holds itself, with conditions no weaker.

use super::conditions::{Circumstances, no_weaker};
use super::{Match, covers, find};
use crate::types::grant::{Conditions, Permission, StoredConditions};
use crate::types::ids::KeyId;
use crate::types::view::View;

/// Whether `principal` may make a grant of `permissions` on `key` (on all keys without one) under `conditions`:
/// it holds `grant` there now, and each of the permissions under conditions that `conditions` does not weaken.
pub fn may_pass_on(
    view: &dyn View,
    principal: &str,
    permissions: &[Permission],
    conditions: &Conditions,
    key: Option<KeyId>,
    circumstances: &Circumstances<'_>,
) -> Option<Match> {
    let right = find(view, principal, Permission::Grant, key, circumstances)?;
    let mut held = vec![false; permissions.len()];
    view.each_grant(principal, &mut |grant| {
        let StoredConditions::Known(own) = &grant.conditions else { return };
        if !covers(grant.scope, key) || !no_weaker(conditions, own) {
            return;
        }
        for (permission, held) in permissions.iter().zip(&mut held) {
            *held |= grant.permissions.contains(permission);
        }
    });
    held.into_iter().all(|held| held).then_some(right)
}
