//! Transitions of root key generations, and of the service's own keys.

use super::apply::{Context, missing};
use super::command::{NewIntegrityKey, NewSigningKey, Resealing};
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::root_key::{RootKeyGeneration, RootKeyState, ServiceKey, ServiceKeyKind, ServiceKeyState};
use crate::types::view::{CatalogView, current_service_key, wrapping_generations};

impl Context<'_> {
    pub(super) fn root_key(&self, generation: u32) -> Result<RootKeyGeneration> {
        let mut found = None;
        self.view.each_root_key(&mut |root| {
            if root.generation == generation {
                found = Some(root.clone());
            }
        });
        found.ok_or_else(|| missing("generation of the root key"))
    }

    /// Generations have no gaps, so it is a `Conflict` if another node added one first.
    pub(super) fn add_root_key(&self, new: &RootKeyGeneration) -> Result<Vec<Change>> {
        let mut newest = 0;
        self.view.each_root_key(&mut |root| newest = newest.max(root.generation));
        if new.generation != newest + 1 {
            return Err(Error::new(ErrorCode::Conflict, "another generation of the root key was added first"));
        }
        let root = RootKeyGeneration { created_at: self.now, revision: self.revision, ..new.clone() };
        Ok(vec![Change::InsertRootKey(root)])
    }

    /// Fails with `WrongState` if no other generation would be left to wrap new material under.
    pub(super) fn mark_compromised(&self, generation: u32) -> Result<Vec<Change>> {
        let root = self.root_key(generation)?;
        self.require_another(generation)?;
        let compromised_at = root.compromised_at.or(Some(self.now));
        Ok(vec![Change::UpdateRootKey(RootKeyGeneration { compromised_at, ..self.closed(root) })])
    }

    pub(super) fn begin_retirement(&self, generation: u32) -> Result<Vec<Change>> {
        let root = self.root_key(generation)?;
        self.require_another(generation)?;
        if root.state != RootKeyState::Active {
            return Ok(Vec::new());
        }
        let state = RootKeyState::Retiring;
        Ok(vec![Change::UpdateRootKey(RootKeyGeneration { state, ..self.closed(root) })])
    }

    pub(super) fn retire_root_key(&self, generation: u32) -> Result<Vec<Change>> {
        let root = self.root_key(generation)?;
        if !root.is_active() {
            return Ok(Vec::new());
        }
        self.require_another(generation)?;
        if root.compromised_at.is_some() && !leaked_service_keys(self.view, &root).is_empty() {
            let text = "the integrity or signing key may have leaked with the root key; replace it first";
            return Err(Error::new(ErrorCode::WrongState, text));
        }
        let retired_at = root.retired_at.or(Some(self.now));
        let state = RootKeyState::Retired;
        Ok(vec![Change::UpdateRootKey(RootKeyGeneration { state, retired_at, ..self.closed(root) })])
    }

    /// Closes a generation for new wrappings from this record on, unless it was closed before.
    fn closed(&self, root: RootKeyGeneration) -> RootKeyGeneration {
        let closed_seq = root.closed_seq.or(Some(self.revision));
        RootKeyGeneration { closed_seq, revision: self.revision, ..root }
    }

    fn require_another(&self, generation: u32) -> Result<()> {
        if wrapping_generations(self.view).iter().any(|other| *other != generation) {
            return Ok(());
        }
        let text = "it is the last generation of the root key that new material is wrapped under";
        Err(Error::new(ErrorCode::WrongState, text))
    }
    /// Replaces the signing key; the wrappings of the former one are erased.
    pub(super) fn replace_signing_key(&self, new: &NewSigningKey) -> Result<Vec<Change>> {
        let former = self.current_before(ServiceKeyKind::Signing, new.number)?;
        let key = ServiceKey { id: new.id, fingerprint: new.fingerprint, ..self.succeeding(&former) };
        let key = ServiceKey { public_key: Some(new.key.public_key()), ..key };
        let former = ServiceKey { state: ServiceKeyState::Replaced, revision: self.revision, ..former };
        Ok(vec![Change::UpdateServiceKey(former), Change::InsertServiceKey(key, new.wrapped.clone())])
    }

    /// Replaces the integrity key; the former one stays until all rows are resealed.
    pub(super) fn replace_integrity_key(&self, new: &NewIntegrityKey) -> Result<Vec<Change>> {
        if self.resealing().is_some() {
            return Err(Error::new(
                ErrorCode::Conflict,
                "the integrity key is being replaced; wait until that has ended",
            ));
        }
        let former = self.current_before(ServiceKeyKind::Integrity, new.number)?;
        let key = ServiceKey { id: new.id, fingerprint: new.fingerprint, ..self.succeeding(&former) };
        let former = ServiceKey { state: ServiceKeyState::Resealing, revision: self.revision, ..former };
        Ok(vec![Change::UpdateServiceKey(former), Change::InsertServiceKey(key, new.wrapped.clone())])
    }

    /// Changes no row of the catalog. `Conflict` unless the new seals are under the current integrity key.
    pub(super) fn reseal(&self, resealing: &Resealing) -> Result<Vec<Change>> {
        let current = current_service_key(self.view, ServiceKeyKind::Integrity);
        if current.is_some_and(|key| key.number == resealing.number) {
            return Ok(Vec::new());
        }
        Err(Error::new(ErrorCode::Conflict, "the integrity key was replaced first"))
    }

    /// Changes nothing if another call has already ended the resealing.
    pub(super) fn end_resealing(&self, number: u32) -> Result<Vec<Change>> {
        let former = self.resealing().filter(|former| former.number + 1 == number);
        let replaced =
            former.map(|former| ServiceKey { state: ServiceKeyState::Replaced, revision: self.revision, ..former });
        Ok(replaced.map(Change::UpdateServiceKey).into_iter().collect())
    }

    /// The integrity key whose rows are being resealed.
    fn resealing(&self) -> Option<ServiceKey> {
        let mut found = None;
        self.view.each_service_key(&mut |key| {
            if key.state == ServiceKeyState::Resealing {
                found = Some(key.clone());
            }
        });
        found
    }

    /// The successor of a key, still with the former id, fingerprint and public key.
    fn succeeding(&self, former: &ServiceKey) -> ServiceKey {
        ServiceKey {
            number: former.number + 1,
            first_seq: self.revision,
            state: ServiceKeyState::Current,
            revision: self.revision,
            ..former.clone()
        }
    }

    /// The current key of the service. `Conflict` unless `number` follows its number.
    fn current_before(&self, kind: ServiceKeyKind, number: u32) -> Result<ServiceKey> {
        let current = current_service_key(self.view, kind).ok_or_else(|| missing("key of the service"))?;
        if current.number + 1 == number {
            return Ok(current);
        }
        Err(Error::new(ErrorCode::Conflict, "this key of the service was replaced first"))
    }
}

/// The kinds of the service's own keys that were wrapped under this generation of the root key and still have material:
/// an attacker with the root key may have them.
pub fn leaked_service_keys(view: &dyn CatalogView, root: &RootKeyGeneration) -> Vec<ServiceKeyKind> {
    let is_new = |key: &ServiceKey| root.closed_seq.is_some_and(|closed| key.first_seq > closed);
    let mut leaked: Vec<ServiceKeyKind> = Vec::new();
    view.each_service_key(&mut |key| {
        if key.has_material() && !is_new(key) && !leaked.contains(&key.kind) {
            leaked.push(key.kind);
        }
    });
    leaked.sort_unstable_by_key(|kind| std::cmp::Reverse(*kind));
    leaked
}
