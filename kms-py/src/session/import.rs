//! Importing the data of Mini KMS on Node.

use std::sync::Arc;

use kms_lib::{AwsRootKey, ImportJob, ImportProgress, ImportSource, Zeroizing};
use pyo3::prelude::*;

use super::Session;
use crate::answer::load;
use crate::arguments::{Path, Text};
use crate::call::{Meter, Work};
use crate::errors::Outcome;

#[pymethods]
impl Session {
    /// Imports the data of Mini KMS on Node, or updates data that was imported before. ``source`` is the URL of its
    /// database, or the folder with an older version's files; it is only read. ``master_secret`` is the original's
    /// ``KMS_MASTER_KEY``. If a run was interrupted, the next run continues it.
    ///
    /// >>> alice.import_mini_kms("dump.sql")  # doctest: +ELLIPSIS
    /// Traceback (most recent call last):
    /// mini_kms._errors.InvalidConfiguration: dump.sql: an SQL dump cannot be read directly; ...
    #[pyo3(signature = (
        source, *, password=None, master_secret=None, master_secret_file=None, aws_keys=None, aws_region=None,
        aws_endpoint=None, name=None, dry_run=false, rotate=false, finalize=false, allow_incomplete=false,
        fold_principals=false, progress=None
    ), text_signature = "($self, source, *, password=None, master_secret=None, master_secret_file=None, \
        aws_keys=(), aws_region=None, aws_endpoint=None, name='mini-kms', dry_run=False, rotate=False, \
        finalize=False, allow_incomplete=False, fold_principals=False, progress=None)")]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn import_mini_kms<'py>(
        &self,
        py: Python<'py>,
        source: Text,
        password: Option<Text>,
        master_secret: Option<Text>,
        master_secret_file: Option<Path>,
        aws_keys: Option<Vec<Text>>,
        aws_region: Option<Text>,
        aws_endpoint: Option<Text>,
        name: Option<Text>,
        dry_run: bool,
        rotate: bool,
        finalize: bool,
        allow_incomplete: bool,
        fold_principals: bool,
        progress: Option<Py<PyAny>>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let mut from = match password {
            Some(password) => ImportSource::with_password(&source.0, &Zeroizing::new(password.0))?,
            None => ImportSource::parse(&source.0)?,
        };
        if let Some(secret) = master_secret {
            from = from.master_secret(&Zeroizing::new(secret.0));
        }
        if let Some(path) = master_secret_file {
            from = from.master_secret_file(path.0)?;
        }
        for key in aws_keys.unwrap_or_default() {
            from = from.aws_key(&key.0)?;
        }
        if aws_region.is_some() || aws_endpoint.is_some() {
            let mut aws = AwsRootKey::new("alias/import");
            if let Some(region) = aws_region {
                aws = aws.region(region.0);
            }
            if let Some(endpoint) = aws_endpoint {
                aws = aws.endpoint(endpoint.0);
            }
            from = from.aws(aws);
        }
        let meter = Arc::<ImportProgress>::default();
        let mut job = ImportJob::default()
            .dry_run(dry_run)
            .rotate(rotate)
            .finalize(finalize)
            .allow_incomplete(allow_incomplete)
            .fold_principals(fold_principals)
            .progress(Arc::clone(&meter));
        if let Some(name) = name {
            job = job.name(name.0);
        }
        let work = Work::watched(progress, || Meter::Import(meter));
        let import = |session: kms_lib::Session| async move { session.import_mini_kms(&from, &job).await };
        self.call(py, work, import, load("ImportReport"))
    }
}
