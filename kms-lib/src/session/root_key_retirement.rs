//! Retiring a generation of the root key: what must hold before, the retirement itself, and what is erased afterwards.

use serde::Serialize;

use super::Session;
use super::change::{REDO, overtaken};
use super::root_key_report::RootKeyJob;
use super::root_keys::{RootKeyDescription, describe, of_generation};
use crate::catalog::Trust;
use crate::envelope::KnownGeneration;
use crate::ledger::{Details, Remaining};
use crate::lifecycle::{Command, leaked_service_keys};
use crate::storage::tables::{usage, wrappings};
use crate::types::audit::Action;
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::key::Key;
use crate::types::root_key::{RootKeyGeneration, ServiceKeyKind, Wrapped};
use crate::types::time::Timestamp;
use crate::types::view::CatalogView;

/// Wrappings that one step erases.
const ERASED: usize = 500;
/// So many materials may have been made during a verification; more means that something was not rewrapped.
const TAIL: u64 = 1_000;

/// How a generation is retired.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RetireOptions {
    /// Somebody else may have the key. Then the key that signs the log and the key that seals rows must be new ones
    /// that were never wrapped under it.
    pub compromised: bool,
    /// Verify what was made since the last verification first, wrap nothing new under the generation from then on, and
    /// verify the rest: on a service that makes keys all the time there is always something that is not verified yet.
    /// If it is cut off or refused in between, the generation stays `RETIRING` until it is called again.
    pub verify_new: bool,
}

impl RetireOptions {
    /// With this said about the key.
    #[must_use]
    pub fn compromised(mut self, compromised: bool) -> Self {
        self.compromised = compromised;
        self
    }
    /// Whether what was made since the last verification is verified first.
    #[must_use]
    pub fn verify_new(mut self, verify_new: bool) -> Self {
        self.verify_new = verify_new;
        self
    }
}

/// What retiring a generation did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Retirement {
    /// The generation, as it is now.
    pub root_key: RootKeyDescription,
    /// Wrappings that this call erased.
    pub erased: u64,
    /// Whether some are left, since the store failed meanwhile: the scheduler erases them, or another call. The
    /// generation opens nothing all the same.
    pub erasure_pending: bool,
    /// Of a compromised key: the keys whose current version was wrapped under it. Whoever has the key and a copy of the
    /// database from before can read what these versions encrypted; rotate them, and encrypt anew what matters.
    pub rotate: Vec<String>,
    /// The hours in which backups were made before the retirement. What they hold may be wrapped under this key alone:
    /// keep the key for as long as the backups, or make a new backup and delete them.
    pub backups: Vec<BackupHour>,
}

/// Backups of one hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupHour {
    /// When the hour begins.
    pub from: Timestamp,
    /// How many backups were made in it.
    pub backups: u64,
}

impl Session {
    /// Retires a generation of the root key: it opens nothing any more, and its wrappings are erased. A call that did
    /// not come to its end can be repeated, and goes on erasing. For admins.
    ///
    /// `WrongState` unless every material that it wraps has a verified wrapping under another generation
    /// ([`Session::verify_root_key`]), if it is the last one, or if the demands of a compromised one are not met.
    ///
    /// Cancellation: dropping the future ends the job; pages that were submitted stay done, and calling again goes on.
    pub async fn retire_root_key(&self, generation: u32, options: &RetireOptions) -> Result<Retirement> {
        self.permit_changing(Action::RootKeyRetire).await?;
        let (root, backups) = match self.prepare_retirement(generation, options).await {
            Ok(prepared) => prepared,
            Err(error) => return Err(self.refuse(Action::RootKeyRetire, of_generation(generation), error).await),
        };
        let root = if root.is_active() { self.commit_retirement(root).await? } else { root };
        // It is retired: that is answered, whatever else fails.
        let (erased, failure) = self.erase_wrappings(generation).await;
        if let Some(error) = &failure {
            tracing::warn!(%error, generation, "wrappings under a retired root key could not be erased yet");
        }
        let known = KnownGeneration { row: root, is_at_hand: false, last_used_at: None };
        let root_key = self.describe_root_key(generation).await.unwrap_or_else(|_| describe(known, &[]));
        let leaked_until = root_key.compromised_at.map(|since| root_key.retired_at.map_or(since, |at| at.min(since)));
        let rotate = leaked_until.map(|time| self.keys_made_before(time)).unwrap_or_default();
        let until = root_key.retired_at.unwrap_or_else(|| self.shared().clock.now()).hour();
        let backups = backups.into_iter().filter(|hour| hour.from.hour() <= until).collect();
        Ok(Retirement { root_key, erased, erasure_pending: failure.is_some(), rotate, backups })
    }

