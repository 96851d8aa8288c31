//! Policy decisions: a pure function of the catalog's view, the attempt and the time.

#[cfg(test)]
mod tests;

use crate::grants::{self, Circumstances, Match, NewRights, PassedOn};
use crate::lifecycle::{self, Refusal};
use crate::types::actor::Role;
use crate::types::attempt::{Attempt, Decision, Operation};
use crate::types::error::ErrorCode;
use crate::types::grant::{GrantScope, Grantor, Permission};
use crate::types::ids::KeyId;
use crate::types::time::Timestamp;
use crate::types::view::CatalogView;

/// Decides on an attempt against `view` at `now`. Checks the caller's role and grants first, and the states of key and
/// version only then, so that a caller without a right learns nothing about them. Denies by default.
pub fn decide(view: &dyn CatalogView, attempt: &Attempt, now: Timestamp) -> Decision {
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

/// Whether the actor's credential, if it has one, is still valid.
pub fn is_authenticated(view: &dyn CatalogView, attempt: &Attempt, now: Timestamp) -> bool {
    authenticate(view, attempt, now).is_ok()
}

/// Whether the actor has the right to make the attempt, regardless of the state of key and version.
pub fn has_right(view: &dyn CatalogView, attempt: &Attempt, now: Timestamp) -> bool {
    is_authenticated(view, attempt, now) && authorize(view, attempt, now).is_ok()
}

/// Whether the actor has the right to make such an attempt on at least one key. Used for attempts that name no known
/// key.
pub fn has_right_somewhere(view: &dyn CatalogView, attempt: &Attempt, now: Timestamp) -> bool {
    if attempt.actor.role() != Role::App {
        return has_right(view, attempt, now);
    }
    let Some(permission) = permission_for(view, &attempt.operation, attempt.key) else { return false };
    is_authenticated(view, attempt, now)
        && grants::allows_somewhere(view, attempt.actor.principal(), permission, &circumstances(attempt, now))
}

/// Checks that the actor's credential, if it has one, is still valid; returns its expiry.
fn authenticate(view: &dyn CatalogView, attempt: &Attempt, now: Timestamp) -> Result<Option<Timestamp>, ErrorCode> {
    let Some(id) = attempt.actor.credential() else { return Ok(None) };
    let credential = view.credential(id).ok_or(ErrorCode::NotAuthenticated)?;
    let good = credential.withdrawn_at.is_none()
        && credential.expires_at.is_none_or(|end| now < end)
        && credential.principal == attempt.actor.principal()
        && credential.role == attempt.actor.role();
    if good { Ok(credential.expires_at) } else { Err(ErrorCode::NotAuthenticated) }
}

/// The grant that gives the right; `None` if the role gives it.
fn authorize(view: &dyn CatalogView, attempt: &Attempt, now: Timestamp) -> Result<Option<Match>, ErrorCode> {
    match attempt.actor.role() {
        Role::System => Ok(None),
        // Only the scheduler erases keys, and only when the date of the deletion has passed.
        Role::Admin if matches!(attempt.operation, Operation::DestroyKey | Operation::EraseKey) => {
            Err(ErrorCode::AccessDenied)
        }
        Role::Admin => Ok(None),
        Role::Auditor => match attempt.operation {
            Operation::ReadKey
            | Operation::ReadCredentials
            | Operation::ReadGrants
            | Operation::ReadQuarantine
            | Operation::ReadRootKeys
            | Operation::ReadAudit
            | Operation::VerifyAudit
            | Operation::ReadMetrics => Ok(None),
            _ => Err(ErrorCode::AccessDenied),
        },
        Role::App => by_grant(view, attempt, now).map(Some).ok_or(ErrorCode::AccessDenied),
    }
}

fn by_grant(view: &dyn CatalogView, attempt: &Attempt, now: Timestamp) -> Option<Match> {
    let principal = attempt.actor.principal();
    match &attempt.operation {
        Operation::PutGrant { .. } => passes_on(view, attempt, now).map(|passed_on| passed_on.right),
        // Only the grantor, or one before it in the chain, can withdraw a grant, and only while it can grant there.
        Operation::WithdrawGrant { id, .. } => {
            let grant = view.grant(*id)?;
            let key = match grant.scope {
                GrantScope::AllKeys => None,
                GrantScope::Key(key) => Some(key),
            };
            let right = grants::find(view, principal, Permission::Grant, key, &circumstances(attempt, now))?;
            grants::is_grantor(view, grant, principal).then_some(right)
        }
        operation => {
            let permission = permission_for(view, operation, attempt.key)?;
            grants::find(view, principal, permission, attempt.key, &circumstances(attempt, now))
        }
    }
}

fn circumstances(attempt: &Attempt, now: Timestamp) -> Circumstances<'_> {
    Circumstances { now, source_ip: attempt.actor.source_ip(), context: attempt.context.as_deref() }
}

