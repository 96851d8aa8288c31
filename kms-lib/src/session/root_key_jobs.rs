//! What takes its time with root keys: wrapping everything under one more, and opening everything under one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use serde::Serialize;
use tokio::time::{Interval, MissedTickBehavior, interval};
use zeroize::Zeroizing;

use super::Session;
use crate::envelope::row;
use crate::envelope::{Binding, RootKey, RootKeySource, connect_new, fingerprint, service_fingerprint};
use crate::keys::{Command, NewWrapping, VerifiedWrapping, Wrapping};
use crate::ledger::Details;
use crate::storage::tables::secrets;
use crate::storage::tables::wrappings::{self, WrappingRow};
use crate::types::audit::Action;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::LogId;
use crate::types::key::{KeyType, VersionState};
use crate::types::root_key::{RootKeyGeneration, RootKeyProvider, ServiceKeyKind, Wrapped};
use crate::types::view::View;

/// Materials that are read, and whose wrappings are written, at once.
const PAGE: usize = 100;
/// Calls to a root key at the same time: a remote one takes a moment for each.
const AT_ONCE: usize = 8;
/// Failures that a report names.
const NAMED: usize = 100;

/// How a job is done.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RootKeyJob {
    /// Materials a second, at most; no limit without.
    pub rate: Option<u32>,
    /// Do everything but write: nothing is stored, and no record but a refusal is made.
    pub dry_run: bool,
    /// Leave out wrappings that were verified since they were written.
    pub only_new: bool,
    /// Told how far it is.
    pub progress: Option<Arc<RootKeyProgress>>,
}

impl RootKeyJob {
    /// With so many materials a second at most.
    #[must_use]
    pub fn rate(mut self, rate: Option<u32>) -> Self {
        self.rate = rate;
        self
    }
    /// Whether nothing is written.
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }
    /// Whether wrappings that were verified since they were written are left out.
    #[must_use]
    pub fn only_new(mut self, only_new: bool) -> Self {
        self.only_new = only_new;
        self
    }
    /// With somebody who is told how far it is.
    #[must_use]
    pub fn progress(mut self, progress: Arc<RootKeyProgress>) -> Self {
        self.progress = Some(progress);
        self
    }
}

/// How far a job is.
#[derive(Debug, Default)]
pub struct RootKeyProgress {
    total: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
}

impl RootKeyProgress {
    /// Materials there are; 0 until that is known.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
    /// Materials that were looked at, failed ones included.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
    /// Materials that could not be opened.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

/// What rewrapping will cost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RewrapPlan {
    /// Materials that lack a wrapping under a generation in use.
    pub materials: u64,
    /// Calls to the root keys, by generation. Those of a local key cost nothing; those of AWS KMS are charged.
    pub calls: Vec<RootKeyCalls>,
}

/// Calls to one generation of the root key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RootKeyCalls {
    /// The generation.
    pub generation: u32,
    /// What holds the key.
    pub provider: RootKeyProvider,
    /// Calls that unwrap.
    pub unwraps: u64,
    /// Calls that wrap.
    pub wraps: u64,
}

/// What a job found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RootKeyReport {
    /// Materials there are.
    pub total: u64,
    /// Wrappings that were added or found to hold what they should.
    pub done: u64,
    /// Of a verification: materials without a wrapping under the generation.
    pub missing: u64,
    /// Materials that could not be opened, or that are not what they should be.
    pub failed: u64,
    /// The first hundred of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<FailedMaterial>,
}

impl RootKeyReport {
    /// Whether nothing is missing or failed.
    pub fn is_complete(&self) -> bool {
        self.missing == 0 && self.failed == 0
    }

    fn fail(&mut self, what: String, error: &Error) {
        self.failed += 1;
        if self.failures.len() < NAMED {
            self.failures.push(FailedMaterial { what, code: error.code(), reason: error.message().to_owned() });
        }
    }
}

/// Material that could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedMaterial {
    /// A version, by the name of its key and its number; or a key of the service.
    pub what: String,
    /// What went wrong.
    pub code: ErrorCode,
    /// The same for a person.
    pub reason: String,
}

