//! Conditions of grants: whether they hold, and whether one set is no weaker than another.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::types::context::Context;
use crate::types::grant::Conditions;
use crate::types::time::Timestamp;

/// What conditions are held against.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The time of the attempt.
    pub now: Timestamp,
    /// The caller's address, if known.
    pub source_ip: Option<IpAddr>,
    /// The encryption context the operation binds; none if it binds none.
    pub context: Option<&'a Context>,
}

/// Whether all conditions hold. What cannot be judged (no address, no context) does not hold.
pub fn holds(conditions: &Conditions, circumstances: &Circumstances<'_>) -> bool {
    let Conditions { not_before, not_after, source_ip, encryption_context_equals, encryption_context_subset } =
        conditions;
    not_before.is_none_or(|t| circumstances.now >= t)
        && not_after.is_none_or(|t| circumstances.now < t)
        && source_ip.as_deref().is_none_or(|nets| circumstances.source_ip.is_some_and(|ip| within(ip, nets)))
        && encryption_context_equals.as_ref().is_none_or(|c| circumstances.context == Some(c))
        && encryption_context_subset
            .as_ref()
            .is_none_or(|c| circumstances.context.is_some_and(|given| subset(c, given)))
}

/// Whether everything `new` lets through, `held` lets through too. Where that cannot be shown, the answer is no.
pub fn no_weaker(new: &Conditions, held: &Conditions) -> bool {
    let Conditions { not_before, not_after, source_ip, encryption_context_equals, encryption_context_subset } = held;
    not_before.is_none_or(|held| new.not_before.is_some_and(|new| new >= held))
        && not_after.is_none_or(|held| new.not_after.is_some_and(|new| new <= held))
        && source_ip.as_deref().is_none_or(|held| {
            new.source_ip.as_deref().is_some_and(|new| new.iter().all(|net| held.iter().any(|h| h.contains(net))))
        })
        && encryption_context_equals.as_ref().is_none_or(|held| new.encryption_context_equals.as_ref() == Some(held))
        && encryption_context_subset.as_ref().is_none_or(|held| {
            new.encryption_context_equals.as_ref().is_some_and(|new| subset(held, new))
                || new.encryption_context_subset.as_ref().is_some_and(|new| subset(held, new))
        })
}

fn within(ip: IpAddr, nets: &[IpNet]) -> bool {
    // An IPv4 address that arrived mapped into IPv6 must meet the IPv4 network it belongs to.
    let ip = ip.to_canonical();
    nets.iter().any(|net| net.contains(&ip))
}

/// Whether `all` has every entry of `part`.
fn subset(part: &Context, all: &Context) -> bool {
    part.iter().all(|(name, value)| all.get(name) == Some(value))
}
