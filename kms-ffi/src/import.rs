//! Importing the data of Mini KMS on Node.

use std::ffi::c_char;

use kms_lib::{AwsRootKey, ImportJob, ImportSource, Zeroizing};
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

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Request {
    from: String,
    #[serde(default, deserialize_with = "secret")]
    password: Option<Zeroizing<String>>,
    #[serde(default, deserialize_with = "secret")]
    master_secret: Option<Zeroizing<String>>,
    master_secret_file: Option<String>,
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
/// `masterSecretFile`, `awsRegion` and `awsEndpoint`, `name` of the source (`mini-kms`), `dryRun`, `rotate`, `finalize`
/// and `foldPrincipals`. The result is the report as JSON, which the caller frees with `mkms_buffer_free`.
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
    answer: *mut *mut mkms_buffer,
    error: *mut *mut mkms_error,
) -> mkms_status {
    call!(error;
    session = handle::get [session];
    answer = arguments::place [answer];
    request = json::request::<Request> [request, request_len];
    => {
        let report = session.session.import_mini_kms(&request.source()?, &request.job())?;
        answer.set(json::answer(&report)?);
        Ok(())
    })
}
