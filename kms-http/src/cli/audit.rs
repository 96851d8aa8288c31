//! The commands `kms-http audit`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use kms_lib::limits::PAGE_LIMIT;
use kms_lib::{
    AnchorReport, AuditQuery, AuditRecord, LegacyLog, Paging, Progress, Report, Session, Timestamp, VerifyOptions,
};
use serde_json::json;

use super::acknowledge;
use super::anchor;
use super::exit::Failure;
use super::export::{self, Export};
use super::output;
use super::store::{watched, with_store};
use crate::settings::Settings;

/// The subcommands of `kms-http audit`.
#[derive(Subcommand)]
pub enum Audit {
    /// Verify the audit log; exits with 4 if there is a fault
    Verify {
        /// Verify the records since the last verification without a fault, and reread a part of the older ones (see
        /// the setting audit.reverify_days)
        #[arg(long, conflicts_with = "pinned_key")]
        incremental: bool,
        /// Public key of the log that the verifier trusts (see `audit public-key`)
        #[arg(long)]
        pinned_key: Option<String>,
        /// Verify exports that begin with the log's first record, instead of the store; needs no store and no root key.
        /// Repeat the option for consecutive files, in order
        #[arg(long, value_name = "EXPORT", requires = "pinned_key", conflicts_with = "incremental")]
        file: Vec<PathBuf>,
        /// Also compare the log with the anchors, which reveals a rollback or a truncated log
        #[arg(long, conflicts_with = "file")]
        anchors: bool,
    },
    /// Write the signed checkpoint to the configured anchors and compare the log with them; exits with 4 if they differ
    Anchor,
    /// Show the newest records
    Tail {
        /// Number of records to show
        #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
        lines: u16,
        /// Keep printing new records
        #[arg(short, long)]
        follow: bool,
    },
    /// Write the records as JSON lines, oldest first, interleaved with signed checkpoints
    Export(Export),
    /// Print the public key of the log, for verifiers to pin
    PublicKey {
        /// Print all public keys, each with the range of records it signed
        #[arg(long)]
        all: bool,
    },
    /// Replace the signing key of the log
    RotateKey,
    /// List the quarantined rows: rows that do not match the audit log and are not used
    Quarantine {
        /// First release the rows that match the audit log again
        #[arg(long)]
        release: bool,
    },
    /// Acknowledge a rollback or restore of the store; the audit log records what was lost
    AcknowledgeRestore,
    /// Acknowledge that the clock was ahead when the last record was written and is correct now; the audit log records
    /// where time goes back
    AcknowledgeClock {
        /// The current time from an independent clock, such as 2026-11-23T18:26:46Z; within 5 minutes of this machine's
        #[arg(long)]
        now: Timestamp,
        /// Also acknowledge a rollback or restore of the store
        #[arg(long)]
        restore: bool,
    },
}

impl Audit {
    /// The exports to verify and the pinned key, if the command verifies exports. That needs no settings.
    pub fn offline(&self) -> Option<(&[PathBuf], &str)> {
        match self {
            Self::Verify { file, pinned_key: Some(key), .. } if !file.is_empty() => Some((file, key)),
            _ => None,
        }
    }
}

/// The interval at which `--follow` polls for new records.
const LOOK: Duration = Duration::from_secs(1);

/// Opens the store and runs the command.
pub fn run(command: Audit, settings: Settings, as_json: bool) -> Result<ExitCode, Failure> {
    let is_read_only = settings.kms.is_store_read_only();
    let anchors = settings.http.anchors.clone();
    let command = match command {
        Audit::AcknowledgeRestore => return acknowledge::run(settings, None, true, as_json),
        Audit::AcknowledgeClock { now, restore } => return acknowledge::run(settings, Some(now), restore, as_json),
        command => command,
    };
    with_store(settings, |_, session| async move {
        match command {
            Audit::Verify { incremental, pinned_key, anchors: with_anchors, .. } => {
                let anchored = if with_anchors { Some(anchor::compare(&session, &anchors).await?) } else { None };
                let report = verify(&session, incremental, pinned_key).await?;
                show_report(&report, anchored.as_ref(), is_read_only, as_json)
            }
            Audit::Anchor => anchor::run(&session, &anchors, as_json).await,
            Audit::Tail { lines, follow } => tail(&session, lines.into(), follow, as_json).await,
            Audit::Export(wanted) => export::run(&session, wanted).await,
            Audit::PublicKey { all: true } => public_keys(&session, as_json).await,
            Audit::PublicKey { all: false } => show_key(&session.audit_public_key().await?, as_json),
            Audit::RotateKey => show_key(&session.replace_signing_key().await?, as_json),
            Audit::Quarantine { release } => quarantine(&session, release, as_json).await,
            Audit::AcknowledgeRestore | Audit::AcknowledgeClock { .. } => Ok(ExitCode::SUCCESS),
        }
    })
}

/// Lists the quarantined rows, or releases the repaired rows and lists those.
async fn quarantine(session: &Session, release: bool, as_json: bool) -> Result<ExitCode, Failure> {
    let rows = if release { session.release_quarantine().await? } else { session.list_quarantine().await? };
    let lines = rows.iter().map(|row| {
        let key = row.key_name.clone().or(row.key_id.map(|id| id.to_string())).map(|key| format!("  key {key}"));
        format!("{}  {}  {}{}", row.created_at, row.table, row.row, key.unwrap_or_default())
    });
    output::show(as_json, &rows, lines)
}

