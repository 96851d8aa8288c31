//! Creating, listing and revoking grants.

use super::change::Intent;
use super::idempotency::{Once, first_answer};
use super::listing::{Slice, page};
use super::refusal::refusal;
use super::requests::{GrantFilter, GrantTarget, NewGrant, Page, Paging};
use super::{KeyRef, Session};
use crate::catalog::{GrantDescription, Snapshot, grant_description};
use crate::grants::{self, Circumstances, check_new_grant, is_in_force};
use crate::ledger::{Details, context_json};
use crate::lifecycle::{CheckedGrant, Command};
use crate::policy;
use crate::types::actor::{Role, check_principal, is_reserved};
use crate::types::attempt::Operation;
use crate::types::audit::{Action, hex};
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::grant::{Grant, GrantScope, Grantor, Permission};
use crate::types::ids::{GrantId, KeyId};
use crate::types::key::AuditContext;
use crate::types::view::CatalogView;

impl Session {
    /// Creates a grant, or replaces the one that the principal has from the same grantor on the same scope; all admins
    /// count as one grantor. The permissions of a principal are the union of its grants.
    ///
    /// An app needs `grant` on the scope. It may pass on only permissions that it holds itself, under conditions no
    /// weaker, and neither to itself nor to a principal above it in the chain of at most 16 grants. A key given by name
    /// is looked up only for callers that may read it or hold `grant` on it; others are refused as when reading it.
    ///
    /// Cancellation: before the change is submitted, dropping the future does nothing; afterwards the change is made
    /// and its answer is lost. Sent again under an idempotency key, the request gets that answer.
    pub async fn put_grant(&self, new: NewGrant) -> Result<GrantDescription> {
        let new = self.check_grant(new).await?;
        let (principal, scope) = (new.principal.clone(), new.scope);
        let own =
            Grantor { principal: self.actor.principal().to_owned(), role: self.actor.role(), through: Vec::new() };
        let is_replaced = |grant: &Grant| own.replaces(&grant.grantor);
        let replaces = {
            let mut replaces = false;
            self.shared.catalog.snapshot().each_grant(&principal, scope, &mut |grant| replaces |= is_replaced(grant));
            replaces
        };
        let key = match scope {
            GrantScope::AllKeys => None,
            GrantScope::Key(id) => Some(id),
        };
        let operation = Operation::PutGrant {
            principal: principal.clone(),
            permissions: new.permissions.clone(),
            conditions: new.conditions.clone(),
        };
        let details = self.grant_details(&new)?;
        let once = self.once(Action::GrantCreate, "", None, &details, *new.id.as_bytes());
        let intent = Intent {
            action: if replaces { Action::GrantUpdate } else { Action::GrantCreate },
            attempt: self.attempt(operation, key),
            version: None,
            details,
            once: once.clone(),
        };
        let right = intent.attempt.clone();
        let change = self.change(intent, Command::PutGrant(Box::new(new)));
        let changes = match self.do_once(once, Some(right), change).await? {
            Once::Now((changes, _)) => changes,
            // The grant as it was made, even if it is revoked by now.
            Once::Before(kept) => {
                let as_it_is = || {
                    let snapshot = self.shared.catalog.snapshot();
                    let mut found = snapshot.grant(GrantId::from_bytes(kept.subject)).map(grant_description);
                    snapshot.each_grant(&principal, scope, &mut |grant| {
                        if found.is_none() && is_replaced(grant) {
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

    /// Checks a grant, and looks up a key that is given by name.
    async fn check_grant(&self, new: NewGrant) -> Result<CheckedGrant> {
        let NewGrant { principal, role, permissions, conditions, target } = new;
        check_principal(&principal)?;
        if is_reserved(&principal) || role == Role::System {
            return Err(Error::invalid(format!(
                "{principal:?} is a reserved principal; make the grant to another one"
            )));
        }
        let scope = match target {
            None => return Err(Error::invalid("a grant needs a key: name one, or make the grant on all keys")),
            Some(GrantTarget::AllKeys) => GrantScope::AllKeys,
            Some(GrantTarget::Key(KeyRef::Id(id))) => GrantScope::Key(id),
            Some(GrantTarget::Key(key)) => GrantScope::Key(self.find_key_to_grant(&key).await?),
        };
        let permissions = check_new_grant(scope, &permissions, &conditions)?;
        Ok(CheckedGrant { id: GrantId::random(), principal, role, scope, permissions, conditions })
    }

    /// The details of a grant's record. Contexts in the conditions are recorded in the same form as in operations with
    /// the key.
    fn grant_details(&self, new: &CheckedGrant) -> Result<Details> {
        let mut conditions = serde_json::to_value(&new.conditions)
            .map_err(|e| Error::new(ErrorCode::Internal, format!("conditions do not serialize: {e}")).with_source(e))?;
        let hides_contexts = match new.scope {
            GrantScope::AllKeys => false,
            GrantScope::Key(id) => {
                let snapshot = self.shared.catalog.snapshot();
                snapshot.key(id).is_none_or(|key| key.audit_context == AuditContext::Hmac)
            }
        };
        if hides_contexts && let Some(members) = conditions.as_object_mut() {
            for (name, context) in [
                ("encryptionContextEquals", &new.conditions.encryption_context_equals),
                ("encryptionContextSubset", &new.conditions.encryption_context_subset),
            ] {
                if let Some(context) = context {
                    let mac = self.shared.catalog.seals().context_mac(context_json(context).as_bytes());
                    members.remove(name);
                    members.insert(format!("{name}Hmac"), hex(&mac).into());
                }
            }
        }
        let names: Vec<String> = new.permissions.iter().map(|permission| format!("\"{permission}\"")).collect();
        let mut details = Details::default();
        details
            .text("principal", &new.principal)
            .text("grantRole", new.role.as_str())
            .text("scope", &new.scope.to_string())
            .raw("allowedOps", format!("[{}]", names.join(",")))
            .raw("conditions", crate::audit::canonical::canonical(&conditions)?);
        Ok(details)
    }

    async fn find_key_to_grant(&self, key: &KeyRef) -> Result<KeyId> {
        self.shared.catalog.ensure_fresh().await?;
        let found = key.resolve(&self.shared.catalog.snapshot());
        match found {
            Some(id) if self.holds_grant(id) => Ok(id),
            id => {
                self.decide_reading(Action::KeyRead, Operation::ReadKey, id).await?;
                id.ok_or_else(|| refusal(ErrorCode::KeyNotFound))
            }
        }
    }

    fn holds_grant(&self, key: KeyId) -> bool {
        let snapshot = self.shared.catalog.snapshot();
        let now = self.shared.clock.now();
        let circumstances = Circumstances { now, source_ip: self.actor.source_ip(), context: None };
        policy::is_authenticated(&*snapshot, &self.attempt(Operation::ReadKey, Some(key)), now)
            && snapshot.key(key).is_some()
            && grants::find(&*snapshot, self.actor.principal(), Permission::Grant, Some(key), &circumstances).is_some()
    }

    /// Revokes a grant. Grants that were passed on through it stay in force. An app may revoke the grants it made, and
    /// those passed on through them, as long as it holds `grant` there.
    ///
    /// Cancellation: before the change is submitted, dropping the future does nothing; afterwards the change is made
    /// and its answer is lost. Sent again under an idempotency key, the request gets that answer.
    pub async fn revoke_grant(&self, id: GrantId) -> Result<()> {
        self.revoke(id, false).await
    }

    /// Revokes a grant and everything that was passed on through it, at any depth; also a grant that was revoked before
    /// without its descendants.
    ///
    /// Cancellation: before the change is submitted, dropping the future does nothing; afterwards the change is made
    /// and its answer is lost. Sent again under an idempotency key, the request gets that answer.
    pub async fn revoke_grant_cascading(&self, id: GrantId) -> Result<()> {
        self.revoke(id, true).await
    }

    async fn revoke(&self, id: GrantId, cascade: bool) -> Result<()> {
        let mut details = Details::default();
        details.text("grantId", &id.to_string());
        if cascade {
            details.raw("cascade", "true");
        }
        let key = match self.shared.catalog.snapshot().grant(id).map(|grant| grant.scope) {
            Some(GrantScope::Key(key)) => Some(key),
            _ => None,
        };
        let target = if cascade { format!("{id} cascade") } else { id.to_string() };
        let once = self.once(Action::GrantWithdraw, &target, None, &Details::default(), *id.as_bytes());
        let intent = Intent {
            action: Action::GrantWithdraw,
            attempt: self.attempt(Operation::WithdrawGrant { id, cascade }, key),
            version: None,
            details,
            once: once.clone(),
        };
        self.do_once(once, None, self.change(intent, Command::WithdrawGrant(id, cascade))).await.map(drop)
    }

    /// Lists the grants in force, by principal: neither revoked nor passed on through a grant that was revoked with its
    /// descendants. `KeyNotFound` if the filter has a name that no key has; an id may be one of no existing key. For
    /// admins and auditors.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn list_grants(&self, filter: &GrantFilter, paging: &Paging) -> Result<Page<GrantDescription>> {
        paging.check()?;
        let cursor: Option<GrantId> = paging.cursor_as()?;
        let principal = filter.principal.as_deref();
        principal.map_or(Ok(()), check_principal)?;
        self.permit_reading(Action::GrantRead, Operation::ReadGrants, None).await?;
        let _admission = self.admit_list()?;
        let key = match &filter.target {
            Some(GrantTarget::Key(key)) => {
                let found = key.resolve(&self.shared.catalog.snapshot());
                Some(found.ok_or_else(|| refusal(ErrorCode::KeyNotFound))?)
            }
            None | Some(GrantTarget::AllKeys) => None,
        };
        let cursor_of = |grant: &GrantDescription| grant.id.to_string();
        page(paging.limit, cursor_of, |room, last| {
            let snapshot = self.shared.catalog.snapshot();
            let after = last.map(str::parse).transpose()?.or(cursor);
            let after =
                after.map(|id| snapshot.grant(id).ok_or_else(|| refusal(ErrorCode::GrantNotFound))).transpose()?;
            let see = |grant: &&Grant| is_in_force(&*snapshot, grant).then(|| grant_description(grant));
            Ok(Slice::of(listed(&snapshot, filter, key, after), room, see, |grant| grant.id.to_string()))
        })
        .await
    }
}

/// The grants after this one that pass the filter, whose key is `key`.
fn listed<'i>(
    snapshot: &'i Snapshot,
    filter: &GrantFilter,
    key: Option<KeyId>,
    after: Option<&'i Grant>,
) -> Box<dyn Iterator<Item = &'i Grant> + 'i> {
    match (&filter.target, key, &filter.principal) {
        (None, _, None) => Box::new(snapshot.grants_behind(after)),
        (None, _, Some(principal)) => Box::new(snapshot.grants_of(principal, after)),
        (Some(_), None, None) => Box::new(snapshot.grants_on(GrantScope::AllKeys, after)),
        (Some(_), Some(key), None) => {
            let on_key = snapshot.grants_on(GrantScope::Key(key), after);
            Box::new(merged(on_key, snapshot.grants_on(GrantScope::AllKeys, after)))
        }
        // At most a few: those of one principal on two scopes.
        (Some(_), key, Some(principal)) => {
            let mut grants: Vec<&Grant> = Vec::new();
            for scope in key.map(GrantScope::Key).into_iter().chain([GrantScope::AllKeys]) {
                snapshot.each_grant(principal, scope, &mut |grant| grants.extend(snapshot.grant(grant.id)));
            }
            grants.sort_unstable_by_key(|grant| grant.id);
            let place = |grant: &Grant| (grant.principal.clone(), grant.id);
            Box::new(grants.into_iter().filter(move |grant| after.is_none_or(|after| place(grant) > place(after))))
        }
    }
}

/// Merges two lists of grants in list order.
fn merged<'i>(
    one: impl Iterator<Item = &'i Grant>,
    other: impl Iterator<Item = &'i Grant>,
) -> impl Iterator<Item = &'i Grant> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    std::iter::from_fn(move || match (one.peek(), other.peek()) {
        (Some(a), Some(b)) if (&a.principal, a.id) > (&b.principal, b.id) => other.next(),
        (Some(_), _) => one.next(),
        (None, _) => other.next(),
    })
}
