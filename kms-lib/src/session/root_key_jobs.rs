//! Long-running jobs on root keys: wrapping everything under another generation, and verifying every wrapping under
//! one.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::Session;
use super::root_key_report::{RewrapPlan, RootKeyCalls, RootKeyJob, RootKeyReport, tell};
use super::root_key_targets::{FoundWrapping, Target};
use super::root_keys::of_generation;
use crate::envelope::{RootKey, RootKeySource};
use crate::ledger::Details;
use crate::lifecycle::{CheckedWrapping, Command, NewWrapping};
use crate::storage::StoreFuture;
use crate::types::audit::Action;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::root_key::{RootKeyGeneration, RootKeyProvider};

/// The number of materials that are read, and whose wrappings are written, in one page.
const PAGE: usize = 100;
/// The number of concurrent calls to a root key, since each call to a remote one takes a while.
const AT_ONCE: usize = 8;

/// Limits the rate of calls per second.
struct Pace(Option<tokio::sync::Mutex<Interval>>);

impl Pace {
    fn new(rate: Option<u32>) -> Self {
        Self(rate.filter(|rate| *rate > 0).map(|rate| {
            // The interval must not be zero, which a rate above a thousand million per second would make it.
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
    /// Returns what [`Session::rewrap`] will do, and its cost in calls to the root keys. For admins.
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
                let present = found_for(target, &rows);
                let has = |generation: u32| present.iter().any(|found| found.row.stored.generation == generation);
                if active.iter().all(|root| has(root.generation)) {
                    continue;
                }
                plan.materials += 1;
                // In the envelope's order of preference: a local generation before a remote one, then the newest first.
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

    /// Wraps everything under every generation of the root key in use under which it is not wrapped yet. The service
    /// continues meanwhile. For admins.
    ///
    /// The job may be interrupted at any time and started again, since it looks for missing wrappings. Two concurrent
    /// jobs do no harm. Material that cannot be opened is in the report; if a root key is unavailable, the job ends
    /// with that error.
    ///
    /// Cancellation: dropping the future ends the job; submitted pages are kept, and another call continues.
    pub async fn rewrap(&self, job: &RootKeyJob) -> Result<RootKeyReport> {
        self.permit_changing(Action::RewrapStart).await?;
        let generations: Vec<u32> = self.wrapping_rows().iter().map(|root| root.generation).collect();
        let mut details = Details::default();
        details.raw("generations", format!("{generations:?}").replace(' ', ""));
        let targets = self.targets().await?;
        details.number("materials", targets.len() as u64);
        if job.dry_run {
            details.raw("dryRun", "true");
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

    /// Unwraps every wrapping under a generation of the root key, and compares the material with its fingerprint.
    /// Correct wrappings are marked as verified, which [`Session::retire_root_key`] requires. For admins.
    ///
    /// The job may be interrupted at any time and started again. If the root key is unavailable, it ends with that
    /// error.
    ///
    /// Cancellation: dropping the future ends the job; submitted pages are kept, and another call continues.
    pub async fn verify_root_key(&self, generation: u32, job: &RootKeyJob) -> Result<RootKeyReport> {
        self.permit_changing(Action::RootKeyVerify).await?;
        let is_active = self.generation(generation).and_then(|root| {
            let text = format!("generation {generation} of the root key is retired");
            if root.is_active() { Ok(()) } else { Err(Error::new(ErrorCode::WrongState, text)) }
        });
        if let Err(error) = is_active {
            return Err(self.refuse(Action::RootKeyVerify, of_generation(generation), error).await);
        }
        let targets = self.targets().await?;
        let mut report = RootKeyReport { total: targets.len() as u64, ..RootKeyReport::default() };
        let ended = self.verify_pages(&targets, generation, job, &mut report).await;
        self.record_root_key_verification(generation, job.dry_run.then_some("dryRun"), &report, &ended).await?;
        ended.map(|()| report)
    }

    /// Tests a root key before it is added: opens everything with the current root keys, wraps it under the planned
    /// one, unwraps that, and compares. Nothing is written except the record, ROOT_KEY_VERIFY with `planned`. For
    /// admins.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn verify_planned_root_key(&self, source: &RootKeySource, job: &RootKeyJob) -> Result<RootKeyReport> {
        self.permit_changing(Action::RootKeyVerify).await?;
        let generation = self.next_generation();
        let planned = match self.connect_unknown(source, generation).await {
            Ok(new) => new.key,
            Err(error) => {
                let mut details = of_generation(generation);
                details.raw("planned", "true");
                return Err(self.refuse(Action::RootKeyVerify, details, error).await);
            }
        };
        let targets = self.targets().await?;
        let mut report = RootKeyReport { total: targets.len() as u64, ..RootKeyReport::default() };
        let ended = self.try_pages(&targets, planned.as_ref(), job, &mut report).await;
        self.record_root_key_verification(generation, Some("planned"), &report, &ended).await?;
        ended.map(|()| report)
    }

    /// Records a verification. `kind` distinguishes it from one that marks wrappings as verified.
    async fn record_root_key_verification(
        &self,
        generation: u32,
        kind: Option<&'static str>,
        report: &RootKeyReport,
        ended: &Result<()>,
    ) -> Result<()> {
        let mut details = of_generation(generation);
        details
            .number("materials", report.total)
            .number("verified", report.done)
            .number("missing", report.missing)
            .number("failed", report.failed);
        if let Some(kind) = kind {
            details.raw(kind, "true");
        }
        if let Err(error) = ended {
            details.text("error", error.code().as_str());
        }
        self.record_job(Action::RootKeyVerify, details).await
    }

    /// Tests a planned root key with all material, page by page.
    fn try_pages<'a>(
        &'a self,
        targets: &'a [Target],
        planned: &'a dyn RootKey,
        job: &'a RootKeyJob,
        report: &'a mut RootKeyReport,
    ) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let pace = Pace::new(job.rate);
            for page in targets.chunks(PAGE) {
                let rows = self.rows_of(page).await?;
                let tried = some_at_once(
                    page.iter().map(|target| self.try_planned(target, found_for(target, &rows), planned, &pace)),
                );
                let tried: Vec<Result<()>> = tried.await;
                self.look_again(tried.iter().any(Result::is_err)).await?;
                for (target, tried) in page.iter().zip(tried) {
                    match tried {
                        Ok(()) => report.done += 1,
                        Err(error) => self.note_failure(report, target, error)?,
                    }
                }
                tell(job, report, page.len());
            }
            Ok(())
        })
    }

    async fn try_planned(
        &self,
        target: &Target,
        present: &[FoundWrapping],
        planned: &dyn RootKey,
        pace: &Pace,
    ) -> Result<()> {
        pace.pass().await;
        let plaintext = self.open(target, present).await?;
        let wrapped = planned.wrap(&target.binding, &plaintext).await?;
        target.check(&planned.unwrap(&target.binding, &wrapped).await?)
    }

    fn rewrap_pages<'a>(
        &'a self,
        targets: &'a [Target],
        generations: &'a [u32],
        job: &'a RootKeyJob,
        report: &'a mut RootKeyReport,
    ) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let pace = Pace::new(job.rate);
            for page in targets.chunks(PAGE) {
                let rows = self.rows_of(page).await?;
                let made = some_at_once(
                    page.iter().map(|target| self.wrap_missing(target, found_for(target, &rows), generations, &pace)),
                );
                let made: Vec<Result<Vec<NewWrapping>>> = made.await;
                self.look_again(made.iter().any(Result::is_err)).await?;
                let mut new = Vec::new();
                let mut outage = Ok(());
                for (target, made) in page.iter().zip(made) {
                    match made {
                        Ok(made) => new.extend(made),
                        Err(error) => outage = outage.and(self.note_failure(report, target, error)),
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
        })
    }

