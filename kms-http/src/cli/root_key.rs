//! The commands `kms-http root-key`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Subcommand;
use kms_lib::{Error, ErrorCode, IntegrityKeyReplacement, RootKeySource, Session};
use kms_lib::{RetireOptions, Retirement, RewrapPlan, RootKeyDescription, RootKeyJob, RootKeyProgress, RootKeyReport};

use super::exit::Failure;
use super::output;
use super::store::{watched_job, with_store};
use crate::settings::Settings;

/// The subcommands of `kms-http root-key`.
#[derive(Subcommand)]
pub enum RootKey {
    /// List the root keys by generation
    List,
    /// Add a root key: the configured next one (KMS_MASTER_KEY_NEXT, KMS_AWS_KEY_ID_NEXT, or KMS_USE_AWS together with
    /// a local one) or one from a file
    Add {
        /// File with the new root key (mode 0600)
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
    },
    /// Wrap all key material under every root key in use
    Rewrap {
        /// Maximum rate, in items of key material per second
        #[arg(long, value_name = "N")]
        rate: Option<u32>,
        /// Only print how much there is to do and how many root key calls it takes
        #[arg(long)]
        dry_run: bool,
    },
    /// Unwrap everything under one root key and check it; exits with 4 if something is missing or wrong
    Verify {
        /// Generation to verify
        #[arg(required_unless_present = "planned")]
        generation: Option<u32>,
        /// Maximum rate, in items of key material per second
        #[arg(long, value_name = "N")]
        rate: Option<u32>,
        /// Do not mark the wrappings as verified
        #[arg(long)]
        dry_run: bool,
        /// Skip wrappings that were verified since they were written
        #[arg(long)]
        only_new: bool,
        /// Test a root key before adding it: wrap and unwrap everything under it, and store nothing
        #[arg(long, conflicts_with_all = ["generation", "only_new"])]
        planned: bool,
        /// With --planned: file with that root key (mode 0600) [default: the configured next root key]
        #[arg(long, value_name = "FILE", requires = "planned")]
        key_file: Option<PathBuf>,
    },
    /// Retire a root key and delete its wrappings (keys stay wrapped under the others)
    Retire {
        /// Generation to retire
        generation: u32,
        /// Mark the key as compromised
        #[arg(long)]
        compromised: bool,
        /// First verify what was created since the last verification
        #[arg(long)]
        verify_new: bool,
    },
    /// Replace the integrity key and reseal every row, or complete an interrupted replacement
    ReplaceIntegrityKey,
}