    /// Everything that is done before a generation is retired. Answers the generation, and the hours of backups.
    async fn prepare_retirement(
        &self,
        generation: u32,
        options: &RetireOptions,
    ) -> Result<(RootKeyGeneration, Vec<BackupHour>)> {
        let root = self.generation(generation)?;
        let others = |other: &&RootKeyGeneration| other.wraps() && other.generation != generation;
        if root.is_active() && self.shared().catalog.snapshot().root_keys().filter(others).count() == 0 {
            let text = format!("generation {generation} is the last of the root key; add another one first");
            return Err(Error::new(ErrorCode::WrongState, text));
        }
        // Also of a retired one: old copies of the database can be read with it.
        if options.compromised || (root.is_active() && root.compromised_at.is_some()) {
            self.hold_compromised(&root).await?;
        }
        if root.is_active() {
            self.require_remaining(generation).await?;
            self.verify_remaining(generation, options).await?;
        }
        Ok((self.generation(generation)?, self.backup_hours().await?))
    }

    /// Retires. Under the head lock it is looked again whether everything has a verified wrapping that stays.
    async fn commit_retirement(&self, root: RootKeyGeneration) -> Result<RootKeyGeneration> {
        let generation = root.generation;
        let intent = self.root_key_intent(Action::RootKeyRetire, of_generation(generation));
        match self.change(intent, Command::RetireRootKey(generation)).await {
            Ok((changes, _)) => Ok(changes.into_iter().fold(root, |root, change| match change {
                Change::UpdateRootKey(retired) if retired.generation == generation => retired,
                _ => root,
            })),
            // The refusal is recorded. What it was for is looked up again.
            Err(error) if error.code() == ErrorCode::WrongState => {
                let root = self.generation(generation)?;
                if root.compromised_at.is_some() {
                    self.hold_compromised(&root).await?;
                }
                Err(unverified_error(generation, self.count_unverified(generation).await?.max(1)))
            }
            Err(error) => Err(error),
        }
    }