    /// Creates the wrappings that a material lacks.
    async fn wrap_missing(
        &self,
        target: &Target,
        present: &[FoundWrapping],
        generations: &[u32],
        pace: &Pace,
    ) -> Result<Vec<NewWrapping>> {
        let good = present.iter().filter(|found| found.is_sealed);
        let has: Vec<u32> = good.map(|found| found.row.stored.generation).collect();
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

    fn verify_pages<'a>(
        &'a self,
        targets: &'a [Target],
        generation: u32,
        job: &'a RootKeyJob,
        report: &'a mut RootKeyReport,
    ) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let pace = Pace::new(job.rate);
            for page in targets.chunks(PAGE) {
                let rows = self.rows_of(page).await?;
                let opened = some_at_once(page.iter().map(|target| {
                    let present = found_for(target, &rows);
                    let found = present.iter().find(|found| found.row.stored.generation == generation);
                    self.verify_wrapping(target, found, job, &pace)
                }));
                let opened: Vec<(Result<bool>, Option<CheckedWrapping>)> = opened.await;
                self.look_again(opened.iter().any(|(opened, _)| !matches!(opened, Ok(true)))).await?;
                let mut marks = Vec::new();
                let mut outage = Ok(());
                for (target, (opened, mark)) in page.iter().zip(opened) {
                    match opened {
                        Ok(true) => report.done += 1,
                        Ok(false) if self.is_gone(target) => report.total -= 1,
                        Ok(false) => report.missing += 1,
                        Err(error) => outage = outage.and(self.note_failure(report, target, error)),
                    }
                    marks.extend(mark);
                }
                if !job.dry_run && !marks.is_empty() {
                    self.mark(generation, marks).await?;
                }
                tell(job, report, page.len());
                outage?;
            }
            Ok(())
        })
    }

    /// Writes which wrappings were found correct, and which are no longer verified.
    async fn mark(&self, generation: u32, marks: Vec<CheckedWrapping>) -> Result<()> {
        let withdrawn = marks.iter().filter(|mark| !mark.opens).count();
        let mut details = of_generation(generation);
        details.number("wrappings", (marks.len() - withdrawn) as u64);
        if withdrawn > 0 {
            details.number("withdrawn", withdrawn as u64);
        }
        let intent = self.root_key_intent(Action::WrappingsVerify, details);
        self.change(intent, Command::MarkVerified(marks)).await.map(drop)
    }

    /// Unwraps the wrapping of a material and compares the result. Returns whether there is a wrapping, and the mark to
    /// write if it changed.
    async fn verify_wrapping(
        &self,
        target: &Target,
        found: Option<&FoundWrapping>,
        job: &RootKeyJob,
        pace: &Pace,
    ) -> (Result<bool>, Option<CheckedWrapping>) {
        let Some(FoundWrapping { row, is_sealed }) = found else { return (Ok(false), None) };
        // Without a valid seal its mark is not trusted.
        if !is_sealed {
            return (Err(Error::new(ErrorCode::IntegrityFailure, "the wrapping does not match its seal")), None);
        }
        if row.stored.verified && job.only_new {
            return (Ok(true), None);
        }
        pace.pass().await;
        let unwrapped = self.shared().envelope.unwrap_under(row.stored.generation, &target.binding, &row.bytes).await;
        let opened = unwrapped.and_then(|plaintext| target.check(&plaintext));
        // An unavailable root key proves nothing about the wrapping.
        let is_known = opened.as_ref().err().is_none_or(|error| !is_outage(error));
        let opens = opened.is_ok();
        let mark = (is_known && opens != row.stored.verified).then(|| CheckedWrapping {
            stored: row.stored.clone(),
            seal: row.seal.clone(),
            fingerprint: target.fingerprint,
            opens,
        });
        (opened.map(|()| true), mark)
    }

    fn wrapping_rows(&self) -> Vec<RootKeyGeneration> {
        self.shared().catalog.snapshot().root_keys().filter(|root| root.wraps()).cloned().collect()
    }

    /// Adds the failure of one material to the report, unless that was erased meanwhile. Fails with an outage, which
    /// ends the job.
    fn note_failure(&self, report: &mut RootKeyReport, target: &Target, error: Error) -> Result<()> {
        if is_outage(&error) {
            return Err(error);
        }
        if self.is_gone(target) {
            report.total -= 1;
        } else {
            report.fail(self.name_of(target), &error);
        }
        Ok(())
    }

    /// Refreshes the catalog if something failed: material that was erased meanwhile is not a failure.
    async fn look_again(&self, has_failures: bool) -> Result<()> {
        if has_failures { self.shared().catalog.ensure_fresh().await } else { Ok(()) }
    }

    async fn record_job(&self, action: Action, details: Details) -> Result<()> {
        self.change(self.root_key_intent(action, details), Command::Record(action)).await.map(drop)
    }
}

/// The wrappings of a material among those that were read.
fn found_for<'a>(target: &Target, rows: &'a HashMap<[u8; 16], Vec<FoundWrapping>>) -> &'a [FoundWrapping] {
    rows.get(&target.of.subject()).map(Vec::as_slice).unwrap_or_default()
}

/// Whether the root key or the store failed, and not one material.
fn is_outage(error: &Error) -> bool {
    error.is_retryable() || matches!(error.code(), ErrorCode::RootKeyRefused | ErrorCode::WrongState)
}

/// Runs these futures, several at once, and returns their results in order. The futures are created first: a stream
/// that creates them from borrowed values would make the jobs' futures impossible to spawn.
async fn some_at_once<T>(work: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let work: Vec<_> = work.collect();
    futures_util::stream::iter(work).buffered(AT_ONCE).collect().await
}
