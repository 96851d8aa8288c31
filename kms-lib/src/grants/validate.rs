//! Validation of new grants.

use crate::types::error::{Error, ErrorCode, Result};
use crate::types::grant::{Conditions, GrantScope, Permission};
use crate::types::limits::CONDITION_NETWORKS;

/// Checks a new grant; returns its permissions in their stored form: sorted, without duplicates.
pub fn check_new_grant(
    scope: GrantScope,
    permissions: &[Permission],
    conditions: &Conditions,
) -> Result<Vec<Permission>> {
    if permissions.is_empty() {
        return Err(Error::invalid("a grant needs at least one permission"));
    }
    if permissions.contains(&Permission::Create) && scope != GrantScope::AllKeys {
        return Err(Error::invalid("the permission create can only be granted on all keys (*)"));
    }
    if let (Some(from), Some(until)) = (conditions.not_before, conditions.not_after)
        && from >= until
    {
        let message = "the grant would never be valid: its notAfter is not later than its notBefore";
        return Err(Error::new(ErrorCode::WrongState, message));
    }
    if let Some(networks) = &conditions.source_ip
        && (networks.is_empty() || networks.len() > CONDITION_NETWORKS)
    {
        let count = networks.len();
        return Err(Error::invalid(format!("sourceIp has {count} networks; 1 to {CONDITION_NETWORKS} are allowed")));
    }
    for context in [&conditions.encryption_context_equals, &conditions.encryption_context_subset].into_iter().flatten()
    {
        context.check()?;
    }
    let mut permissions = permissions.to_vec();
    permissions.sort_unstable();
    permissions.dedup();
    Ok(permissions)
}
