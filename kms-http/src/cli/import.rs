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

/// Where the password of the source's user may be, if the URL has none. The second names a file with it.
const PASSWORD: &str = "KMS_IMPORT_PASSWORD";
const PASSWORD_FILE: &str = "KMS_IMPORT_PASSWORD_FILE";
/// How AWS KMS is reached for material that it wrapped, unless the SDK's own chain says so.
const AWS_REGION: &str = "KMS_IMPORT_AWS_REGION";
const AWS_ENDPOINT: &str = "KMS_IMPORT_AWS_ENDPOINT";
/// Largest file with a password, in bytes.
const PASSWORD_BYTES: usize = 4096;

/// What to import.
#[derive(Subcommand)]
pub enum Import {
    /// Bring keys, grants and the log of Mini KMS on Node here, or follow what changed there; exit code 4 if a key did
    /// not come over. The source is only read. Here --master-key-file names a file of mode 0600 with the original's
    /// KMS_MASTER_KEY; the root key of this store comes from its configuration
    MiniKms(MiniKms),
}

/// Options of `import mini-kms`.
#[derive(clap::Args)]
pub struct MiniKms {
    /// The original's database, such as mysql://kms@db.example.com/kms (the password is best kept in
    /// KMS_IMPORT_PASSWORD_FILE), or the folder with an older version's JSON files
    #[arg(long, value_name = "URL|PATH")]
    from: String,
    /// The name of the source in this store; several sources need different names
    #[arg(long, value_name = "NAME", default_value = "mini-kms")]
    name: String,
    /// Open and check everything, say what would be done, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Rotate the keys: imported versions decrypt and verify, but neither encrypt nor sign
    #[arg(long)]
    rotate: bool,
    /// End the import: the keys are this store's own from then on
    #[arg(long)]
    finalise: bool,
    /// Keep the principals of grants in upper and lower case, instead of folding them as the service folds names
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
        .finalise(options.finalise)
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

/// The password of the source's user, if it is not in the URL.
fn password() -> Result<Option<String>, Failure> {
    match (variable(PASSWORD)?, variable(PASSWORD_FILE)?) {
        (Some(_), Some(_)) => Err(wrong(format!("{PASSWORD} and {PASSWORD_FILE} are both set"))),
        (Some(password), None) => Ok(Some(password)),
        (None, None) => Ok(None),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(&path).map_err(|e| wrong(format!("{PASSWORD_FILE}: {path}: {e}")))?;
            if text.len() > PASSWORD_BYTES {
                return Err(wrong(format!("{PASSWORD_FILE}: {path} is too large")));
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

/// Shows on a terminal how far the import is.
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
    let what = if report.dry_run { "a dry run, nothing was written" } else { "imported" };
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
            "rotate    {} keys neither encrypt nor sign until they are rotated (--rotate)",
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
    lines.push(match report.finalised {
        true if report.dry_run => "finalise  the import could be finalised".to_owned(),
        true => "finalised the keys are this store's own".to_owned(),
        false => "open      the keys follow their source until the import is finalised (--finalise)".to_owned(),
    });
    lines
}

fn count_line(name: &str, counts: &ImportCounts) -> String {
    format!(
        "{name:<9} {} in the source: {} new, {} updated, {} unchanged, {} withdrawn, {} ignored, {} refused",
        counts.total,
        counts.imported,
        counts.updated,
        counts.unchanged,
        counts.withdrawn,
        counts.ignored,
        counts.refused
    )
}
