//! Transitions of root key generations.

use super::apply::{Context, missing};
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::root_key::{RootKeyGeneration, RootKeyState};
use crate::types::view::wrapping_generations;

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

    /// Generations have no gaps: one that another node added first is a conflict.
    pub(super) fn add_root_key(&self, new: &RootKeyGeneration) -> Result<Vec<Change>> {
        let mut newest = 0;
        self.view.each_root_key(&mut |root| newest = newest.max(root.generation));
        if new.generation != newest + 1 {
            return Err(Error::new(ErrorCode::Conflict, "another generation of the root key was added first"));
        }
        let root = RootKeyGeneration { created_at: self.now, revision: self.revision, ..new.clone() };
        Ok(vec![Change::InsertRootKey(root)])
    }

    /// Something must be left to wrap new material under.
    pub(super) fn mark_compromised(&self, generation: u32) -> Result<Vec<Change>> {
        let root = self.root_key(generation)?;
        self.require_another(generation)?;
        let compromised_at = root.compromised_at.or(Some(self.now));
        Ok(vec![Change::UpdateRootKey(RootKeyGeneration { compromised_at, revision: self.revision, ..root })])
    }

    pub(super) fn begin_retirement(&self, generation: u32) -> Result<Vec<Change>> {
        let root = self.root_key(generation)?;
        self.require_another(generation)?;
        if root.state != RootKeyState::Active {
            return Ok(Vec::new());
        }
        let state = RootKeyState::Retiring;
        Ok(vec![Change::UpdateRootKey(RootKeyGeneration { state, revision: self.revision, ..root })])
    }

    pub(super) fn retire_root_key(&self, generation: u32) -> Result<Vec<Change>> {
        let root = self.root_key(generation)?;
        if !root.is_active() {
            return Ok(Vec::new());
        }
        self.require_another(generation)?;
        let retired_at = root.retired_at.or(Some(self.now));
        let state = RootKeyState::Retired;
        Ok(vec![Change::UpdateRootKey(RootKeyGeneration { state, retired_at, revision: self.revision, ..root })])
    }

    fn require_another(&self, generation: u32) -> Result<()> {
        if wrapping_generations(self.view).iter().any(|other| *other != generation) {
            return Ok(());
        }
        let text = "it is the last generation of the root key that new material is wrapped under";
        Err(Error::new(ErrorCode::WrongState, text))
    }
}
