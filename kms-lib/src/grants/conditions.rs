//! Conditions of grants: whether they are met, and whether one set is at least as strict as another.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::types::context::Context;
use crate::types::grant::Conditions;
use crate::types::time::Timestamp;

/// The circumstances of an attempt, with which conditions are compared.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The time of the attempt.
    pub now: Timestamp,
    /// The caller's address, if known.
    pub source_ip: Option<IpAddr>,
    /// The operation's encryption context; `None` if the operation has none.
    pub context: Option<&'a Context>,
}

/// Whether all conditions are met. A condition on an unknown address or a missing context is not met.
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

/// Whether `new` is at least as strict as `held`: every attempt that meets `new` meets `held`. False if that cannot be
/// shown.
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
    // An IPv4 address that is mapped into IPv6 is compared with IPv4 networks.
    let ip = ip.to_canonical();
    nets.iter().any(|net| net.contains(&ip))
}

/// Whether `all` has every entry of `part`.
fn subset(part: &Context, all: &Context) -> bool {
    part.iter().all(|(name, value)| all.get(name) == Some(value))
}
