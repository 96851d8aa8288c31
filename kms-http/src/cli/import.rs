//! `kms-http import`.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Subcommand;
use kms_lib::{AwsRootKey, Error, ErrorCode, ImportCounts, ImportJob, ImportProgress, ImportReport, ImportSource};

use super::audit::describe_imported;
use super::exit::Failure;
use super::output;
use super::store::{bar, with_store};
use crate::settings::Settings;

/// Variables for the password of the source's database user, if the URL has none: the password, or a file with it.
const PASSWORD: &str = "KMS_IMPORT_PASSWORD";
const PASSWORD_FILE: &str = "KMS_IMPORT_PASSWORD_FILE";
/// Variables that override the AWS SDK's region and endpoint for key material that AWS KMS wrapped.
const AWS_REGION: &str = "KMS_IMPORT_AWS_REGION";
const AWS_ENDPOINT: &str = "KMS_IMPORT_AWS_ENDPOINT";
/// Variable for the keys in AWS KMS that the import may use, separated by commas, in addition to `--aws-key`.
const AWS_KEYS: &str = "KMS_IMPORT_AWS_KEYS";
/// Maximum size of the password file, in bytes.
const PASSWORD_BYTES: usize = 4096;

/// The subcommands of `kms-http import`.
#[derive(Subcommand)]
pub enum Import {
    /// Import keys, grants and the audit log; exits with 4 if the import is incomplete
    ///
    /// The source is only read. Run the command again to import later changes. For this command, --master-key-file
    /// names a file (mode 0600) with the source's KMS_MASTER_KEY; the root key of this store comes from its
    /// configuration.
    MiniKms(MiniKms),
}

/// Options of `import mini-kms`.
#[derive(clap::Args)]
pub struct MiniKms {
    /// The source: a database such as mysql://kms@db.example.com/kms, with its password in the file that
    /// KMS_IMPORT_PASSWORD_FILE names, or the folder with an older version's JSON files
    #[arg(long, value_name = "URL|PATH")]
    from: String,
    /// Name for this source; each source needs its own
    #[arg(long, value_name = "NAME", default_value = "mini-kms")]
    name: String,
    /// Read and check everything, print what an import would do, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Rotate the imported keys; until rotated, they decrypt and verify but cannot encrypt or sign
    #[arg(long)]
    rotate: bool,
    /// Finalize the import: from now on the keys are managed in this store only
    #[arg(long)]
    finalize: bool,
    /// Finalize although keys, grants or rows of the log could not be imported; they never are afterwards
    #[arg(long, requires = "finalize")]
    allow_incomplete: bool,
    /// A key in AWS KMS that may decrypt the source's key material (an ARN, or as the source names it); repeatable. No
    /// other key is ever called
    #[arg(long = "aws-key", value_name = "ARN")]
    aws_keys: Vec<String>,
    /// Keep upper and lower case in the principals of grants, instead of folding them as the service does
    #[arg(long)]
    exact_principals: bool,
}

/// Opens the store and imports.
///
/// `key_file` is the file with the source's master secret.
pub fn run(command: Import, key_file: Option<&Path>, settings: Settings, as_json: bool) -> Result<ExitCode, Failure> {
    let Import::MiniKms(options) = command;
    let source = source(&options, key_file)?;
    let progress = Arc::new(ImportProgress::default());
    let job = ImportJob::default()
        .name(options.name)
        .dry_run(options.dry_run)
        .rotate(options.rotate)
        .finalize(options.finalize)
        .allow_incomplete(options.allow_incomplete)
        .fold_principals(!options.exact_principals)
        .progress(Arc::clone(&progress));
    with_store(settings, |_, session| async move {
        let report = watched(&progress, session.import_mini_kms(&source, &job)).await?;
        output::show(as_json, &report, lines(&report))?;
        Ok(if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::from(Failure::FAULT) })
    })
}