    /// Erases what is left of the wrappings under retired generations.
    pub(crate) async fn erase_retired(&self) -> Result<()> {
        let retired: Vec<u32> = {
            let snapshot = self.shared().catalog.snapshot();
            if snapshot.trust() != Trust::Verified {
                return Ok(());
            }
            snapshot.root_keys().filter(|root| !root.is_active()).map(|root| root.generation).collect()
        };
        for generation in retired {
            if let (_, Some(error)) = self.erase_wrappings(generation).await {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Whether this process can open the service's own keys with a generation that stays: its marks may be of a time
    /// when that key was not yet disabled, and a node without it would lock itself out.
    async fn require_remaining(&self, retiring: u32) -> Result<()> {
        let stays: Vec<u32> = {
            let snapshot = self.shared().catalog.snapshot();
            let stays = |root: &&RootKeyGeneration| root.wraps() && root.generation != retiring;
            snapshot.root_keys().filter(stays).map(|root| root.generation).collect()
        };
        for target in self.service_targets().await? {
            let wrapped: Vec<Wrapped> =
                target.wrapped.iter().filter(|wrapped| stays.contains(&wrapped.generation)).cloned().collect();
            // Without one it counts as not verified.
            if !wrapped.is_empty() {
                target.check(&self.shared().envelope.unwrap(&target.binding, &wrapped).await?)?;
            }
        }
        Ok(())
    }

    /// Whether everything is verified under what stays. If that is asked for, what is not is verified first; then
    /// nothing new is wrapped under the generation any more, so that what is made meanwhile is no hindrance.
    async fn verify_remaining(&self, generation: u32, options: &RetireOptions) -> Result<()> {
        if options.verify_new {
            self.verify_new_wrappings(generation).await?;
        }
        let unverified = self.count_unverified(generation).await?;
        if options.verify_new && unverified <= TAIL {
            let intent = self.root_key_intent(Action::RootKeyRetireStart, of_generation(generation));
            self.change(intent, Command::BeginRetirement(generation)).await?;
            return self.verify_new_wrappings(generation).await;
        }
        if unverified > 0 { Err(unverified_error(generation, unverified)) } else { Ok(()) }
    }

    /// Verifies what is not verified yet under the generations that stay.
    async fn verify_new_wrappings(&self, retiring: u32) -> Result<()> {
        let others: Vec<u32> = {
            let snapshot = self.shared().catalog.snapshot();
            let stays = |root: &&RootKeyGeneration| root.wraps() && root.generation != retiring;
            snapshot.root_keys().filter(stays).map(|root| root.generation).collect()
        };
        for generation in others {
            self.verify_root_key(generation, &RootKeyJob::default().only_new(true)).await?;
        }
        Ok(())
    }

    /// What a compromised generation must meet before it is retired. Nothing new is wrapped under it from here on.
    async fn hold_compromised(&self, root: &RootKeyGeneration) -> Result<()> {
        let generation = root.generation;
        if root.compromised_at.is_none() {
            let intent = self.root_key_intent(Action::RootKeyCompromise, of_generation(generation));
            self.change(intent, Command::MarkCompromised(generation)).await?;
        }
        let leaked = {
            let snapshot = self.shared().catalog.snapshot();
            snapshot.root_key(generation).map(|root| leaked_service_keys(&*snapshot, root)).unwrap_or_default()
        };
        let advice = |kind: &ServiceKeyKind| match kind {
            ServiceKeyKind::Signing => "replace the key that signs the log (replace_signing_key)",
            ServiceKeyKind::Integrity => "replace the key that seals rows (replace_integrity_key)",
        };
        let wanting: Vec<&str> = leaked.iter().map(advice).collect();
        if wanting.is_empty() {
            return Ok(());
        }
        let text = format!(
            "generation {generation} of the root key is marked as compromised, and nothing new is wrapped under it; \
             before it can be retired, {}",
            wanting.join(" and ")
        );
        Err(Error::new(ErrorCode::WrongState, text))
    }

    /// Erases the wrappings under a retired generation, step by step. Answers how many, and what ended it early.
    async fn erase_wrappings(&self, generation: u32) -> (u64, Option<Error>) {
        let (mut erased, mut after) = (0, [0; 16]);
        loop {
            match self.erase_some(generation, &mut after).await {
                Ok(0) => return (erased, None),
                Ok(count) => erased += count,
                Err(error) => return (erased, Some(error)),
            }
        }
    }

    async fn erase_some(&self, generation: u32, after: &mut [u8; 16]) -> Result<u64> {
        let mut connection = self.shared().store.reader().await?;
        let subjects = wrappings::subjects_under(connection.as_mut(), generation, *after, ERASED).await?;
        drop(connection);
        let Some(last) = subjects.last() else { return Ok(0) };
        *after = *last;
        let count = subjects.len() as u64;
        let mut details: Details = of_generation(generation);
        details.number("erased", count);
        let intent = self.root_key_intent(Action::WrappingsErase, details);
        self.change(intent, Command::EraseWrappings(generation, subjects)).await.map(|_| count)
    }

    /// The keys in use whose current version is older than this.
    fn keys_made_before(&self, time: Timestamp) -> Vec<String> {
        let snapshot = self.shared().catalog.snapshot();
        let is_older = |key: &&Key| {
            let current = snapshot.version(key.id, key.current_version);
            !key.is_revoked() && current.is_some_and(|version| version.created_at <= time)
        };
        snapshot.keys_by_name(None).filter(is_older).map(|key| key.name.clone()).collect()
    }

    /// The hours in which backups were made.
    async fn backup_hours(&self) -> Result<Vec<BackupHour>> {
        let mut connection = self.shared().store.reader().await?;
        let hours = usage::hours_of(connection.as_mut(), Action::StoreBackup.as_str()).await?;
        let describe = |(hour, backups)| BackupHour { from: Timestamp::from_hour(hour), backups };
        Ok(hours.into_iter().map(describe).collect())
    }

    /// Materials that a generation wraps and that have no verified wrapping, with a good seal, under one that stays.
    async fn count_unverified(&self, retiring: u32) -> Result<u64> {
        let shared = self.shared();
        for _ in 0..=REDO {
            let mut connection = shared.store.long_reader().await?;
            let remaining = Remaining::without(retiring, &shared.catalog.snapshot());
            let seals = shared.catalog.seals();
            let unverified = remaining.unverified(connection.as_mut(), retiring, &seals).await?;
            if shared.catalog.has_newest_seals(connection.as_mut()).await? {
                return Ok(unverified);
            }
            drop(connection);
            shared.catalog.catch_up_seals().await?;
        }
        Err(overtaken())
    }
}

fn unverified_error(generation: u32, count: u64) -> Error {
    let text = format!(
        "{count} materials that generation {generation} of the root key wraps have no verified wrapping under another \
         one; rewrap, then verify the other generation (material of quarantined rows counts too)"
    );
    Error::new(ErrorCode::WrongState, text)
}
