//! Anchors: signed states of the log that are kept where an attacker with the database cannot change them. Every node
//! anchors what it sees and holds the log against what all of them anchored, so that nodes on two copies of a database
//! notice each other. Failures are counted, logged and recorded; they stop nothing.

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

/// Largest signed state that is looked at, in bytes.
const NOTE_BYTES: usize = 16 * 1024;

/// How anchoring goes, for the metrics.
#[derive(Default)]
pub struct Status {
    written: AtomicU64,
    failures: AtomicU64,
    last: AtomicU64,
    diverged: AtomicBool,
}

impl Status {
    /// How many anchors were written.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
    /// How often a place could not be written or read.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
    /// When the log was last anchored everywhere, in Unix time; 0 if it never was.
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }
    /// Whether the log does not continue what was anchored.
    pub fn has_diverged(&self) -> bool {
        self.diverged.load(Ordering::Relaxed)
    }
}

/// An anchor, as files and endpoints hold it: a JSON object on a line.
#[derive(Debug, Deserialize, Serialize)]
struct Line<'a> {
    /// The node that wrote it.
    node: &'a str,
    /// The signed state (C2SP checkpoint).
    #[serde(borrow)]
    checkpoint: std::borrow::Cow<'a, str>,
}

/// The signed states in a text of such lines. Lines that are none are passed over: a write may have been cut.
fn parse(text: &str) -> Vec<String> {
    let line = |line: &str| Some(serde_json::from_str::<Line<'_>>(line).ok()?.checkpoint.into_owned());
    text.lines().filter_map(line).filter(|note| note.len() <= NOTE_BYTES).collect()
}

/// A place that keeps anchors.
enum Place {
    File(AnchorFile),
    Endpoint(Endpoint),
    #[cfg(feature = "aws-kms")]
    Bucket(Box<Bucket>),
}

/// What went wrong with a place: for the log, without secrets.
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

    /// The anchors that came since the last time: at first all of them.
    async fn read(&mut self, origin: &str, since: u64) -> std::result::Result<Vec<String>, Problem> {
        match self {
            Self::File(file) => file.read().await,
            Self::Endpoint(endpoint) => endpoint.read().await,
            #[cfg(feature = "aws-kms")]
            Self::Bucket(bucket) => bucket.read(origin, since).await,
        }
    }
}

/// Every place that is configured.
pub struct Anchors {
    places: Vec<Place>,
    node: String,
    every: Duration,
    patience: Duration,
    /// Records of the state that was last anchored everywhere.
    anchored: u64,
    /// Smaller states are not read: the service looks for what was anchored since it started, so that its work does not
    /// grow with the log.
    since: u64,
    /// Whether it anchors from time to time, and not once.
    is_service: bool,
    /// Whether the last round failed: an outage is recorded once.
    is_failing: bool,
}

/// What a round came to.
pub struct Round {
    /// What the anchors that were read show.
    pub report: AnchorReport,
    /// Records of the state that was anchored.
    pub size: u64,
    /// What went wrong, by place.
    pub problems: Vec<String>,
}

impl Anchors {
    /// The places that the settings name.
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
            return Err(invalid("http.anchors.bucket needs the feature aws-kms, which this program was built without"));
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

    /// Anchors the log from time to time until the service stops.
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
                    tracing::warn!(%error, "the log cannot be anchored");
                }
            }
            if timeout(self.every, stop.wait_for(|stop| *stop)).await.is_ok() {
                return;
            }
        }
    }

    /// Reads what was anchored, holds the log against it, and anchors its present state. An error means that the store
    /// cannot be asked.
    pub async fn round(&mut self, session: &Session) -> Result<Round> {
        let present = claimed(&session.checkpoint().await?)?;
        let origin = present.origin;
        if self.is_service && self.since == 0 {
            self.since = present.size;
        }
        let mut problems = Vec::new();
        let notes = self.read(&origin, &mut problems).await;
        // What was anchored was read before the log is, which moves on.
        let report = session.compare_anchors(&notes).await?;
        let note = session.checkpoint().await?;
        let size = claimed(&note)?.size;
        if size > self.anchored {
            let before = problems.len();
            for place in &mut self.places {
                let written = timeout(self.patience, place.append(&self.node, &note)).await;
                if let Err(problem) = written.unwrap_or_else(|_| Err("it takes too long".into())) {
                    problems.push(format!("{} cannot be written: {problem}", place.name()));
                }
            }
            if problems.len() == before {
                self.anchored = size;
            }
        }
        Ok(Round { report, size, problems })
    }

    /// The anchors that came since the last time.
    pub async fn read(&mut self, origin: &str, problems: &mut Vec<String>) -> Vec<String> {
        let mut notes = Vec::new();
        for place in &mut self.places {
            // Reading many takes longer than writing one.
            match timeout(self.patience * 6, place.read(origin, self.since))
                .await
                .unwrap_or_else(|_| Err("it takes too long".into()))
            {
                Ok(found) => notes.extend(found),
                Err(problem) => problems.push(format!("{} cannot be read: {problem}", place.name())),
            }
        }
        let since = self.since;
        notes.retain(|note| checkpoint::claimed(note).is_none_or(|claimed| claimed.size >= since));
        notes
    }

    async fn note(&mut self, round: &Round, session: &Session, status: &Status) {
        if let Some(fault) = round.report.faults.first() {
            status.diverged.store(true, Ordering::Relaxed);
            tracing::error!(%fault, "the log does not continue what was anchored: it was rolled back, or is another copy");
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
        tracing::warn!(%problems, "the log could not be anchored everywhere");
        if !std::mem::replace(&mut self.is_failing, true)
            && let Err(error) = session.record_anchor_failure(&problems).await
        {
            tracing::warn!(%error, "that the log could not be anchored is not recorded");
        }
    }
}

fn claimed(note: &str) -> Result<checkpoint::Checkpoint> {
    checkpoint::claimed(note)
        .ok_or_else(|| Error::new(kms_lib::ErrorCode::StoreCorrupt, "the head of the log is malformed"))
}