/// Something that has material.
#[derive(Clone)]
pub(super) struct Target {
    pub of: Wrapping,
    pub binding: Binding,
    pub fingerprint: [u8; 32],
    /// Its wrappings, as far as they were read.
    pub wrapped: Vec<Wrapped>,
}

impl Target {
    /// Whether material that was unwrapped is its own.
    pub fn check(&self, material: &[u8]) -> Result<()> {
        let found = match &self.binding {
            Binding::Version { key, version, key_type } => fingerprint(*key, *version, *key_type, material)?,
            Binding::IntegrityKey { log, number } => {
                service_fingerprint(ServiceKeyKind::Integrity, *log, *number, material)?
            }
            Binding::SigningKey { log, number } => {
                service_fingerprint(ServiceKeyKind::Signing, *log, *number, material)?
            }
            Binding::CheckValue => return Err(Error::new(ErrorCode::Internal, "a check value has no fingerprint")),
        };
        if found == self.fingerprint {
            return Ok(());
        }
        Err(Error::new(ErrorCode::IntegrityFailure, "the wrapping holds other material than the fingerprint says"))
    }

    /// A new wrapping of it.
    pub fn wrapping(&self, generation: u32, bytes: Vec<u8>) -> NewWrapping {
        NewWrapping { subject: self.of, fingerprint: self.fingerprint, wrapped: Wrapped { generation, bytes } }
    }
}

/// Lets so many through in a second.
struct Pace(Option<tokio::sync::Mutex<Interval>>);

impl Pace {
    fn new(rate: Option<u32>) -> Self {
        Self(rate.filter(|rate| *rate > 0).map(|rate| {
            // Above a thousand million a second there is no time between two.
            let mut ticks = interval((Duration::from_secs(1) / rate).max(Duration::from_nanos(1)));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            tokio::sync::Mutex::new(ticks)
        }))
    }

    async fn pass(&self) {
        if let Some(ticks) = &self.0 {
            ticks.lock().await.tick().await;
        }
    }
}

