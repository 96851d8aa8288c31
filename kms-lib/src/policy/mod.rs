//! Whether an attempt may be made: one pure function of what is known, who asks, and when.

#[cfg(test)]
mod tests;

use crate::grants::{self, Circumstances, Match};
use crate::keys::{self, Refusal};
use crate::types::actor::Role;
use crate::types::attempt::{Attempt, Decision, Operation};
use crate::types::error::ErrorCode;
use crate::types::grant::{Conditions, GrantScope, Permission, StoredConditions};
use crate::types::ids::KeyId;
use crate::types::time::Timestamp;
use crate::types::view::View;

/// Decides on an attempt against `view` at `now`. First who: a role, or a grant of the principal. Only then what the
/// states of key and version allow, so that a caller without a right learns nothing of them. Denies by default.
pub fn decide(view: &dyn View, attempt: &Attempt, now: Timestamp) -> Decision {
    let known_until = match authenticate(view, attempt, now) {
        Ok(end) => end,
        Err(code) => return Decision::Denied(code),
    };
    let right = match authorize(view, attempt, now) {
        Ok(right) => right,
        Err(code) => return Decision::Denied(code),
    };
    let permitted = match permitted(view, attempt, now) {
        Ok(valid_until) => valid_until,
        Err(Refusal::Code(code)) => return Decision::Denied(code),
        Err(Refusal::Superseded) => return Decision::Superseded,
    };
    let ends = [known_until, permitted, right.and_then(|right| right.valid_until)];
    Decision::Allowed { grant: right.map(|right| right.grant), valid_until: ends.into_iter().flatten().min() }
}

/// Whether the credential that an actor is known by, if it is known by one, is still good.
pub fn is_authenticated(view: &dyn View, attempt: &Attempt, now: Timestamp) -> bool {
    authenticate(view, attempt, now).is_ok()
}

/// Whether this actor has the right to make the attempt, whatever state its objects are in.
pub fn has_right(view: &dyn View, attempt: &Attempt, now: Timestamp) -> bool {
    is_authenticated(view, attempt, now) && authorize(view, attempt, now).is_ok()
}

/// Whether the credential that an actor is known by, if it is known by one, is still good; and until when.
fn authenticate(view: &dyn View, attempt: &Attempt, now: Timestamp) -> Result<Option<Timestamp>, ErrorCode> {
    let Some(id) = attempt.actor.credential() else { return Ok(None) };
    let credential = view.credential(id).ok_or(ErrorCode::NotAuthenticated)?;
    let good = credential.withdrawn_at.is_none()
        && credential.expires_at.is_none_or(|end| now < end)
        && credential.principal == attempt.actor.principal()
        && credential.role == attempt.actor.role();
    if good { Ok(credential.expires_at) } else { Err(ErrorCode::NotAuthenticated) }
}

/// The grant that gives the right, or none if the role does.
fn authorize(view: &dyn View, attempt: &Attempt, now: Timestamp) -> Result<Option<Match>, ErrorCode> {
    match attempt.actor.role() {
        Role::System => Ok(None),
        // Erasing material is the scheduler's alone: it waits for the date that everybody else can still cancel.
        Role::Admin if attempt.operation == Operation::DestroyKey => Err(ErrorCode::AccessDenied),
        Role::Admin => Ok(None),
        Role::Auditor => match attempt.operation {
            Operation::ReadKey
            | Operation::ReadCredentials
            | Operation::ReadGrants
            | Operation::ReadAudit
            | Operation::VerifyAudit
            | Operation::ReadMetrics => Ok(None),
            _ => Err(ErrorCode::AccessDenied),
        },
        Role::App => by_grant(view, attempt, now).map(Some).ok_or(ErrorCode::AccessDenied),
    }
}

