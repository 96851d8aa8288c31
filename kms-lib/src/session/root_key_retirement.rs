//! Retiring a generation of the root key: its preconditions, the retirement itself, and the erasure of wrappings.

use serde::Serialize;

use super::Session;
use super::change::{Changed, REDO, overtaken};
use super::root_key_report::RootKeyJob;
use super::root_keys::{RootKeyDescription, describe, of_generation};
use crate::catalog::Trust;
use crate::envelope::KnownGeneration;
use crate::ledger::{Details, Remaining};
use crate::lifecycle::{Command, RetirementCheck, leaked_service_keys};
use crate::storage::StoreFuture;
use crate::storage::tables::{usage, wrappings};
use crate::types::audit::Action;
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::key::Key;
use crate::types::root_key::{RootKeyGeneration, ServiceKeyKind, Wrapped};
use crate::types::time::Timestamp;
use crate::types::view::CatalogView;

/// The number of wrappings that one step erases.
const ERASED: usize = 500;
/// The number of materials that may have been created during a verification. More means that something was not
/// rewrapped.
const TAIL: u64 = 1_000;

/// The options for retiring a generation.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RetireOptions {
    /// Treat the root key as compromised. Then the log's signing key and the integrity key must have been replaced by
    /// keys that were never wrapped under it.
    pub compromised: bool,
    /// Verify first what was created since the last verification, then stop wrapping new material under the generation
    /// and verify the rest. A service that creates keys all the time always has material that is not verified yet. If
    /// this is interrupted or refused in between, the generation stays `RETIRING` until the call is repeated.
    pub verify_new: bool,
}

impl RetireOptions {
    /// Sets whether the root key is treated as compromised.
    #[must_use]
    pub fn compromised(mut self, compromised: bool) -> Self {
        self.compromised = compromised;
        self
    }
    /// Sets whether material created since the last verification is verified first.
    #[must_use]
    pub fn verify_new(mut self, verify_new: bool) -> Self {
        self.verify_new = verify_new;
        self
    }
}

/// The result of retiring a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Retirement {
    /// The generation in its new state.
    pub root_key: RootKeyDescription,
    /// The number of wrappings that this call erased.
    pub erased: u64,
    /// Whether wrappings are left because the store failed meanwhile. The scheduler or another call erases them. The
    /// generation no longer opens anything in any case.
    pub erasure_pending: bool,
    /// For a compromised root key: the keys whose current version was wrapped under it. An attacker with the root key
    /// and an older copy of the database can decrypt what these versions encrypted; rotate the keys, and re-encrypt
    /// important data.
    pub rotate: Vec<String>,
    /// The hours in which backups were made before the retirement. Their material may be wrapped under this root key
    /// alone: keep the root key as long as the backups, or make a new backup and delete them.
    pub backups: Vec<BackupHour>,
}

/// The backups made in one hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupHour {
    /// The beginning of the hour.
    pub from: Timestamp,
    /// The number of backups made in that hour.
    pub backups: u64,
}