impl Session {
    /// What [`Session::rewrap`] will do, and what it will cost in calls to the root keys. For admins.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn plan_rewrap(&self) -> Result<RewrapPlan> {
        self.permit_managing(Action::RewrapStart).await?;
        let active = self.wrapping_rows();
        let mut calls: Vec<RootKeyCalls> = active
            .iter()
            .map(|root| RootKeyCalls { generation: root.generation, provider: root.provider, unwraps: 0, wraps: 0 })
            .collect();
        let mut plan = RewrapPlan::default();
        for page in self.targets().await?.chunks(PAGE) {
            let rows = self.rows_of(page).await?;
            for target in page {
                let present = rows.get(&target.of.subject()).map(Vec::as_slice).unwrap_or_default();
                let has = |generation: u32| present.iter().any(|row| row.stored.generation == generation);
                if active.iter().all(|root| has(root.generation)) {
                    continue;
                }
                plan.materials += 1;
                // As the envelope chooses: a local one before a remote one, the newest first.
                let source = calls.iter().filter(|call| has(call.generation)).map(|call| {
                    (call.provider != RootKeyProvider::Local, std::cmp::Reverse(call.generation), call.generation)
                });
                let source = source.min().map(|(.., generation)| generation);
                for call in &mut calls {
                    call.unwraps += u64::from(source == Some(call.generation));
                    call.wraps += u64::from(!has(call.generation));
                }
            }
        }
        plan.calls = calls;
        Ok(plan)
    }

    /// Wraps everything under every generation of the root key in use that it is not wrapped under yet. The service goes
    /// on meanwhile. For admins.
    ///
    /// It may be ended at any time and begun again: it looks for what is missing. Two at once do no harm. What cannot be
    /// opened is in the report; if a root key does not answer, it ends with that error.
    ///
    /// Cancellation: dropping the future ends the job; pages that were submitted stay done, and calling again goes on.
    pub async fn rewrap(&self, job: &RootKeyJob) -> Result<RootKeyReport> {
        self.refuse_idempotency_key()?;
        self.permit_managing(Action::RewrapStart).await?;
        let generations: Vec<u32> = self.wrapping_rows().iter().map(|root| root.generation).collect();
        let mut details = Details::default();
        details.raw("generations", format!("{generations:?}").replace(' ', ""));
        let targets = self.targets().await?;
        details.number("materials", targets.len() as u64);
        if job.dry_run {
            details.raw("dryRun", "true".into());
        }
        self.record_job(Action::RewrapStart, details.clone()).await?;
        let mut report = RootKeyReport { total: targets.len() as u64, ..RootKeyReport::default() };
        let ended = self.rewrap_pages(&targets, &generations, job, &mut report).await;
        details.number("wrapped", report.done).number("failed", report.failed);
        if let Err(error) = &ended {
            details.text("error", error.code().as_str());
        }
        self.record_job(Action::RewrapEnd, details).await?;
        ended.map(|()| report)
    }

    /// Opens every wrapping under a generation of the root key, and compares what it holds with the fingerprint. What is
    /// right is marked as verified, which [`Session::retire_root_key`] asks for. For admins.
    ///
    /// It may be ended at any time and begun again. If the root key does not answer, it ends with that error.
    ///
    /// Cancellation: dropping the future ends the job; pages that were submitted stay done, and calling again goes on.
    pub async fn verify_root_key(&self, generation: u32, job: &RootKeyJob) -> Result<RootKeyReport> {
        self.refuse_idempotency_key()?;
        self.permit_managing(Action::RootKeyVerify).await?;
        if !self.generation(generation)?.is_active() {
            let text = format!("generation {generation} of the root key is retired");
            return Err(Error::new(ErrorCode::WrongState, text));
        }
        let targets = self.targets().await?;
        let mut report = RootKeyReport { total: targets.len() as u64, ..RootKeyReport::default() };
        let ended = self.verify_pages(&targets, generation, job, &mut report).await;
        self.record_root_key_verification(generation, job.dry_run.then_some("dryRun"), &report, &ended).await?;
        ended.map(|()| report)
    }

    /// Tries whether a root key that is not added yet would do: opens everything with the present ones, wraps it under
    /// the planned one, unwraps that and compares. Nothing is written but the record, ROOT_KEY_VERIFY with `planned`.
    /// For admins.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn verify_planned_root_key(&self, source: &RootKeySource, job: &RootKeyJob) -> Result<RootKeyReport> {
        self.refuse_idempotency_key()?;
        self.permit_managing(Action::RootKeyVerify).await?;
        let shared = self.shared();
        let generation = self.next_generation();
        if let Some(generation) = shared.envelope.identify(source).await? {
            let text = format!("this root key is generation {generation} already");
            return Err(Error::new(ErrorCode::Conflict, text));
        }
        let planned = connect_new(source, generation, &shared.provider).await?.key;
        let targets = self.targets().await?;
        let mut report = RootKeyReport { total: targets.len() as u64, ..RootKeyReport::default() };
        let ended = self.try_pages(&targets, planned.as_ref(), job, &mut report).await;
        self.record_root_key_verification(generation, Some("planned"), &report, &ended).await?;
        ended.map(|()| report)
    }

    /// The record of a verification. `kind` names what sets it apart from one that marks wrappings as verified.
    async fn record_root_key_verification(
        &self,
        generation: u32,
        kind: Option<&'static str>,
        report: &RootKeyReport,
        ended: &Result<()>,
    ) -> Result<()> {
        let mut details = Details::default();
        details
            .number("generation", generation.into())
            .number("materials", report.total)
            .number("verified", report.done)
            .number("missing", report.missing)
            .number("failed", report.failed);
        if let Some(kind) = kind {
            details.raw(kind, "true".into());
        }
        if let Err(error) = ended {
            details.text("error", error.code().as_str());
        }
        self.record_job(Action::RootKeyVerify, details).await
    }

    /// Tries a planned root key with everything, page by page.
    async fn try_pages(
        &self,
        targets: &[Target],
        planned: &dyn RootKey,
        job: &RootKeyJob,
        report: &mut RootKeyReport,
    ) -> Result<()> {
        let pace = Pace::new(job.rate);
        for page in targets.chunks(PAGE) {
            let rows = self.rows_of(page).await?;
            let tried = some_at_once(page.iter().map(|target| {
                let present = rows.get(&target.of.subject()).map(Vec::as_slice).unwrap_or_default();
                self.try_planned(target, present, planned, &pace)
            }));
            let tried: Vec<Result<()>> = tried.await;
            for (target, tried) in page.iter().zip(tried) {
                self.count(report, target, tried)?;
            }
            tell(job, report, page.len());
        }
        Ok(())
    }

    async fn try_planned(
        &self,
        target: &Target,
        present: &[WrappingRow],
        planned: &dyn RootKey,
        pace: &Pace,
    ) -> Result<()> {
        pace.pass().await;
        let plaintext = self.open(target, present).await?;
        let wrapped = planned.wrap(&target.binding, &plaintext).await?;
        target.check(&planned.unwrap(&target.binding, &wrapped).await?)
    }

    async fn rewrap_pages(
        &self,
        targets: &[Target],
        generations: &[u32],
        job: &RootKeyJob,
        report: &mut RootKeyReport,
    ) -> Result<()> {
        let pace = Pace::new(job.rate);
        for page in targets.chunks(PAGE) {
            let rows = self.rows_of(page).await?;
            let made = some_at_once(page.iter().map(|target| {
                let present = rows.get(&target.of.subject()).map(Vec::as_slice).unwrap_or_default();
                self.wrap_missing(target, present, generations, &pace)
            }));
            let made: Vec<Result<Vec<NewWrapping>>> = made.await;
            let mut new = Vec::new();
            let mut outage = Ok(());
            for (target, made) in page.iter().zip(made) {
                match made {
                    Ok(made) => new.extend(made),
                    Err(error) if is_outage(&error) => outage = Err(error),
                    Err(error) => report.fail(self.name_of(target), &error),
                }
            }
            let count = new.len() as u64;
            if !job.dry_run && !new.is_empty() {
                let mut details = Details::default();
                details.number("wrappings", count);
                let intent = self.root_key_intent(Action::WrappingsAdd, details);
                self.change(intent, Command::AddWrappings(new)).await?;
            }
            report.done += count;
            tell(job, report, page.len());
            outage?;
        }
        Ok(())
    }

    /// The wrappings that a material lacks.
    async fn wrap_missing(
        &self,
        target: &Target,
        present: &[WrappingRow],
        generations: &[u32],
        pace: &Pace,
    ) -> Result<Vec<NewWrapping>> {
        let is_good = |row: &&WrappingRow| self.is_sealed(target, row);
        let has: Vec<u32> = present.iter().filter(is_good).map(|row| row.stored.generation).collect();
        let missing: Vec<u32> = generations.iter().copied().filter(|generation| !has.contains(generation)).collect();
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        pace.pass().await;
        let plaintext = self.open(target, present).await?;
        let mut made = Vec::with_capacity(missing.len());
        for generation in missing {
            let wrapped = self.shared().envelope.wrap_under(generation, &target.binding, &plaintext).await?;
            made.push(target.wrapping(generation, wrapped.bytes));
        }
        Ok(made)
    }

    async fn verify_pages(
        &self,
        targets: &[Target],
        generation: u32,
        job: &RootKeyJob,
        report: &mut RootKeyReport,
    ) -> Result<()> {
        let pace = Pace::new(job.rate);
        for page in targets.chunks(PAGE) {
            let rows = self.rows_of(page).await?;
            let opened = some_at_once(page.iter().map(|target| {
                let present = rows.get(&target.of.subject()).map(Vec::as_slice).unwrap_or_default();
                let row = present.iter().find(|row| row.stored.generation == generation);
                let pace = &pace;
                async move {
                    let Some(row) = row else { return Ok(None) };
                    self.verify_wrapping(target, row, job, pace).await.map(Some)
                }
            }));
            let opened: Vec<Result<Option<Option<VerifiedWrapping>>>> = opened.await;
            let mut verified = Vec::new();
            let mut outage = Ok(());
            for (target, opened) in page.iter().zip(opened) {
                match opened {
                    Ok(None) => report.missing += 1,
                    Ok(Some(mark)) => {
                        report.done += 1;
                        verified.extend(mark);
                    }
                    Err(error) if is_outage(&error) => outage = Err(error),
                    Err(error) => report.fail(self.name_of(target), &error),
                }
            }
            if !job.dry_run && !verified.is_empty() {
                let mut details = Details::default();
                details.number("generation", generation.into()).number("wrappings", verified.len() as u64);
                let intent = self.root_key_intent(Action::WrappingsVerify, details);
                self.change(intent, Command::MarkVerified(verified)).await?;
            }
            tell(job, report, page.len());
            outage?;
        }
        Ok(())
    }

    /// Opens a wrapping and compares; answers the mark to be made, if it has none yet.
    async fn verify_wrapping(
        &self,
        target: &Target,
        row: &WrappingRow,
        job: &RootKeyJob,
        pace: &Pace,
    ) -> Result<Option<VerifiedWrapping>> {
        if !self.is_sealed(target, row) {
            return Err(Error::new(ErrorCode::IntegrityFailure, "the wrapping does not match its seal"));
        }
        if row.stored.verified && job.only_new {
            return Ok(None);
        }
        pace.pass().await;
        let envelope = &self.shared().envelope;
        let plaintext = envelope.unwrap_under(row.stored.generation, &target.binding, &row.bytes).await?;
        target.check(&plaintext)?;
        Ok((!row.stored.verified).then(|| VerifiedWrapping {
            stored: row.stored.clone(),
            seal: row.seal.clone(),
            fingerprint: target.fingerprint,
        }))
    }

    /// Materials that a generation wraps and that have no verified wrapping, with a good seal, under another one.
    pub(super) async fn count_unverified(&self, retiring: u32) -> Result<u64> {
        let stays: Vec<u32> =
            self.wrapping_rows().iter().map(|root| root.generation).filter(|other| *other != retiring).collect();
        let mut count = 0;
        for page in self.targets().await?.chunks(PAGE) {
            let rows = self.rows_of(page).await?;
            for target in page {
                let present = rows.get(&target.of.subject()).map(Vec::as_slice).unwrap_or_default();
                // What is not wrapped under it does not need it.
                if !present.iter().any(|row| row.stored.generation == retiring) {
                    continue;
                }
                let is_verified = |row: &WrappingRow| {
                    row.stored.verified && stays.contains(&row.stored.generation) && self.is_sealed(target, row)
                };
                count += u64::from(!present.iter().any(is_verified));
            }
        }
        if count > 0 {
            return Ok(count);
        }
        // What has no row in use, such as one in quarantine, may still have material.
        let mut connection = self.shared().store.reader().await?;
        wrappings::unverified_elsewhere(connection.as_mut(), retiring).await
    }

    /// Everything that has material, the service's own keys first.
    async fn targets(&self) -> Result<Vec<Target>> {
        self.shared().catalog.ensure_fresh().await?;
        let mut targets = self.service_targets().await?;
        let image = self.shared().catalog.image();
        let mut versions: Vec<_> =
            image.versions().filter(|version| version.state != VersionState::Destroyed).collect();
        versions.sort_unstable_by_key(|version| version.id);
        targets.extend(versions.into_iter().map(|version| {
            // Of a key whose row is in quarantine, the type is not known: then its wrappings do not open.
            let key_type = image.key(version.key_id).map_or(KeyType::Aes256Gcm, |key| key.key_type);
            Target {
                of: Wrapping::Version(version.key_id, version.version, version.id),
                binding: Binding::Version { key: version.key_id, version: version.version, key_type },
                fingerprint: version.fingerprint,
                wrapped: Vec::new(),
            }
        }));
        Ok(targets)
    }

    /// The service's own keys that are in use, with their wrappings.
    pub(super) async fn service_targets(&self) -> Result<Vec<Target>> {
        let mut connection = self.shared().store.reader().await?;
        let log = crate::storage::tables::head::read(connection.as_mut()).await?.map(|head| head.log_id);
        let log: LogId = log.ok_or_else(|| Error::new(ErrorCode::StoreCorrupt, "the head of the log is missing"))?;
        let rows = secrets::service_keys(connection.as_mut()).await?;
        let newest = |kind: ServiceKeyKind| rows.iter().filter(|row| row.kind == kind).map(|row| row.number).max();
        let in_use = rows.iter().filter(|row| Some(row.number) == newest(row.kind));
        Ok(in_use
            .map(|row| Target {
                of: Wrapping::Service(row.kind, row.number, row.id),
                binding: match row.kind {
                    ServiceKeyKind::Integrity => Binding::IntegrityKey { log, number: row.number },
                    ServiceKeyKind::Signing => Binding::SigningKey { log, number: row.number },
                },
                fingerprint: row.fingerprint,
                wrapped: row.wrapped.clone(),
            })
            .collect())
    }

    async fn rows_of(&self, page: &[Target]) -> Result<HashMap<[u8; 16], Vec<WrappingRow>>> {
        let subjects: Vec<[u8; 16]> = page.iter().map(|target| target.of.subject()).collect();
        let mut connection = self.shared().store.reader().await?;
        let mut rows: HashMap<[u8; 16], Vec<WrappingRow>> = HashMap::new();
        for row in wrappings::of_subjects(connection.as_mut(), &subjects).await? {
            rows.entry(row.stored.subject).or_default().push(row);
        }
        Ok(rows)
    }

    fn is_sealed(&self, target: &Target, row: &WrappingRow) -> bool {
        self.shared().catalog.seals().is_sealed(&row::wrapping(&row.stored, &target.fingerprint), &row.seal)
    }

    /// Opens a material by one of its wrappings with a good seal, and compares it with the fingerprint.
    async fn open(&self, target: &Target, present: &[WrappingRow]) -> Result<Zeroizing<Vec<u8>>> {
        let good = present.iter().filter(|row| self.is_sealed(target, row));
        let wrapped: Vec<Wrapped> = good.map(WrappingRow::wrapped).collect();
        if wrapped.is_empty() {
            return Err(Error::new(ErrorCode::IntegrityFailure, "no wrapping matches its seal"));
        }
        let plaintext = self.shared().envelope.unwrap(&target.binding, &wrapped).await?;
        target.check(&plaintext)?;
        Ok(plaintext)
    }

    fn wrapping_rows(&self) -> Vec<RootKeyGeneration> {
        self.shared().catalog.image().root_keys().filter(|root| root.wraps()).cloned().collect()
    }

    fn count(&self, report: &mut RootKeyReport, target: &Target, tried: Result<()>) -> Result<()> {
        match tried {
            Ok(()) => report.done += 1,
            Err(error) if is_outage(&error) => return Err(error),
            Err(error) => report.fail(self.name_of(target), &error),
        }
        Ok(())
    }

    fn name_of(&self, target: &Target) -> String {
        match target.of {
            Wrapping::Service(kind, number, _) => format!("{kind} key {number} of the service"),
            Wrapping::Version(key, version, _) => {
                let image = self.shared().catalog.image();
                let name = image.key(key).map_or_else(|| key.to_string(), |key| key.name.clone());
                format!("{name} v{version}")
            }
        }
    }

    async fn record_job(&self, action: Action, details: Details) -> Result<()> {
        self.change(self.root_key_intent(action, details), Command::Record(action)).await.map(drop)
    }
}

/// Whether it is the root key service or the store that fails, and not one material.
fn is_outage(error: &Error) -> bool {
    error.is_retryable() || matches!(error.code(), ErrorCode::RootKeyRefused | ErrorCode::WrongState)
}

/// Does these, some at once; answers in their order. The futures are made first: a stream that makes them from borrowed
/// values would make the jobs futures that cannot be spawned.
async fn some_at_once<T>(work: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let work: Vec<_> = work.collect();
    futures_util::stream::iter(work).buffered(AT_ONCE).collect().await
}

fn tell(job: &RootKeyJob, report: &RootKeyReport, looked_at: usize) {
    if let Some(progress) = &job.progress {
        progress.total.store(report.total, Ordering::Relaxed);
        progress.done.fetch_add(looked_at as u64, Ordering::Relaxed);
        progress.failed.store(report.failed, Ordering::Relaxed);
    }
}
