//! Transitions of grants, credentials and the quarantine.

use super::apply::{Context, missing};
use super::command::{CheckedCredential, CheckedGrant, ENDED_TOKEN_DAYS, NewQuarantined, REMOVED_AT_ONCE, Released};
use crate::grants::is_in_force;
use crate::types::actor::Role;
use crate::types::change::Change;
use crate::types::credential::Credential;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::grant::{Grant, GrantScope, Grantor, StoredConditions};
use crate::types::ids::{CredentialId, GrantId};
use crate::types::key::{Key, KeyVersion};
use crate::types::limits::GRANTS_PER_SCOPE;
use crate::types::quarantine::{EntityRow, Quarantined};

impl Context<'_> {
    pub(super) fn put_grant(&self, new: &CheckedGrant) -> Result<Vec<Change>> {
        if let GrantScope::Key(key) = new.scope {
            self.key(key)?;
        }
        let grantor = self.grantor.clone().unwrap_or_else(Grantor::service);
        let former = self.standing(&new.principal, new.scope, &grantor);
        // A grant that is no longer in force because of a cascade must not become valid again under a new grantor, nor
        // what was passed on through it. So a new row replaces it.
        let (existing, ended) = match former {
            Some(grant) if is_in_force(self.view, &grant) => (Some(grant), None),
            former => (None, former),
        };
        let grant = Grant {
            id: existing.as_ref().map_or(new.id, |grant| grant.id),
            principal: new.principal.clone(),
            role: new.role,
            scope: new.scope,
            permissions: new.permissions.clone(),
            conditions: StoredConditions::Known(new.conditions.clone()),
            created_at: existing.as_ref().map_or(self.now, |grant| grant.created_at),
            withdrawn_at: None,
            grantor,
            cascade: false,
            revision: self.revision,
        };
        let is_one_more = existing.is_none() && ended.is_none();
        let crowding = if is_one_more && grant.grantor.role == Role::App {
            self.make_room(&new.principal, new.scope)?
        } else {
            Vec::new()
        };
        let mut changes =
            vec![if existing.is_some() { Change::UpdateGrant(grant) } else { Change::InsertGrant(grant) }];
        changes.extend(ended.map(|grant| self.withdrawn(&grant)));
        changes.extend(crowding);
        Ok(changes)
    }

    /// Limits the grants that apps make to one principal on one scope, because a decision reads all of them. At the
    /// limit, grants that are no longer in force because of a cascade are revoked to make room; `LimitExceeded` if
    /// there are none.
    fn make_room(&self, principal: &str, scope: GrantScope) -> Result<Vec<Change>> {
        let (mut count, mut over) = (0, Vec::new());
        self.view.each_grant(principal, scope, &mut |grant| {
            if grant.grantor.role == Role::App {
                count += 1;
                if !is_in_force(self.view, grant) {
                    over.push(self.withdrawn(grant));
                }
            }
        });
        match count {
            0..GRANTS_PER_SCOPE => Ok(Vec::new()),
            _ if over.is_empty() => Err(Error::new(ErrorCode::LimitExceeded, "too many grants by apps on one scope")),
            _ => Ok(over),
        }
    }

    /// The grant that a new one by this grantor would replace.
    fn standing(&self, principal: &str, scope: GrantScope, grantor: &Grantor) -> Option<Grant> {
        let mut found = None;
        self.view.each_grant(principal, scope, &mut |grant| {
            if grantor.replaces(&grant.grantor) {
                found = Some(grant.clone());
            }
        });
        found
    }

    fn withdrawn(&self, grant: &Grant) -> Change {
        let withdrawn_at = grant.withdrawn_at.or(Some(self.now));
        Change::UpdateGrant(Grant { withdrawn_at, revision: self.revision, ..grant.clone() })
    }

    pub(super) fn withdraw_grant(&self, id: GrantId, cascade: bool) -> Result<Vec<Change>> {
        let grant = self.view.grant(id).ok_or_else(|| missing("grant"))?;
        Ok(vec![Change::UpdateGrant(Grant {
            withdrawn_at: grant.withdrawn_at.or(Some(self.now)),
            cascade: cascade || grant.cascade,
            revision: self.revision,
            ..grant.clone()
        })])
    }

    pub(super) fn create_credential(&self, new: &CheckedCredential) -> Result<Vec<Change>> {
        if new.is_first && self.view.has_credentials() {
            return Err(Error::new(ErrorCode::Conflict, "the store has or had a credential already"));
        }
        Ok(vec![Change::InsertCredential(Credential {
            id: new.id,
            principal: new.principal.clone(),
            role: new.role,
            secret_hash: new.secret_hash,
            label: new.label.clone(),
            created_at: self.now,
            expires_at: new.expires_at,
            withdrawn_at: None,
            removal: None,
            revision: self.revision,
        })])
    }

    pub(super) fn withdraw_credential(&self, id: CredentialId) -> Result<Vec<Change>> {
        let credential = self.view.credential(id).ok_or_else(|| missing("credential"))?;
        let withdrawn = Credential { withdrawn_at: Some(self.now), revision: self.revision, ..credential.clone() };
        Ok(vec![Change::UpdateCredential(withdrawn)])
    }

    /// Removes credentials that ended long ago, all before one that stays and says so.
    pub(super) fn remove_credentials(&self) -> Vec<Change> {
        let before = self.now.minus_days(ENDED_TOKEN_DAYS);
        let mut ended = Vec::new();
        self.view.ended_credentials(before, REMOVED_AT_ONCE + 1, &mut |credential| ended.push(credential.clone()));
        ended.truncate(REMOVED_AT_ONCE + 1);
        let Some(oldest) = ended.pop().filter(|_| !ended.is_empty()) else { return Vec::new() };
        let oldest = Credential { removal: Some(self.revision), revision: self.revision, ..oldest };
        std::iter::once(Change::UpdateCredential(oldest))
            .chain(ended.into_iter().map(Change::RemoveCredential))
            .collect()
    }

    /// Quarantines these rows, except those that another process has already quarantined.
    pub(super) fn quarantine(&self, rows: &[NewQuarantined]) -> Vec<Change> {
        let new = rows.iter().filter(|row| !self.view.is_quarantined(row.table, row.row));
        new.map(|new| {
            Change::InsertQuarantined(Quarantined {
                id: new.id,
                table: new.table,
                row: new.row,
                key: new.key,
                key_name: new.key_name.clone(),
                created_at: self.now,
                released_at: None,
                revision: self.revision,
            })
        })
        .collect()
    }

    /// Writes the rows with a new revision, so that every process reads them again. A grant that was replaced while it
    /// was in quarantine is released as a revoked one.
    pub(super) fn release(&self, rows: &[Released]) -> Vec<Change> {
        let active = rows.iter().filter(|row| self.view.is_quarantined(row.entry.table, row.entry.row));
        let revision = self.revision;
        let changes = active.flat_map(|Released { entry, row }| {
            let released = Quarantined { released_at: Some(self.now), revision, ..entry.clone() };
            let row = match row {
                EntityRow::Key(key) => Change::UpdateKey(Key { revision, ..key.clone() }),
                EntityRow::Version(version) => Change::UpdateVersion(KeyVersion { revision, ..version.clone() }),
                EntityRow::Grant(grant) if self.standing(&grant.principal, grant.scope, &grant.grantor).is_some() => {
                    self.withdrawn(grant)
                }
                EntityRow::Grant(grant) => Change::UpdateGrant(Grant { revision, ..grant.clone() }),
                EntityRow::Credential(credential) => {
                    Change::UpdateCredential(Credential { revision, ..credential.clone() })
                }
            };
            [Change::UpdateQuarantined(released), row]
        });
        changes.collect()
    }
}