/// Opens the store and runs the command.
pub fn run(command: RootKey, settings: Settings, as_json: bool) -> Result<ExitCode, Failure> {
    let next = settings.kms.next_root_key();
    with_store(settings, |_, session| async move {
        match command {
            RootKey::List => {
                let keys = session.list_root_keys().await?;
                output::show(as_json, &keys, keys.iter().map(line))?;
                Ok(ExitCode::SUCCESS)
            }
            RootKey::Add { key_file } => {
                let added = session.add_root_key(&source(key_file.as_deref(), next)?).await?;
                output::show(as_json, &added, [line(&added)])?;
                Ok(ExitCode::SUCCESS)
            }
            RootKey::Rewrap { rate, dry_run } => rewrap(&session, rate, dry_run, as_json).await,
            RootKey::Verify { generation, rate, dry_run, only_new, planned, key_file } => {
                let job = RootKeyJob::default().rate(rate).dry_run(dry_run).only_new(only_new);
                let planned = if planned { Some(source(key_file.as_deref(), next)?) } else { None };
                verify(&session, generation, planned, job, as_json).await
            }
            RootKey::Retire { generation, compromised, verify_new } => {
                let options = RetireOptions::default().compromised(compromised).verify_new(verify_new);
                let retired = session.retire_root_key(generation, &options).await?;
                output::show(as_json, &retired, retirement_lines(&retired))?;
                Ok(ExitCode::SUCCESS)
            }
            RootKey::ReplaceIntegrityKey => {
                let replaced = session.replace_integrity_key().await?;
                output::show(as_json, &replaced, replacement_lines(&replaced))?;
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}

/// The root key in the given file, or the configured next root key.
fn source(key_file: Option<&Path>, next: Option<RootKeySource>) -> Result<RootKeySource, Failure> {
    if let Some(path) = key_file {
        return Ok(RootKeySource::parse(&format!("file:{}", path.display()))?);
    }
    let text = "no next root key is configured; set KMS_MASTER_KEY_NEXT, KMS_AWS_KEY_ID_NEXT, or KMS_USE_AWS together \
                with a local root key, or give --key-file";
    next.ok_or_else(|| Error::new(ErrorCode::InvalidRootKey, text).into())
}

async fn rewrap(session: &Session, rate: Option<u32>, dry_run: bool, as_json: bool) -> Result<ExitCode, Failure> {
    let plan = session.plan_rewrap().await?;
    if dry_run {
        output::show(as_json, &plan, plan_lines(&plan))?;
        return Ok(ExitCode::SUCCESS);
    }
    if !as_json {
        plan_lines(&plan).into_iter().for_each(|text| output::line(&text));
    }
    let progress = Arc::new(RootKeyProgress::default());
    let job = RootKeyJob::default().rate(rate).progress(Arc::clone(&progress));
    let report = watched_job("rewrapping", &progress, session.rewrap(&job)).await?;
    show_report(&report, "wrapped", as_json)
}

async fn verify(
    session: &Session,
    generation: Option<u32>,
    planned: Option<RootKeySource>,
    job: RootKeyJob,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let progress = Arc::new(RootKeyProgress::default());
    let job = job.progress(Arc::clone(&progress));
    let report = match planned {
        Some(source) => watched_job("testing", &progress, session.verify_planned_root_key(&source, &job)).await?,
        None => {
            let verifying = session.verify_root_key(generation.unwrap_or_default(), &job);
            watched_job("verifying", &progress, verifying).await?
        }
    };
    show_report(&report, "verified", as_json)
}

fn show_report(report: &RootKeyReport, what: &str, as_json: bool) -> Result<ExitCode, Failure> {
    let RootKeyReport { total, done, missing, failed, .. } = report;
    let first = format!("{what} {done} of {total} items of key material; {missing} missing, {failed} failed");
    let failures = report.failures.iter().map(|failure| format!("{}: {}", failure.what, failure.reason));
    output::show(as_json, report, [first].into_iter().chain(failures))?;
    Ok(if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::from(4) })
}

fn plan_lines(plan: &RewrapPlan) -> Vec<String> {
    let first = format!("{} items of key material lack a wrapping", plan.materials);
    let calls = plan.calls.iter().map(|calls| {
        let (unwraps, wraps) = (calls.unwraps, calls.wraps);
        format!("generation {} ({}): {unwraps} unwrap calls, {wraps} wrap calls", calls.generation, calls.provider)
    });
    [first].into_iter().chain(calls).collect()
}

fn line(key: &RootKeyDescription) -> String {
    let state = if key.compromised_at.is_some() { "COMPROMISED" } else { key.state.as_str() };
    let available = if key.at_hand { "available" } else { "unavailable" };
    let used = key.last_used_at.map_or_else(|| "not used here".into(), |at| format!("used {at}"));
    let reference = key.reference.as_deref().unwrap_or("-");
    format!(
        "{:<4} {:<8} {state:<12} {available:<12} {:>8} wrappings {:>8} verified  {used}  {reference}",
        key.generation, key.provider, key.wrappings, key.verified
    )
}

fn replacement_lines(replaced: &IntegrityKeyReplacement) -> Vec<String> {
    let IntegrityKeyReplacement { number, resealed, left, .. } = replaced;
    let mut lines = vec![format!("integrity key {number} is in use; {resealed} rows and wrappings resealed")];
    if *left > 0 {
        lines.push(format!("{left} wrappings had no valid seal and were not resealed; `audit verify` lists them"));
    }
    lines.push("no wrapping is marked as verified any more; run `root-key verify`".to_owned());
    lines
}

fn retirement_lines(retired: &Retirement) -> Vec<String> {
    let mut lines = vec![line(&retired.root_key), format!("{} wrappings erased", retired.erased)];
    if retired.erasure_pending {
        lines.push(
            "pending     some wrappings are not erased yet; the scheduler erases them, or repeat this command"
                .to_owned(),
        );
    }
    lines.extend(retired.rotate.iter().map(|name| format!("rotate      {name}")));
    let backup = |hour: &kms_lib::BackupHour| {
        format!("backups     {} in the hour from {}; they may need this root key", hour.backups, hour.from)
    };
    lines.extend(retired.backups.iter().map(backup));
    lines
}
