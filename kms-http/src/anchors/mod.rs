//! Anchors: signed checkpoints of the audit log, kept where an attacker with write access to the database cannot change
//! them. Every node writes anchors and compares the log with the anchors of all nodes, so that nodes on two copies of a
//! database detect each other. Failures are counted, logged and recorded; the service keeps running.

mod endpoint;
mod file;
#[cfg(feature = "aws-kms")]
mod s3;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use kms_lib::audit::checkpoint;
use kms_lib::{AnchorReport, Error, RecordId, Result, Session};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::settings::AnchorSettings;
#[cfg(not(feature = "aws-kms"))]
use crate::settings::invalid;
use endpoint::Endpoint;
use file::AnchorFile;
#[cfg(feature = "aws-kms")]
use s3::Bucket;

/// Maximum size of a checkpoint, in bytes. Larger ones are ignored.
const NOTE_BYTES: usize = 16 * 1024;

/// The status of anchoring, for the metrics.
#[derive(Default)]
pub struct Status {
    written: AtomicU64,
    failures: AtomicU64,
    last: AtomicU64,
    diverged: AtomicBool,
}

impl Status {
    /// Number of rounds in which the log was anchored everywhere.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
    /// Number of rounds that failed, at one place or entirely.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
    /// Unix time when the log was last anchored everywhere; 0 if it never was.
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }
    /// Whether the log did not match an anchor since the service started.
    pub fn has_diverged(&self) -> bool {
        self.diverged.load(Ordering::Relaxed)
    }
}

/// An anchor in a file or at an endpoint: one line with a JSON object.
#[derive(Debug, Deserialize, Serialize)]
struct Line<'a> {
    /// The id of the node that wrote the anchor.
    node: &'a str,
    /// The signed checkpoint (C2SP tlog-checkpoint).
    #[serde(borrow)]
    checkpoint: std::borrow::Cow<'a, str>,
}

