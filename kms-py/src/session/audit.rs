//! The audit log, the quarantine, the metrics, and backups.

use kms_lib::{Action, AuditQuery, BackupOptions, ImportJob, Progress, Status, VerifyOptions};
use pyo3::prelude::*;

use super::Session;
use crate::answer::{load, text};
use crate::arguments::{Key, Named, Path, Text, Time, optional, paging};
use crate::call::{Meter, Work};
use crate::errors::{Outcome, invalid};

#[pymethods]
impl Session {
    /// Lists records of the log, newest first. To export the log, read it with ``oldest_first`` page by page.
    ///
    /// >>> [record.action for record in alice.list_audit(action="KEY_CREATE", key="users").items]
    /// ['KEY_CREATE']
    #[pyo3(signature = (*, limit=100, cursor=None, oldest_first=false, action=None, actor=None, key=None, status=None,
        request_id=None, since=None, until=None))]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn list_audit<'py>(
        &self,
        py: Python<'py>,
        limit: usize,
        cursor: Option<Text>,
        oldest_first: bool,
        action: Option<Named<Action>>,
        actor: Option<Text>,
        key: Option<Key>,
        status: Option<Named<Status>>,
        request_id: Option<Text>,
        since: Option<Time>,
        until: Option<Time>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let mut query = AuditQuery::new();
        query.oldest_first = oldest_first;
        query.action = action.map(|it| it.0);
        query.actor = optional(actor);
        query.key = key.map(|it| it.0);
        query.status = status.map(|it| it.0);
        query.request_id = optional(request_id);
        query.since = since.map(|it| it.0);
        query.until = until.map(|it| it.0);
        let part = paging(limit, cursor);
        self.ask(py, "AuditRecordPage", |session| async move { session.list_audit(&query, &part).await })
    }
    /// Lists rows of the log that was imported from Mini KMS on Node, in the order of their links. ``source`` is the
    /// name of the import.
    ///
    /// >>> alice.list_imported_audit().items
    /// ()
    #[pyo3(signature = (source=None, *, limit=100, cursor=None))]
    fn list_imported_audit<'py>(
        &self,
        py: Python<'py>,
        source: Option<Text>,
        limit: usize,
        cursor: Option<Text>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let source = optional(source).unwrap_or_else(|| ImportJob::default().name);
        let part = paging(limit, cursor);
        self.ask(py, "ImportedRowPage", |session| async move { session.list_imported_audit(&source, &part).await })
    }
    /// Verifies the log, and compares the tables with it. The report has the faults; the call raises if the log could
    /// not be verified. With ``incremental``, it reads new records and a part of the older ones. ``pinned_key`` is a
    /// public key of the log that the verifier trusts.
    ///
    /// >>> alice.verify_audit().ok
    /// True
    #[pyo3(signature = (*, incremental=false, pinned_key=None, trusted_size=None, reread=None, progress=None))]
    fn verify_audit<'py>(
        &self,
        py: Python<'py>,
        incremental: bool,
        pinned_key: Option<Text>,
        trusted_size: Option<u64>,
        reread: Option<(u64, u64)>,
        progress: Option<Py<PyAny>>,
    ) -> Outcome<Bound<'py, PyAny>> {
        if incremental {
            if pinned_key.is_some() || trusted_size.is_some() || reread.is_some() || progress.is_some() {
                return Err(invalid("incremental cannot be combined with pinned_key, trusted_size or reread"));
            }
            return self.ask(py, "Report", |session| async move { session.verify_audit_incrementally().await });
        }
        let meter = Progress::new();
        let mut options = VerifyOptions::new().progress(&meter);
        (options.pinned_key, options.trusted_size, options.reread) = (optional(pinned_key), trusted_size, reread);
        let work = Work::watched(progress, || Meter::Log(meter));
        let verify = |session: kms_lib::Session| async move { session.verify_audit_with(&options).await };
        self.call(py, work, verify, load("Report"))
    }
    /// Returns the signed head of the log (C2SP checkpoint).
    fn checkpoint<'py>(&self, py: Python<'py>) -> Outcome<Bound<'py, PyAny>> {
        self.call(py, Work::Long, |session| async move { session.checkpoint().await }, text)
    }
    /// Returns the public key of the log, in the form that verifiers pin (C2SP signed note).
    fn audit_public_key<'py>(&self, py: Python<'py>) -> Outcome<Bound<'py, PyAny>> {
        self.call(py, Work::Long, |session| async move { session.audit_public_key().await }, text)
    }
    /// Returns all public keys of the log, with the range of log sizes that each of them signs.
    fn audit_public_keys<'py>(&self, py: Python<'py>) -> Outcome<Bound<'py, PyAny>> {
        self.ask(py, "AuditKeys", |session| async move { session.audit_public_keys().await })
    }
    /// Replaces the signing key of the log, and returns the new public key.
    fn replace_signing_key<'py>(&self, py: Python<'py>) -> Outcome<Bound<'py, PyAny>> {
        self.call(py, Work::Long, |session| async move { session.replace_signing_key().await }, text)
    }
    /// Returns the numbers of keys, records and uses, and the alerts.
    ///
    /// >>> alice.metrics().keys.total
    /// 2
    fn metrics<'py>(&self, py: Python<'py>) -> Outcome<Bound<'py, PyAny>> {
        self.ask(py, "Metrics", |session| async move { session.metrics().await })
    }
    /// Lists the quarantined rows, which did not match the log when the store was opened and are not used.
    fn list_quarantine<'py>(&self, py: Python<'py>) -> Outcome<Bound<'py, PyAny>> {
        self.ask(py, "QuarantinedRows", |session| async move { session.list_quarantine().await })
    }
    /// Releases the quarantined rows that match the log again.
    fn release_quarantine<'py>(&self, py: Python<'py>) -> Outcome<Bound<'py, PyAny>> {
        self.ask(py, "QuarantinedRows", |session| async move { session.release_quarantine().await })
    }
    /// Copies the store to a new file (mode 0600) while the service is in use, verifies the copy and records the
    /// backup.
    #[pyo3(signature = (path, *, progress=None))]
    fn backup<'py>(&self, py: Python<'py>, path: Path, progress: Option<Py<PyAny>>) -> Outcome<Bound<'py, PyAny>> {
        let meter = Progress::new();
        let options = BackupOptions::new().progress(&meter);
        let work = Work::watched(progress, || Meter::Log(meter));
        let back_up = |session: kms_lib::Session| async move { session.backup_with(path.0, &options).await };
        self.call(py, work, back_up, load("BackupReport"))
    }
    /// Lists the changes that restoring a backup would undo, and the data that would be lost.
    fn compare_backup<'py>(&self, py: Python<'py>, path: Path) -> Outcome<Bound<'py, PyAny>> {
        self.ask(py, "BackupComparison", |session| async move { session.compare_backup(path.0).await })
    }
}