async fn verify(session: &Session, incremental: bool, pinned_key: Option<String>) -> Result<Report, Failure> {
    if incremental {
        return Ok(session.verify_audit_incrementally().await?);
    }
    let progress = Progress::new();
    let mut options = VerifyOptions::new().progress(&progress);
    options.pinned_key = pinned_key;
    Ok(watched("reading the store", &progress, session.verify_audit_with(&options)).await?)
}

/// Prints the report of a verification. On a read-only medium the verification is not recorded.
fn show_report(
    report: &Report,
    anchored: Option<&AnchorReport>,
    is_read_only: bool,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let mut value = serde_json::to_value(report)?;
    value["recorded"] = json!(!is_read_only);
    if let Some(anchored) = anchored {
        value["anchors"] = serde_json::to_value(anchored)?;
    }
    let mut lines = Vec::new();
    if report.ok {
        lines.push(format!("ok          records {} to {}", report.from + 1, report.size));
        lines.extend(report.reread.map(|(after, end)| format!("reread      records {} to {end}", after + 1)));
    }
    lines.extend(anchored.map(anchor::lines).into_iter().flatten());
    lines.extend(report.faults.iter().map(|fault| format!("fault       {fault}")));
    lines.extend(report.imported.iter().flat_map(describe_imported));
    lines.extend(report.warnings.iter().map(|warning| format!("warning     {warning}")));
    lines.extend(is_read_only.then(|| "recorded    no: the store is read-only".to_owned()));
    let shown = output::show(as_json, &value, lines)?;
    let is_anchored = anchored.is_none_or(|anchored| anchored.ok);
    Ok(if report.ok && is_anchored { shown } else { ExitCode::from(Failure::FAULT) })
}

/// Describes an imported log: its size, and the faults that it had when it was imported.
pub(super) fn describe_imported(log: &LegacyLog) -> Vec<String> {
    let source = &log.source;
    let mut lines = vec![format!("old log     {source}: {} rows, root {}", log.rows, log.root)];
    if !log.complete {
        lines.push(format!("old log     {source}: the last run was interrupted; run the import again"));
    }
    for (rows, what) in [
        (&log.altered, "were altered: their hash does not match their content"),
        (&log.unlinked, "link to a row that was deleted or altered"),
        (&log.repeated, "have the hash of another row"),
        (&log.circular, "link in a circle"),
        (&log.backwards, "are older than the row they link to"),
        (&log.changed, "were changed in the source after they had been imported"),
        (&log.gone, "were deleted from the source after they had been imported"),
        (&log.oversized, "are longer than 4 MiB and were not imported"),
        (&log.unsearched, "were altered, or were not checked completely because there were too many such rows"),
        (&log.order_lost, "were altered, or MySQL's type JSON lost the order of their names: that cannot be decided"),
    ] {
        if let Some(first) = rows.ids.first() {
            lines.push(format!("old log     {source}: {} rows {what}; the first is {first}", rows.count));
        }
    }
    if log.unread > 0 {
        lines.push(format!("old log     {source}: {} rows were not read: several have the same id", log.unread));
    }
    let forks = &log.forks;
    if forks.count > 0 {
        lines.push(format!(
            "old log     {source}: the log forks at {} places and has {} ends",
            forks.count, log.heads.count
        ));
    }
    lines
}

async fn tail(session: &Session, lines: usize, follow: bool, as_json: bool) -> Result<ExitCode, Failure> {
    let newest = session.list_audit(&AuditQuery::new(), &Paging::new(lines)).await?.items;
    let last = newest.first().map_or(0, |record| record.seq);
    for record in newest.iter().rev() {
        show(record, as_json)?;
    }
    if follow {
        self::follow(session, last, as_json).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints new records until SIGINT.
async fn follow(session: &Session, mut last: u64, as_json: bool) -> Result<(), Failure> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
        let paging = Paging::new(PAGE_LIMIT).after(last.to_string());
        for record in &session.list_audit(&AuditQuery::new().oldest_first(), &paging).await?.items {
            show(record, as_json)?;
            last = record.seq;
        }
    }
}

fn show(row: &AuditRecord, as_json: bool) -> Result<(), Failure> {
    if as_json {
        output::line(&serde_json::to_string(row)?);
        return Ok(());
    }
    let key = row.key_id.map(|id| id.to_string()).unwrap_or_default();
    let version = row.key_version.map(|version| format!(" v{version}")).unwrap_or_default();
    output::line(&format!(
        "{} {} {:<7} {} ({}) {} {key}{version}",
        row.seq, row.timestamp, row.status, row.actor, row.role, row.action
    ));
    Ok(())
}

fn show_key(key: &str, as_json: bool) -> Result<ExitCode, Failure> {
    output::show(as_json, &json!({"verifierKey": key}), [key.to_owned()])
}

async fn public_keys(session: &Session, as_json: bool) -> Result<ExitCode, Failure> {
    let keys = session.audit_public_keys().await?;
    let lines = keys.iter().map(|key| {
        let end = key.last_seq.map_or_else(|| "now".into(), |last| last.to_string());
        format!("{} to {end}: {}", key.first_seq, key.verifier_key)
    });
    output::show(as_json, &keys, lines)
}
