//! One run of an import.

use std::collections::HashSet;

use sha2::{Digest, Sha256};

use super::material::{Of, Opener, no_secret};
use super::planned::Planned;
use super::report::{ImportFindingKind, ImportJob, ImportReport};
use super::source::{ImportSource, Source, SourceKey};
use crate::ledger::{Details, ImportState};
use crate::lifecycle::{Command, ImportRun};
use crate::session::{Intent, Session};
use crate::storage::StoreFuture;
use crate::types::attempt::Operation;
use crate::types::audit::Action;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::{ImportRunId, KeyId};
use crate::types::key::KeyType;

/// The number of keys that are read at once while the master secret is checked.
const PAGE: usize = 100;
/// Versions of a key that are read at once then.
const VERSIONS: usize = 100;

/// The state that the stages of a run share.
pub(super) struct Run<'a> {
    pub session: &'a Session,
    pub job: &'a ImportJob,
    /// Identifies this run among the runs of the same source: only the latest one may write.
    pub run: ImportRun,
    pub source: Source,
    pub opener: Opener,
    pub report: ImportReport,
    /// The changes that a dry run would have written.
    pub planned: Planned,
    /// Keys that were imported before and are no longer in the source, by id and name.
    pub missing: Vec<(KeyId, String)>,
    /// Keys of the source that this run could not import.
    pub refused_keys: HashSet<KeyId>,
    /// The salt for hashes of material: equal material is noticed, and the hashes reveal nothing.
    pub salt: [u8; 32],
}

impl Session {
    /// Imports the data of Mini KMS on Node, or updates an earlier import from it. The source is only read, in one
    /// snapshot. Requires the role admin.
    ///
    /// Keys keep their ids, names, states, windows and periods; their material is wrapped under this store's root keys.
    /// Ciphertexts of the original are decrypted with [`DecryptItem::imported`](crate::DecryptItem::imported). An
    /// imported version neither encrypts nor signs; [`ImportJob::rotate`] gives the keys a version that does. Grants
    /// that would have another meaning here are imported so that they deny. The report names everything that was not
    /// imported unchanged.
    ///
    /// The master secret is checked before anything is written (`WrongRootKey`), and so is the length of the log's
    /// rows, if the store's server limits it (`InvalidConfiguration`). The next run continues an interrupted one; a run
    /// that finds nothing new changes nothing. Until the import is finalized, the keys can only be revoked here
    /// (`ImportOpen`), and every run imports the changes of the source; a revocation on either side is kept. Afterwards
    /// another run fails with `WrongState`. Of several concurrent runs only the one that began last continues; the
    /// others end with `ImportSuperseded`.
    ///
    /// Cancellation: dropping the future ends the run; committed rows stay, and the next run continues.
    pub async fn import_mini_kms(&self, from: &ImportSource, job: &ImportJob) -> Result<ImportReport> {
        self.import(from, job).await
    }

    fn import<'a>(&'a self, from: &'a ImportSource, job: &'a ImportJob) -> StoreFuture<'a, ImportReport> {
        Box::pin(async move {
            job.check()?;
            self.permit_reading(Action::ImportStart, Operation::Import, None).await?;
            if self.has_idempotency_key() {
                return Err(Error::invalid("an import can be repeated, so it does not accept an idempotency key"));
            }
            check_open(self, &job.name).await?;
            let mut run = Run::begin(self, from, job).await?;
            run.check_secret(from).await?;
            run.look_for_missing().await?;
            run.check_row_lengths().await?;
            let begins = if job.dry_run { None } else { Some(Command::BeginImport(run.run.clone())) };
            run.record(Action::ImportStart, begins, |_| {}).await?;
            let ended = run.work(from).await;
            let error = ended.as_ref().err().map(|error| error.code());
            let report = run.report.clone();
            let told = run.record(Action::ImportEnd, None, |details| describe(details, &report, error)).await;
            // The reason why the run ended is more useful than a failure to record its end.
            ended?;
            told?;
            Ok(run.report)
        })
    }
}

impl<'a> Run<'a> {
    async fn begin(session: &'a Session, from: &ImportSource, job: &'a ImportJob) -> Result<Self> {
        let shared = session.shared();
        let opener = Opener::new(from, &shared.provider, &shared.workers, session.actor().principal());
        let report = ImportReport { name: job.name.clone(), dry_run: job.dry_run, ..ImportReport::default() };
        let source = Source::open(from).await?;
        let run = ImportRun { source: job.name.clone(), id: ImportRunId::random() };
        let (planned, missing, salt) = (Planned::default(), Vec::new(), rand::random());
        let refused_keys = HashSet::new();
        Ok(Self { session, job, run, source, opener, report, planned, missing, refused_keys, salt })
    }

    async fn work(&mut self, from: &ImportSource) -> Result<()> {
        if !self.job.dry_run {
            // Another run may have ended just before this one began: it may have finalized the import, or written rows
            // that it read later than this snapshot.
            check_open(self.session, &self.job.name).await?;
            self.source.renew(from).await?;
            self.look_for_missing().await?;
        }
        for (table, engine) in self.source.without_snapshot().await? {
            let text = format!(
                "the table uses {engine}, which has no snapshots; stop the original while its data is imported"
            );
            self.report.note(ImportFindingKind::SourceIncomplete, &table, text);
        }
        if self.source.has_keys() {
            self.import_keys().await?;
            self.import_grants().await?;
        }
        self.report.log = Some(self.import_log().await?);
        self.finish().await
    }