fn passes_on(view: &dyn CatalogView, attempt: &Attempt, now: Timestamp) -> Option<PassedOn> {
    let Operation::PutGrant { principal, permissions, conditions } = &attempt.operation else { return None };
    let new = NewRights { to: principal, permissions, conditions, key: attempt.key };
    grants::pass_on(view, attempt.actor.principal(), &new, &circumstances(attempt, now))
}

/// The grantor of a grant, with the grants that it passes on, for an attempt that was allowed.
pub fn grantor(view: &dyn CatalogView, attempt: &Attempt, now: Timestamp) -> Grantor {
    let (principal, role) = (attempt.actor.principal().to_owned(), attempt.actor.role());
    let through = match role {
        Role::App => passes_on(view, attempt, now).map(|passed_on| passed_on.through).unwrap_or_default(),
        _ => Vec::new(),
    };
    Grantor { principal, role, through }
}

/// The permission that an operation needs; `None` if no grant can allow the operation.
fn permission_for(view: &dyn CatalogView, operation: &Operation, key: Option<KeyId>) -> Option<Permission> {
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
        Operation::EnableKey
        | Operation::EnableVersion { .. }
        | Operation::UpdateKey { .. }
        | Operation::CancelDeletion => Permission::Manage,
        Operation::ScheduleDeletion { .. } | Operation::TrimKey => Permission::Delete,
        Operation::PutGrant { .. } | Operation::WithdrawGrant { .. } => Permission::Grant,
        Operation::DestroyKey
        | Operation::EraseKey
        | Operation::Backup
        | Operation::AcknowledgeRestore
        | Operation::AcknowledgeClock
        | Operation::ReplaceSigningKey
        | Operation::CreateCredential
        | Operation::WithdrawCredential { .. }
        | Operation::RemoveCredentials
        | Operation::ReadCredentials
        | Operation::Import
        | Operation::ManageRootKeys
        | Operation::ReadRootKeys
        | Operation::ManageQuarantine
        | Operation::ReadQuarantine
        | Operation::ReadGrants
        | Operation::ReadAudit
        | Operation::VerifyAudit
        | Operation::ReadMetrics => return None,
    })
}

/// Whether the objects of the operation exist, are of the right type and are in a state that allows it. Returns the end
/// of the grace window that the operation relies on.
fn permitted(view: &dyn CatalogView, attempt: &Attempt, now: Timestamp) -> Result<Option<Timestamp>, Refusal> {
    match &attempt.operation {
        Operation::CreateKey
        | Operation::Backup
        | Operation::AcknowledgeRestore
        | Operation::AcknowledgeClock
        | Operation::ReplaceSigningKey
        | Operation::CreateCredential
        | Operation::RemoveCredentials
        | Operation::ReadCredentials
        | Operation::Import
        | Operation::ManageRootKeys
        | Operation::ReadRootKeys
        | Operation::ManageQuarantine
        | Operation::ReadQuarantine
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
        Operation::WithdrawGrant { id, cascade } => {
            return match view.grant(*id) {
                Some(grant) if grant.withdrawn_at.is_none() => Ok(None),
                // A revoked grant can be revoked again with a cascade.
                Some(grant) if *cascade && !grant.cascade => Ok(None),
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
    lifecycle::permits(&attempt.operation, key, |number| view.version(id, number), now)
}
