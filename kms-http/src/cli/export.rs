//! `kms-http audit export`, and the verification of exports.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use kms_lib::audit::checkpoint;
use kms_lib::audit::export::{ExportReport, ExportVerifier};
use kms_lib::limits::PAGE_LIMIT;
use kms_lib::{AuditQuery, Error, Paging, Session, Timestamp};
use serde_json::{Value, json};

use super::exit::Failure;
use super::output;
use super::store::bar;

/// The interval at which `--follow` polls for new records. A signed checkpoint follows each group of new records.
const LOOK: Duration = Duration::from_secs(1);
/// The longest pause between two attempts while the store does not respond.
const PAUSE: Duration = Duration::from_secs(10);
/// Bytes read from the end of a file to find its last record. Every record's line is shorter.
const TAIL: u64 = 8 * 1024 * 1024;

/// Options of `kms-http audit export`.
#[derive(Args)]
pub struct Export {
    /// Write to this file, which must not exist unless --resume is given [default: standard output]
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Append after the last record (file is created if missing)
    #[arg(long, requires = "output", conflicts_with_all = ["since", "until"])]
    resume: bool,
    /// Start with this record number or time
    #[arg(long, value_name = "SEQ|TIME")]
    since: Option<Since>,
    /// Stop before this time
    #[arg(long, value_name = "TIME", conflicts_with = "follow")]
    until: Option<Timestamp>,
    /// Write the rows of the log imported under this name, in the order of their links, instead of the records
    #[arg(long, value_name = "NAME", conflicts_with_all = ["since", "until", "follow", "resume"])]
    imported: Option<String>,
    /// Keep writing new records, and retry while the store is unavailable
    #[arg(long, short)]
    follow: bool,
}

/// The first record of an export.
#[derive(Clone, Copy, Debug)]
enum Since {
    Record(u64),
    Time(Timestamp),
}

impl FromStr for Since {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        text.parse().map(Self::Record).or_else(|_| text.parse().map(Self::Time))
    }
}

/// The output of an export, and the number of the last record in it.
struct Target {
    out: Box<dyn Write>,
    last: u64,
}

impl Target {
    fn line(&mut self, line: &str) -> Result<(), Failure> {
        Ok(writeln!(self.out, "{line}")?)
    }
}

/// Writes the records of the log, or of an imported log.
pub async fn run(session: &Session, wanted: Export) -> Result<ExitCode, Failure> {
    let mut target = open(&wanted)?;
    if let Some(source) = &wanted.imported {
        return copy_imported(session, source, &mut target).await;
    }
    let mut query = AuditQuery::new().oldest_first();
    match wanted.since {
        Some(Since::Record(seq)) => target.last = seq.saturating_sub(1),
        Some(Since::Time(time)) => query = query.since(time),
        None => {}
    }
    query.until = wanted.until;
    if !wanted.follow {
        copy(session, &query, &mut target, true).await?;
        return Ok(ExitCode::SUCCESS);
    }
    follow(session, &query, &mut target).await
}

/// Copies the rows of an imported log.
async fn copy_imported(session: &Session, source: &str, target: &mut Target) -> Result<ExitCode, Failure> {
    let mut paging = Paging::new(PAGE_LIMIT);
    loop {
        let page = session.list_imported_audit(source, &paging).await?;
        for row in &page.items {
            target.line(&serde_json::to_string(row)?)?;
        }
        paging.cursor = page.next_cursor;
        if paging.cursor.is_none() {
            break;
        }
    }
    target.out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Copies new records until SIGINT or SIGTERM, and retries while the store is unavailable.
async fn follow(session: &Session, query: &AuditQuery, target: &mut Target) -> Result<ExitCode, Failure> {
    let mut pause = LOOK;
    let mut is_out = false;
    loop {
        let copying = async {
            let copied = copy(session, query, target, false).await;
            match copied {
                Ok(()) if is_out => {
                    tell(target.last, "the store is available again");
                    (is_out, pause) = (false, LOOK);
                }
                Ok(()) => pause = LOOK,
                Err(failure) if failure.may_pass() => {
                    if !is_out {
                        tell(target.last, &format!("{failure}; retrying"));
                    }
                    (is_out, pause) = (true, PAUSE.min(pause * 2));
                }
                Err(failure) => return Err(failure),
            }
            tokio::time::sleep(pause).await;
            Ok(())
        };
        tokio::select! {
            done = copying => done?,
            () = interrupted() => break,
        }
    }
    target.out.flush()?;
    Ok(ExitCode::SUCCESS)
}

async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        },
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}

fn tell(last: u64, what: &str) {
    eprintln!("kms-http: {what} (exported up to record {last})");
}