    pub(super) fn intent(&self, action: Action, mut details: Details) -> Intent {
        details.text("source", &self.job.name);
        Intent { action, attempt: self.session.attempt(Operation::Import, None), version: None, details, once: None }
    }

    async fn record(&self, action: Action, command: Option<Command>, add: impl FnOnce(&mut Details)) -> Result<()> {
        let mut details = Details::default();
        details.text("run", &self.run.id.to_string());
        for (name, is_set) in [
            ("dryRun", self.job.dry_run),
            ("rotate", self.job.rotate),
            ("finalize", self.job.finalize),
            ("allowIncomplete", self.job.allow_incomplete),
        ] {
            if is_set {
                details.raw(name, "true");
            }
        }
        add(&mut details);
        let command = command.unwrap_or(Command::Record(action));
        self.session.change(self.intent(action, details), command).await.map(drop)
    }

    /// A salted hash of material, to compare it with that of other versions in this run.
    pub(super) fn digest(&self, key_type: KeyType, secret: &[u8]) -> [u8; 32] {
        let digest = Sha256::new().chain_update(self.salt).chain_update(key_type.as_str()).chain_update(secret);
        digest.finalize().into()
    }

    /// Tries the master secret with every version that it should open, until it opens one: the first may be damaged.
    /// `WrongRootKey` if it opens none of them.
    async fn check_secret(&mut self, from: &ImportSource) -> Result<()> {
        let (mut after, mut is_tried): (Option<String>, _) = (None, false);
        loop {
            let page = self.source.keys(after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id.clone());
            for key in &page {
                match self.secret_opens(from, key).await? {
                    Some(true) => return Ok(()),
                    Some(false) => is_tried = true,
                    None => {}
                }
            }
        }
        // If the secret wrapped nothing, it cannot be checked, and is not needed.
        if is_tried { Err(wrong_secret()) } else { Ok(()) }
    }

    /// Whether the master secret opens a version of a key; none if it wrapped none of them.
    async fn secret_opens(&mut self, from: &ImportSource, key: &SourceKey) -> Result<Option<bool>> {
        let (Ok(id), Ok(key_type)) = (key.id.parse::<KeyId>(), KeyType::parse(&key.key_type)) else { return Ok(None) };
        let (mut after, mut opens) = (0, None);
        loop {
            let page = self.source.versions(&key.id, after, VERSIONS).await?;
            for version in page.iter().filter(|version| Opener::is_local(version)) {
                let Ok(number) = u32::try_from(version.version) else { continue };
                if from.root().is_none() {
                    return Err(no_secret());
                }
                if self.opener.open(Of { key: id, key_type, version: number }, version).await.is_ok() {
                    return Ok(Some(true));
                }
                opens = Some(false);
            }
            match page.last() {
                Some(last) => after = last.version,
                None => return Ok(opens),
            }
        }
    }
}

/// Refuses a source whose import is finalized. An import that was interrupted while it was being finalized may
/// continue.
async fn check_open(session: &Session, source: &str) -> Result<()> {
    let shared = session.shared();
    let mut connection = shared.store.reader().await?;
    let state = ImportState::read(connection.as_mut(), source, &shared.catalog.seals()).await?;
    drop(connection);
    let snapshot = session.shared().catalog.snapshot();
    let (mut is_held, mut is_final) = (false, false);
    for import in snapshot.keys_by_name(None).filter_map(|key| key.import.as_ref()).filter(|it| it.source == source) {
        is_held |= !import.is_final;
        is_final |= import.is_final;
    }
    // All keys are finalized in the commit that stores the end, so a state that says otherwise is an older one.
    if state.is_some_and(|state| state.is_final) || (is_final && !is_held) {
        let text = format!(
            "the import {source:?} is finalized: its keys belong to this store, and its source is no longer \
             read; another source needs another name"
        );
        return Err(Error::new(ErrorCode::WrongState, text));
    }
    Ok(())
}

fn wrong_secret() -> Error {
    let text = "the master secret does not open the source's key material; it must be exactly the text of the \
                original's KMS_MASTER_KEY; nothing was written";
    Error::new(ErrorCode::WrongRootKey, text)
}

fn describe(details: &mut Details, report: &ImportReport, error: Option<ErrorCode>) {
    details
        .number("keysImported", report.keys.imported)
        .number("keysUpdated", report.keys.updated)
        .number("keysRefused", report.keys.refused)
        .number("versionsImported", report.versions.imported)
        .number("versionsUpdated", report.versions.updated)
        .number("versionsRefused", report.versions.refused)
        .number("grantsImported", report.grants.imported)
        .number("grantsUpdated", report.grants.updated)
        .number("grantsWithdrawn", report.grants.withdrawn)
        .number("grantsIgnored", report.grants.ignored)
        .number("grantsRefused", report.grants.refused)
        .number("keysRotated", report.keys_rotated)
        .number("findings", report.finding_count);
    if report.finalized {
        details.raw("finalized", "true");
    }
    if let Some(code) = error {
        details.text("error", code.as_str());
    }
}

/// Whether an error concerns the store, the root key service or the whole run, not a single key.
pub(super) fn is_outage(error: &Error) -> bool {
    error.is_retryable()
        || matches!(
            error.code(),
            ErrorCode::Closed
                | ErrorCode::StoreReadOnly
                | ErrorCode::StoreCorrupt
                | ErrorCode::InvalidRootKey
                | ErrorCode::AccessDenied
                | ErrorCode::NotAuthenticated
                | ErrorCode::OutcomeUnknown
                | ErrorCode::ImportSuperseded
        )
}
