//! Making, listing and withdrawing grants.

use super::Session;
use super::change::Intent;
use super::idempotency::{Once, first_answer};
use super::refusal::refusal;
use crate::catalog::{GrantDescription, grant_description};
use crate::grants::check_new_grant;
use crate::keys::{Command, NewGrant};
use crate::ledger::Details;
use crate::types::actor::{RESERVED_PRINCIPALS, Role, normalize_principal};
use crate::types::attempt::Operation;
use crate::types::audit::Action;
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::grant::{Conditions, Grant, GrantScope, Permission};
use crate::types::ids::GrantId;
use crate::types::limits::PAGE_LIMIT;
use crate::types::view::View;

impl Session {
    /// Makes a grant, or replaces the one the principal has on the same scope. An app needs `grant` there, and may
    /// pass on only what it holds itself, with conditions no weaker.
    pub async fn put_grant(
        &self,
        principal: &str,
        role: Role,
        scope: GrantScope,
        permissions: &[Permission],
        conditions: Conditions,
    ) -> Result<GrantDescription> {
        let principal = normalize_principal(principal)?;
        if RESERVED_PRINCIPALS.contains(&principal.as_str()) || role == Role::System {
            return Err(Error::invalid("a grant cannot be made to the service itself"));
        }
        let permissions = check_new_grant(scope, permissions, &conditions)?;
        let key = match scope {
            GrantScope::AllKeys => None,
            GrantScope::Key(id) => Some(id),
        };
        let new = NewGrant {
            id: GrantId::random(),
            principal: principal.clone(),
            role,
            scope,
            permissions: permissions.clone(),
            conditions: conditions.clone(),
        };
        let replaces = {
            let mut replaces = false;
            self.shared.catalog.image().each_grant(&principal, &mut |grant| replaces |= grant.scope == scope);
            replaces
        };
        let mut details = Details::default();
        let names: Vec<String> = permissions.iter().map(|permission| format!("\"{permission}\"")).collect();
        let conditions_value = serde_json::to_value(&conditions)
            .map_err(|e| Error::new(ErrorCode::Internal, format!("conditions do not serialize: {e}")))?;
        details
            .text("principal", &principal)
            .text("grantRole", role.as_str())
            .text("scope", &scope.to_string())
            .raw("allowedOps", format!("[{}]", names.join(",")))
            .raw("conditions", crate::audit::canonical::canonical(&conditions_value)?);
        let once = self.once(Action::GrantCreate, "", None, &details, *new.id.as_bytes());
        let intent = Intent {
            action: if replaces { Action::GrantUpdate } else { Action::GrantCreate },
            attempt: self.attempt(Operation::PutGrant { principal, permissions, conditions }, key),
            version: None,
            details,
            once: once.clone(),
        };
        let (to, right) = (new.principal.clone(), intent.attempt.clone());
        let change = self.change(intent, Command::PutGrant(Box::new(new)));
        let changes = match self.do_once(once, Some(right), change).await? {
            Once::Now((changes, _)) => changes,
            // As it was made, also if it is withdrawn by now.
            Once::Before(kept) => {
                let as_it_is = || {
                    let image = self.shared.catalog.image();
                    let mut found = image.grant(GrantId::from_bytes(kept.subject)).map(grant_description);
                    image.each_grant(&to, &mut |grant| {
                        if found.is_none() && grant.scope == scope {
                            found = Some(grant_description(grant));
                        }
                    });
                    found
                };
                return first_answer(&kept).or_else(as_it_is).ok_or_else(|| refusal(ErrorCode::GrantNotFound));
            }
        };
        changes
            .iter()
            .find_map(|change| match change {
                Change::InsertGrant(grant) | Change::UpdateGrant(grant) => Some(grant_description(grant)),
                _ => None,
            })
            .ok_or_else(|| Error::new(ErrorCode::Internal, "a grant was made without a row"))
    }

    /// Withdraws a grant. An app may withdraw what it could have made.
    pub async fn withdraw_grant(&self, id: GrantId) -> Result<()> {
        let mut details = Details::default();
        details.text("grantId", &id.to_string());
        let key = match self.shared.catalog.image().grant(id).map(|grant| grant.scope) {
            Some(GrantScope::Key(key)) => Some(key),
            _ => None,
        };
        let once = self.once(Action::GrantWithdraw, &id.to_string(), None, &Details::default(), *id.as_bytes());
        let intent = Intent {
            action: Action::GrantWithdraw,
            attempt: self.attempt(Operation::WithdrawGrant { id }, key),
            version: None,
            details,
            once: once.clone(),
        };
        self.do_once(once, None, self.change(intent, Command::WithdrawGrant(id))).await.map(drop)
    }

    /// The grants that are not withdrawn, of one principal or of all, by principal: at most 1,000 from the one after
    /// `cursor` on.
    pub async fn list_grants(
        &self,
        principal: Option<&str>,
        limit: usize,
        cursor: Option<GrantId>,
    ) -> Result<Vec<GrantDescription>> {
        self.list_grants_on(None, principal, limit, cursor).await
    }

    /// The same, and only those that concern a key: on the key itself or on all keys. [`GrantScope::AllKeys`] asks for those
    /// on all keys alone.
    pub async fn list_grants_on(
        &self,
        scope: Option<GrantScope>,
        principal: Option<&str>,
        limit: usize,
        cursor: Option<GrantId>,
    ) -> Result<Vec<GrantDescription>> {
        if limit == 0 || limit > PAGE_LIMIT {
            return Err(Error::invalid(format!("a page has 1 to {PAGE_LIMIT} entries")));
        }
        let principal = principal.map(normalize_principal).transpose()?;
        self.permit_reading(Action::GrantRead, Operation::ReadGrants, None).await?;
        let image = self.shared.catalog.image();
        let is_wanted = |grant: &&Grant| {
            principal.as_ref().is_none_or(|p| *p == grant.principal)
                && scope.is_none_or(|scope| grant.scope == scope || grant.scope == GrantScope::AllKeys)
        };
        let mut grants: Vec<&Grant> = image.grants().filter(is_wanted).collect();
        grants.sort_by(|a, b| (&a.principal, a.id).cmp(&(&b.principal, b.id)));
        let first = match cursor {
            None => 0,
            Some(cursor) => {
                let place = image.grant(cursor).map(|grant| (grant.principal.clone(), grant.id));
                let (principal, id) = place.ok_or_else(|| refusal(ErrorCode::GrantNotFound))?;
                grants.partition_point(|grant| (&grant.principal, grant.id) <= (&principal, id))
            }
        };
        Ok(grants.into_iter().skip(first).take(limit).map(grant_description).collect())
    }
}