/// The checkpoints in JSON lines. Malformed lines are skipped, because a write may have been interrupted.
fn parse(text: &str) -> Vec<String> {
    let line = |line: &str| Some(serde_json::from_str::<Line<'_>>(line).ok()?.checkpoint.into_owned());
    text.lines().filter_map(line).filter(|note| note.len() <= NOTE_BYTES).collect()
}

/// A place where anchors are kept.
enum Place {
    File(AnchorFile),
    Endpoint(Endpoint),
    #[cfg(feature = "aws-kms")]
    Bucket(Box<Bucket>),
}

/// The reason why an anchor could not be written or read, for the log. It contains no secrets.
type Problem = String;

impl Place {
    fn name(&self) -> String {
        match self {
            Self::File(file) => file.name(),
            Self::Endpoint(endpoint) => endpoint.name(),
            #[cfg(feature = "aws-kms")]
            Self::Bucket(bucket) => bucket.name(),
        }
    }

    async fn append(&mut self, node: &str, note: &str) -> std::result::Result<(), Problem> {
        match self {
            Self::File(file) => file.append(node, note).await,
            Self::Endpoint(endpoint) => endpoint.append(node, note).await,
            #[cfg(feature = "aws-kms")]
            Self::Bucket(bucket) => bucket.append(node, note).await,
        }
    }

    /// The anchors since the last call. The first call returns all; in a bucket, only those of at least `since`
    /// records.
    async fn read(&mut self, origin: &str, since: u64) -> std::result::Result<Vec<String>, Problem> {
        match self {
            Self::File(file) => file.read().await,
            Self::Endpoint(endpoint) => endpoint.read().await,
            #[cfg(feature = "aws-kms")]
            Self::Bucket(bucket) => bucket.read(origin, since).await,
        }
    }
}

/// All configured places for anchors.
pub struct Anchors {
    places: Vec<Place>,
    node: String,
    every: Duration,
    patience: Duration,
    /// Number of records in the checkpoint that was last anchored everywhere.
    anchored: u64,
    /// Anchors with fewer records are ignored: the service considers only anchors written since it started, so that the
    /// work does not grow with the log.
    since: u64,
    /// Whether this is the periodic anchoring of the service, and not a single command.
    is_service: bool,
    /// Whether the last round failed. An outage is recorded only once.
    is_failing: bool,
}

/// The result of a round.
pub struct Round {
    /// The comparison of the log with the anchors that were read.
    pub report: AnchorReport,
    /// Number of records in the checkpoint that was anchored.
    pub size: u64,
    /// The failures of places.
    pub problems: Vec<String>,
}

impl Anchors {
    /// Sets up the places in the settings.
    pub fn new(settings: &AnchorSettings) -> Result<Self> {
        let mut places = Vec::new();
        places.extend(settings.file.as_ref().map(|path| Place::File(AnchorFile::new(path.clone()))));
        if settings.url.is_some() {
            places.push(Place::Endpoint(Endpoint::new(settings)?));
        }
        if settings.bucket.is_some() {
            #[cfg(feature = "aws-kms")]
            places.push(Place::Bucket(Box::new(Bucket::new(settings)?)));
            #[cfg(not(feature = "aws-kms"))]
            return Err(invalid("http.anchors.bucket needs the feature aws-kms, which is not in this build"));
        }
        let (every, patience) = (settings.every_seconds, settings.timeout_seconds);
        Ok(Self {
            places,
            node: RecordId::random().to_string(),
            every: Duration::from_secs(every),
            patience: Duration::from_secs(patience),
            anchored: 0,
            since: 0,
            is_service: false,
            is_failing: false,
        })
    }

    /// Anchors the log at the configured interval until the service stops.
    pub async fn run(mut self, session: Session, status: std::sync::Arc<Status>, mut stop: watch::Receiver<bool>) {
        self.is_service = true;
        loop {
            let round = tokio::select! {
                round = self.round(&session) => round,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            match round {
                Ok(round) => self.note(&round, &session, &status).await,
                Err(error) => {
                    status.failures.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%error, "the audit log cannot be anchored");
                }
            }
            if timeout(self.every, stop.wait_for(|stop| *stop)).await.is_ok() {
                return;
            }
        }
    }

    /// Reads the anchors, compares the log with them, and writes the current checkpoint. An error means that the store
    /// is unavailable; failures of places are in the result.
    pub async fn round(&mut self, session: &Session) -> Result<Round> {
        let present = claimed(&session.checkpoint().await?)?;
        let origin = present.origin;
        if self.is_service && self.since == 0 {
            self.since = present.size;
        }
        let mut problems = Vec::new();
        let notes = self.read(&origin, &mut problems).await;
        // Compare after reading the anchors: the log may only be newer than they are.
        let report = session.compare_anchors(&notes).await?;
        let note = session.checkpoint().await?;
        let size = claimed(&note)?.size;
        if size > self.anchored {
            let before = problems.len();
            for place in &mut self.places {
                let written = timeout(self.patience, place.append(&self.node, &note)).await;
                if let Err(problem) = written.unwrap_or_else(|_| Err("it took too long".into())) {
                    problems.push(format!("cannot write to {}: {problem}", place.name()));
                }
            }
            if problems.len() == before {
                self.anchored = size;
            }
        }
        Ok(Round { report, size, problems })
    }

    /// The anchors since the last call, from all places. Failures are added to `problems`.
    pub async fn read(&mut self, origin: &str, problems: &mut Vec<String>) -> Vec<String> {
        let mut notes = Vec::new();
        for place in &mut self.places {
            // Reading many anchors takes longer than writing one.
            match timeout(self.patience * 6, place.read(origin, self.since))
                .await
                .unwrap_or_else(|_| Err("it took too long".into()))
            {
                Ok(found) => notes.extend(found),
                Err(problem) => problems.push(format!("cannot read {}: {problem}", place.name())),
            }
        }
        let since = self.since;
        notes.retain(|note| checkpoint::claimed(note).is_none_or(|claimed| claimed.size >= since));
        notes
    }

    async fn note(&mut self, round: &Round, session: &Session, status: &Status) {
        if let Some(fault) = round.report.faults.first() {
            status.diverged.store(true, Ordering::Relaxed);
            let message = "the audit log does not match the anchors: it was rolled back, or is another copy";
            tracing::error!(%fault, "{message}");
        }
        if round.problems.is_empty() {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            status.last.store(now.as_secs(), Ordering::Relaxed);
            status.written.fetch_add(1, Ordering::Relaxed);
            self.is_failing = false;
            return;
        }
        status.failures.fetch_add(1, Ordering::Relaxed);
        let problems = round.problems.join("; ");
        tracing::warn!(%problems, "the audit log could not be anchored everywhere");
        if !std::mem::replace(&mut self.is_failing, true)
            && let Err(error) = session.record_anchor_failure(&problems).await
        {
            tracing::warn!(%error, "cannot record that anchoring failed");
        }
    }
}

fn claimed(note: &str) -> Result<checkpoint::Checkpoint> {
    checkpoint::claimed(note)
        .ok_or_else(|| Error::new(kms_lib::ErrorCode::StoreCorrupt, "the head of the log is malformed"))
}
