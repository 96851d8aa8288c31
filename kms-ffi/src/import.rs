//! Importing the data of Mini KMS on Node.

use std::ffi::{c_char, c_void};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use kms_lib::blocking::Session;
use kms_lib::{AwsRootKey, ImportJob, ImportProgress, ImportReport, ImportSource, ImportStage, Zeroizing};
use serde::{Deserialize, Deserializer};

use crate::arguments;
use crate::boundary::call;
use crate::buffer::mkms_buffer;
use crate::error::mkms_error;
use crate::failure::Outcome;
use crate::handle;
use crate::json;
use crate::session::mkms_session;
use crate::status::mkms_status;

/// The interval at which the progress is read.
const SLICE: Duration = Duration::from_millis(100);

/// A stage of an import.
pub type mkms_import_stage = i32;
/// Importing keys with their versions.
pub const MKMS_IMPORT_KEYS: mkms_import_stage = 1;
/// Importing the grants of the source.
pub const MKMS_IMPORT_GRANTS: mkms_import_stage = 2;
/// Importing the rows of the log.
pub const MKMS_IMPORT_LOG: mkms_import_stage = 3;
/// Rotating keys, and finalizing the import.
pub const MKMS_IMPORT_FINISH: mkms_import_stage = 4;

/// Receives the progress of an import: `done` of `total` rows of a stage were processed; `total` is 0 until it is
/// known. No exception may leave the callback.
pub type mkms_import_progress =
    Option<unsafe extern "C" fn(user: *mut c_void, stage: mkms_import_stage, done: u64, total: u64)>;

/// The callback of a caller, and the pointer that is passed to it.
struct Callback {
    tell: mkms_import_progress,
    user: *mut c_void,
}

/// # Safety
/// The callback is NULL or a function of its type.
unsafe fn callback(tell: mkms_import_progress, user: *mut c_void, _name: &str) -> Outcome<Callback> {
    Ok(Callback { tell, user })
}

impl Callback {
    /// Imports, and tells the progress on this thread.
    fn watch(&self, session: &Session, source: &ImportSource, job: ImportJob) -> kms_lib::Result<ImportReport> {
        let Some(tell) = self.tell else { return session.import_mini_kms(source, &job) };
        let progress = Arc::<ImportProgress>::default();
        let job = job.progress(Arc::clone(&progress));
        let mut told = None;
        let mut report = || {
            let now = (stage(progress.stage()), progress.done(), progress.total());
            if told.replace(now) != Some(now) {
                // SAFETY: the caller keeps the contract of the header: the callback is a function of this type.
                unsafe { tell(self.user, now.0, now.1, now.2) };
            }
        };
        std::thread::scope(|scope| {
            let (done, is_done) = channel::<()>();
            let work = scope.spawn(|| {
                // Dropped at the end, also by a panic.
                let _done = done;
                session.import_mini_kms(source, &job)
            });
            while let Err(RecvTimeoutError::Timeout) = is_done.recv_timeout(SLICE) {
                report();
            }
            report();
            work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

fn stage(stage: ImportStage) -> mkms_import_stage {
    match stage {
        ImportStage::Keys => MKMS_IMPORT_KEYS,
        ImportStage::Grants => MKMS_IMPORT_GRANTS,
        ImportStage::Log => MKMS_IMPORT_LOG,
        _ => MKMS_IMPORT_FINISH,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Request {
    from: String,
    #[serde(default, deserialize_with = "secret")]
    password: Option<Zeroizing<String>>,
    #[serde(default, deserialize_with = "secret")]
    master_secret: Option<Zeroizing<String>>,
    master_secret_file: Option<String>,
    #[serde(default)]
    aws_keys: Vec<String>,
    aws_region: Option<String>,
    aws_endpoint: Option<String>,
    name: Option<String>,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    rotate: bool,
    #[serde(default)]
    finalize: bool,
    #[serde(default)]
    allow_incomplete: bool,
    #[serde(default)]
    fold_principals: bool,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Zeroizing<String>>, D::Error> {
    Option::<String>::deserialize(deserializer).map(|text| text.map(Zeroizing::new))
}

impl Request {
    fn source(&self) -> Outcome<ImportSource> {
        let mut source = match &self.password {
            Some(password) => ImportSource::with_password(&self.from, password)?,
            None => ImportSource::parse(&self.from)?,
        };
        if let Some(secret) = &self.master_secret {
            source = source.master_secret(secret);
        }
        if let Some(path) = &self.master_secret_file {
            source = source.master_secret_file(path)?;
        }
        for key in &self.aws_keys {
            source = source.aws_key(key)?;
        }
        if self.aws_region.is_some() || self.aws_endpoint.is_some() {
            let mut aws = AwsRootKey::new("alias/import");
            if let Some(region) = &self.aws_region {
                aws = aws.region(region);
            }
            if let Some(endpoint) = &self.aws_endpoint {
                aws = aws.endpoint(endpoint);
            }
            source = source.aws(aws);
        }
        Ok(source)
    }

    fn job(&self) -> ImportJob {
        let job = ImportJob::default()
            .dry_run(self.dry_run)
            .rotate(self.rotate)
            .finalize(self.finalize)
            .allow_incomplete(self.allow_incomplete)
            .fold_principals(self.fold_principals);
        match &self.name {
            Some(name) => job.name(name),
            None => job,
        }
    }
}

/// Imports the data of Mini KMS on Node, or updates data that was imported before. The source is only read. If a run
/// was interrupted, the next run continues it.
///
/// `request` is a JSON object with `from` (the URL of its database, or the folder with an older version's files), and
/// optionally `password` of the user in the URL, `masterSecret` (the original's `KMS_MASTER_KEY`) or
/// `masterSecretFile`, `awsKeys` (the keys in AWS KMS that the import may use), `awsRegion` and `awsEndpoint`, `name`
/// of the source (`mini-kms`), `dryRun`, `rotate`, `finalize`, `allowIncomplete` (finalize although something could not
/// be imported) and `foldPrincipals`. The result is the report as JSON, which the caller frees with `mkms_buffer_free`.
///
/// `progress` and `user` may be NULL. `progress` is called on this thread, about every 100 milliseconds and once more
/// at the end, if anything changed since the last call.
///
/// Errors: `MKMS_INVALID_ARGUMENT`, `MKMS_INVALID_CONFIGURATION`, `MKMS_ACCESS_DENIED`, `MKMS_WRONG_ROOT_KEY` if the
/// master secret is wrong, `MKMS_WRONG_STATE` if the import is finalized, `MKMS_CONFLICT` if another source was
/// imported under the name, `MKMS_IMPORT_SUPERSEDED` if another run began meanwhile, `MKMS_SCHEMA_TOO_NEW`, service
/// errors. The report lists what was not imported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkms_import_mini_kms(
    session: *const mkms_session,
    request: *const c_char,
    request_len: usize,
    progress: mkms_import_progress,
    user: *mut c_void,
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    answer = arguments::place [answer];
    request = json::request::<Request> [request, request_len];
    progress = callback [progress, user];
    => {
        let report = progress.watch(&session.session, &request.source()?, request.job())?;
        answer.set(json::answer(&report)?);
        Ok(())
    })
}