fn source(options: &MiniKms, key_file: Option<&Path>) -> Result<ImportSource, Failure> {
    let mut source = match password()? {
        Some(password) => ImportSource::with_password(&options.from, &password)?,
        None => ImportSource::parse(&options.from)?,
    };
    if let Some(path) = key_file {
        source = source.master_secret_file(path)?;
    }
    let listed = variable(AWS_KEYS)?.unwrap_or_default();
    let listed = listed.split(',').map(str::trim).filter(|key| !key.is_empty());
    for key in options.aws_keys.iter().map(String::as_str).chain(listed) {
        source = source.aws_key(key)?;
    }
    let (region, endpoint) = (variable(AWS_REGION)?, variable(AWS_ENDPOINT)?);
    if region.is_some() || endpoint.is_some() {
        let mut aws = AwsRootKey::new("alias/import");
        if let Some(region) = region {
            aws = aws.region(region);
        }
        if let Some(endpoint) = endpoint {
            aws = aws.endpoint(endpoint);
        }
        source = source.aws(aws);
    }
    Ok(source)
}

/// The password of the source's database user, if it is not in the URL.
fn password() -> Result<Option<String>, Failure> {
    match (variable(PASSWORD)?, variable(PASSWORD_FILE)?) {
        (Some(_), Some(_)) => Err(wrong(format!("{PASSWORD} and {PASSWORD_FILE} are both set; unset one of them"))),
        (Some(password), None) => Ok(Some(password)),
        (None, None) => Ok(None),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(&path).map_err(|e| wrong(format!("{PASSWORD_FILE}: {path}: {e}")))?;
            if text.len() > PASSWORD_BYTES {
                return Err(wrong(format!("{PASSWORD_FILE}: {path} is larger than {PASSWORD_BYTES} bytes")));
            }
            Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
        }
    }
}

fn variable(name: &str) -> Result<Option<String>, Failure> {
    let text = std::env::var_os(name).map(OsString::into_string).transpose();
    Ok(text.map_err(|_| wrong(format!("{name} is not UTF-8")))?.filter(|text| !text.is_empty()))
}

fn wrong(text: String) -> Failure {
    Error::new(ErrorCode::InvalidConfiguration, text).into()
}

/// Shows the progress of the import on a terminal.
async fn watched<T>(progress: &ImportProgress, work: impl Future<Output = T>) -> T {
    let bar = bar("importing", 0);
    let showing = async {
        loop {
            bar.set_message(format!("importing {}", progress.stage().as_str()));
            bar.set_length(progress.total());
            bar.set_position(progress.done());
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let done = tokio::select! {
        done = work => done,
        never = showing => never,
    };
    bar.finish_and_clear();
    done
}

fn lines(report: &ImportReport) -> Vec<String> {
    let what = if report.dry_run { "dry run, nothing was written" } else { "imported" };
    let mut lines = vec![format!("{what}: {}", report.name)];
    for (name, counts) in [("keys", report.keys), ("versions", report.versions), ("grants", report.grants)] {
        lines.push(count_line(name, &counts));
    }
    lines.extend(report.log.iter().flat_map(describe_imported));
    if report.keys_rotated > 0 {
        lines.push(format!("rotated   {} keys", report.keys_rotated));
    }
    if report.keys_to_rotate > 0 {
        lines.push(format!(
            "rotate    {} keys cannot encrypt or sign until they are rotated (--rotate)",
            report.keys_to_rotate
        ));
    }
    lines.extend(report.findings.iter().map(|finding| {
        let version = finding.version.map(|version| format!(" version {version}")).unwrap_or_default();
        format!("finding   {}{version}: {}", finding.id, finding.text)
    }));
    let named = report.findings.len() as u64;
    if report.finding_count > named {
        lines.push(format!("finding   and {} more", report.finding_count - named));
    }
    lines.push(match report.finalized {
        true if report.dry_run => "finalize  the import could be finalized".to_owned(),
        true => "finalized the keys are now managed in this store only".to_owned(),
        false => "open      the keys follow their source until the import is finalized (--finalize)".to_owned(),
    });
    lines
}

fn count_line(name: &str, counts: &ImportCounts) -> String {
    format!(
        "{name:<9} {} in the source: {} new, {} updated, {} unchanged, {} removed, {} ignored, {} refused",
        counts.total,
        counts.imported,
        counts.updated,
        counts.unchanged,
        counts.withdrawn,
        counts.ignored,
        counts.refused
    )
}