impl Session {
    /// Retires a generation of the root key: it no longer opens anything, and its wrappings are erased. A call that was
    /// interrupted can be repeated and continues to erase. For admins.
    ///
    /// `WrongState` unless every material that it wraps has a verified wrapping under another generation
    /// ([`Session::verify_root_key`]), if it is the last generation, or if the preconditions for a compromised one are
    /// not met.
    ///
    /// Cancellation: dropping the future ends the job; submitted pages are kept, and another call continues.
    pub async fn retire_root_key(&self, generation: u32, options: &RetireOptions) -> Result<Retirement> {
        self.permit_changing(Action::RootKeyRetire).await?;
        let (root, backups) = match self.prepare_retirement(generation, options).await {
            Ok(prepared) => prepared,
            Err(error) => return Err(self.refuse(Action::RootKeyRetire, of_generation(generation), error).await),
        };
        let root = if root.is_active() { self.commit_retirement(root).await? } else { root };
        // The retirement is committed and is reported even if the erasure fails.
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

    /// Checks and does everything needed before a generation is retired. Returns the generation and the hours of
    /// backups.
    fn prepare_retirement<'a>(
        &'a self,
        generation: u32,
        options: &'a RetireOptions,
    ) -> StoreFuture<'a, (RootKeyGeneration, Vec<BackupHour>)> {
        Box::pin(async move {
            let root = self.generation(generation)?;
            let others = |other: &&RootKeyGeneration| other.wraps() && other.generation != generation;
            if root.is_active() && self.shared().catalog.snapshot().root_keys().filter(others).count() == 0 {
                let text = format!("generation {generation} is the last of the root key; add another one first");
                return Err(Error::new(ErrorCode::WrongState, text));
            }
            // Also required for a retired generation, since it opens old copies of the database.
            if options.compromised || (root.is_active() && root.compromised_at.is_some()) {
                self.hold_compromised(&root).await?;
            }
            if root.is_active() {
                self.require_remaining(generation).await?;
                self.verify_remaining(generation, options).await?;
            }
            Ok((self.generation(generation)?, self.backup_hours().await?))
        })
    }

    /// Retires the generation. Everything that it wraps is checked before, page by page; the ledger checks again, under
    /// the head's lock, what was changed meanwhile.
    fn commit_retirement<'a>(&'a self, root: RootKeyGeneration) -> StoreFuture<'a, RootKeyGeneration> {
        Box::pin(async move {
            let generation = root.generation;
            let admission = self.admit_change()?;
            let mut retry = None;
            for _ in 0..=REDO {
                let check = self.check_remaining(generation).await?;
                let intent = self.root_key_intent(Action::RootKeyRetire, of_generation(generation));
                let (decision, revision) = self.decide(&intent.attempt);
                let command = Some(Command::RetireRootKey(check));
                match self.commit(&admission, &intent, decision, revision, command, retry.take()).await {
                    Ok(Changed::Done(changes, _)) => {
                        return Ok(changes.into_iter().fold(root, |root, change| match change {
                            Change::UpdateRootKey(retired) if retired.generation == generation => retired,
                            _ => root,
                        }));
                    }
                    Ok(Changed::Redo(slot)) => retry = slot,
                    // The refusal is recorded. Its reason is looked up again for the message.
                    Err(error) if error.code() == ErrorCode::WrongState => {
                        let root = self.generation(generation)?;
                        if root.compromised_at.is_some() {
                            self.hold_compromised(&root).await?;
                        }
                        return Err(unverified_error(generation, self.count_unverified(generation).await?.max(1)));
                    }
                    Err(error) => return Err(error),
                }
            }
            Err(overtaken())
        })
    }

    /// Erases the remaining wrappings under retired generations.
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

    /// Fails unless this process can open the service's own keys with a remaining generation. The marks may date from a
    /// time before that root key was disabled, and a node without the key would lock itself out.
    async fn require_remaining(&self, retiring: u32) -> Result<()> {
        let stays: Vec<u32> = {
            let snapshot = self.shared().catalog.snapshot();
            let stays = |root: &&RootKeyGeneration| root.wraps() && root.generation != retiring;
            snapshot.root_keys().filter(stays).map(|root| root.generation).collect()
        };
        for target in self.service_targets().await? {
            let wrapped: Vec<Wrapped> =
                target.wrapped.iter().filter(|wrapped| stays.contains(&wrapped.generation)).cloned().collect();
            // Material without a wrapping counts as not verified.
            if !wrapped.is_empty() {
                target.check(&self.shared().envelope.unwrap(&target.binding, &wrapped).await?)?;
            }
        }
        Ok(())
    }

    /// Fails unless everything is verified under the remaining generations. If requested, unverified wrappings are
    /// verified first, and nothing new is wrapped under the generation any more, so that new material does not block
    /// the retirement.
    fn verify_remaining<'a>(&'a self, generation: u32, options: &'a RetireOptions) -> StoreFuture<'a, ()> {
        Box::pin(async move {
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
        })
    }

    /// Verifies the wrappings that are not verified yet under the remaining generations.
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

    /// Checks the preconditions for retiring a compromised generation. From here on nothing new is wrapped under it.
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
            ServiceKeyKind::Signing => "replace the log's signing key (replace_signing_key)",
            ServiceKeyKind::Integrity => "replace the integrity key (replace_integrity_key)",
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

    /// Erases the wrappings under a retired generation, step by step. Returns their number, and the error that stopped
    /// it early, if any.
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

    /// The keys in use whose current version is older than this time.
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
        connection.begin_read().await?;
        let hours = usage::hours_of(connection.as_mut(), Action::StoreBackup.as_str()).await;
        connection.rollback().await?;
        let describe = |(hour, backups)| BackupHour { from: Timestamp::from_hour(hour), backups };
        Ok(hours?.into_iter().map(describe).collect())
    }

    /// Counts the materials that a generation wraps and that have no verified wrapping with a valid seal under a
    /// remaining one.
    async fn count_unverified(&self, retiring: u32) -> Result<u64> {
        self.check_remaining(retiring).await.map(|check| check.unverified)
    }

    /// The same, for the command that retires the generation.
    pub(super) fn check_remaining<'a>(&'a self, retiring: u32) -> StoreFuture<'a, RetirementCheck> {
        Box::pin(async move {
            let shared = self.shared();
            for _ in 0..=REDO {
                let mut connection = shared.store.long_reader().await?;
                let checked = Remaining::check(connection.as_mut(), &shared.catalog, retiring).await?;
                if shared.catalog.has_newest_seals(connection.as_mut()).await? {
                    return Ok(checked);
                }
                drop(connection);
                shared.catalog.catch_up_seals().await?;
            }
            Err(overtaken())
        })
    }
}

fn unverified_error(generation: u32, count: u64) -> Error {
    let text = format!(
        "{count} items of key material that generation {generation} of the root key wraps have no verified wrapping \
         under another one; rewrap, then verify the other generation (material of quarantined rows counts too)"
    );
    Error::new(ErrorCode::WrongState, text)
}