/// Copies the records up to the current end of the log, followed by the signed checkpoint that covers them.
async fn copy(session: &Session, query: &AuditQuery, target: &mut Target, with_bar: bool) -> Result<(), Failure> {
    let note = session.checkpoint().await?;
    let end = checkpoint::claimed(&note).map_or(0, |claimed| claimed.size);
    if end <= target.last {
        return Ok(());
    }
    let switches = switches(session, target.last, end).await?;
    let mut switches = switches.iter().peekable();
    let progress = if with_bar { bar("exporting", end) } else { indicatif::ProgressBar::hidden() };
    let mut paging = Paging::new(PAGE_LIMIT);
    loop {
        if target.last > 0 {
            paging.cursor = Some(target.last.to_string());
        }
        let page = session.list_audit(query, &paging).await?;
        for record in page.items.iter().take_while(|record| record.seq <= end) {
            target.line(&serde_json::to_string(record)?)?;
            target.last = record.seq;
            if let Some((_, note)) = switches.next_if(|(seq, _)| *seq == record.seq)
                && *note != Value::Null
            {
                target.line(&note.to_string())?;
            }
        }
        progress.set_position(target.last);
        let is_past = page.items.last().is_none_or(|record| record.seq >= end);
        if is_past || page.next_cursor.is_none() {
            break;
        }
    }
    // The checkpoint covers the whole log; with --until the export ends earlier and gets none.
    if target.last == end {
        target.line(&json!({"checkpoint": note}).to_string())?;
    }
    target.out.flush()?;
    progress.finish_and_clear();
    Ok(())
}

/// The checkpoints at which the signing key was replaced, after record `after` and up to record `end`, each signed by
/// both keys.
async fn switches(session: &Session, after: u64, end: u64) -> Result<Vec<(u64, Value)>, Failure> {
    let mut found = Vec::new();
    for key in session.audit_public_keys().await?.iter().skip(1) {
        if key.first_seq > after && key.first_seq <= end {
            let note = session.kept_checkpoint(key.first_seq).await?;
            found.push((key.first_seq, note.map_or(Value::Null, |note| json!({"checkpoint": note}))));
        }
    }
    Ok(found)
}

fn open(wanted: &Export) -> Result<Target, Failure> {
    let Some(path) = wanted.output.as_deref().filter(|path| *path != Path::new("-")) else {
        return Ok(Target { out: Box::new(BufWriter::new(std::io::stdout())), last: 0 });
    };
    let unusable = |e: std::io::Error| Failure::new(1, format!("cannot write {}: {e}", path.display()));
    // Records contain names and contexts, so only the owner may read the file.
    let mut options = File::options();
    options.write(true).mode(0o600);
    let (file, last) = match wanted.resume {
        false => (options.create_new(true).open(path).map_err(unusable)?, 0),
        true => {
            let mut file = options.read(true).create(true).truncate(false).open(path).map_err(unusable)?;
            let last = go_to_end(&mut file, path)?;
            (file, last)
        }
    };
    Ok(Target { out: Box::new(BufWriter::new(file)), last })
}

/// Removes an incomplete last line, seeks to the end, and returns the number of the last record.
fn go_to_end(file: &mut File, path: &Path) -> Result<u64, Failure> {
    let length = file.metadata()?.len();
    let begin = length.saturating_sub(TAIL);
    file.seek(SeekFrom::Start(begin))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let seq = |line: &[u8]| serde_json::from_slice::<Value>(line).ok()?.get("seq")?.as_u64();
    let last = tail[..whole].split(|byte| *byte == b'\n').rev().find_map(seq);
    if last.is_none() && (whole > 0 || begin > 0) {
        let message =
            format!("{} does not end with a record of an export, so --resume cannot append to it", path.display());
        return Err(Failure::new(1, message));
    }
    file.set_len(begin + whole as u64)?;
    file.seek(SeekFrom::End(0))?;
    Ok(last.unwrap_or_default())
}

/// Verifies exports that together begin with the first record of the log, against a pinned public key.
pub fn verify(files: &[PathBuf], pinned_key: &str, as_json: bool) -> Result<ExitCode, Failure> {
    let mut verifier = ExportVerifier::new(pinned_key)?;
    let length: u64 = files.iter().filter_map(|file| Some(fs::metadata(file).ok()?.len())).sum();
    let progress = bar("verifying the export", length);
    for path in files {
        let unreadable = |e: std::io::Error| Failure::new(1, format!("cannot read {}: {e}", path.display()));
        let file = File::open(path).map_err(unreadable)?;
        let mut lines = BufReader::with_capacity(1 << 20, file);
        let mut line = Vec::new();
        // A longer line is read in parts, none of which parses, so the verifier reports a fault.
        while lines.by_ref().take(TAIL).read_until(b'\n', &mut line).map_err(unreadable)? > 0 {
            verifier.push_line(String::from_utf8_lossy(&line).trim_end_matches('\n'));
            progress.inc(line.len() as u64);
            line.clear();
        }
    }
    progress.finish_and_clear();
    show(&verifier.finish(), as_json)
}

fn show(report: &ExportReport, as_json: bool) -> Result<ExitCode, Failure> {
    let good = report.ok.then(|| format!("ok          records 1 to {}", report.size));
    let faults = report.faults.iter().map(|fault| format!("fault       {fault}"));
    let signed = (!report.ok && report.signed > 0).then(|| format!("signed      records 1 to {}", report.signed));
    let shown = output::show(as_json, report, good.into_iter().chain(faults).chain(signed))?;
    Ok(if report.ok { shown } else { ExitCode::from(Failure::FAULT) })
}