fn by_grant(view: &dyn View, attempt: &Attempt, now: Timestamp) -> Option<Match> {
    let principal = attempt.actor.principal();
    let circumstances =
        Circumstances { now, source_ip: attempt.actor.source_ip(), context: attempt.context.as_deref() };
    let pass_on = |permissions: &[Permission], conditions: &Conditions, key: Option<KeyId>| {
        grants::may_pass_on(view, principal, permissions, conditions, key, &circumstances)
    };
    match &attempt.operation {
        Operation::PutGrant { principal: to, permissions, conditions } => {
            let right = pass_on(permissions, conditions, attempt.key)?;
            // Putting a grant replaces the one its principal has there: that takes the right over that one too.
            let mut replaced = Vec::new();
            view.each_grant(to, &mut |grant| {
                if grant.scope == attempt.key.map_or(GrantScope::AllKeys, GrantScope::Key) {
                    replaced.push(grant.clone());
                }
            });
            replaced
                .iter()
                .all(|grant| {
                    matches!(&grant.conditions, StoredConditions::Known(conditions)
                        if pass_on(&grant.permissions, conditions, attempt.key).is_some())
                })
                .then_some(right)
        }
        // Who could have made a grant may take it back.
        Operation::WithdrawGrant { id } => {
            let grant = view.grant(*id)?;
            let StoredConditions::Known(conditions) = &grant.conditions else { return None };
            let key = match grant.scope {
                GrantScope::AllKeys => None,
                GrantScope::Key(key) => Some(key),
            };
            pass_on(&grant.permissions, conditions, key)
        }
        operation => {
            let permission = permission_for(view, operation, attempt.key)?;
            grants::find(view, principal, permission, attempt.key, &circumstances)
        }
    }
}

/// The permission an operation needs; none if no grant can give it.
fn permission_for(view: &dyn View, operation: &Operation, key: Option<KeyId>) -> Option<Permission> {
    Some(match operation {
        Operation::CreateKey => Permission::Create,
        Operation::ReadKey => Permission::Read,
        Operation::Encrypt { .. } => Permission::Encrypt,
        Operation::Decrypt { .. } => Permission::Decrypt,
        Operation::Sign { .. } => Permission::Sign,
        Operation::Verify { .. } => Permission::Verify,
        Operation::Rotate { .. } => Permission::Rotate,
        Operation::DisableKey
        | Operation::RevokeKey
        | Operation::DisableVersion { .. }
        | Operation::RevokeVersion { .. } => Permission::Revoke,
        Operation::SetWindow { version, not_after } => {
            let present = key.and_then(|key| view.version(key, *version)).and_then(|version| version.not_after);
            let end = |t: Option<Timestamp>| t.map_or(i64::MAX, Timestamp::micros);
            if end(*not_after) < end(present) { Permission::Revoke } else { Permission::Manage }
        }
        Operation::EnableKey | Operation::EnableVersion { .. } | Operation::UpdateKey | Operation::CancelDeletion => {
            Permission::Manage
        }
        Operation::ScheduleDeletion => Permission::Delete,
        Operation::PutGrant { .. } | Operation::WithdrawGrant { .. } => Permission::Grant,
        Operation::DestroyKey
        | Operation::Backup
        | Operation::AcknowledgeRestore
        | Operation::AcknowledgeClock
        | Operation::ReplaceSigningKey
        | Operation::CreateCredential
        | Operation::WithdrawCredential { .. }
        | Operation::ReadCredentials
        | Operation::ReadGrants
        | Operation::ReadAudit
        | Operation::VerifyAudit
        | Operation::ReadMetrics => return None,
    })
}

/// What the objects of the operation allow: whether they exist, fit, and are in a state for it.
fn permitted(view: &dyn View, attempt: &Attempt, now: Timestamp) -> Result<Option<Timestamp>, Refusal> {
    match &attempt.operation {
        Operation::CreateKey
        | Operation::Backup
        | Operation::AcknowledgeRestore
        | Operation::AcknowledgeClock
        | Operation::ReplaceSigningKey
        | Operation::CreateCredential
        | Operation::ReadCredentials
        | Operation::ReadGrants
        | Operation::ReadAudit
        | Operation::VerifyAudit
        | Operation::ReadMetrics => return Ok(None),
        Operation::PutGrant { .. } if attempt.key.is_none() => return Ok(None),
        Operation::WithdrawCredential { id } => {
            return match view.credential(*id) {
                Some(credential) if credential.withdrawn_at.is_none() => Ok(None),
                _ => Err(ErrorCode::CredentialNotFound.into()),
            };
        }
        Operation::WithdrawGrant { id } => {
            return match view.grant(*id) {
                Some(grant) if grant.withdrawn_at.is_none() => Ok(None),
                _ => Err(ErrorCode::GrantNotFound.into()),
            };
        }
        _ => {}
    }
    let id = attempt.key.ok_or(Refusal::Code(ErrorCode::KeyNotFound))?;
    if view.is_damaged(id) {
        return Err(ErrorCode::IntegrityFailure.into());
    }
    let key = view.key(id).ok_or(Refusal::Code(ErrorCode::KeyNotFound))?;
    if attempt.key_type.is_some_and(|needed| needed != key.key_type) {
        return Err(ErrorCode::WrongKeyType.into());
    }
    keys::permits(&attempt.operation, key, |number| view.version(id, number), now)
}
