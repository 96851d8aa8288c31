//! `kms-http init`, and what the first start of a service creates: folders, a root key and a first token.

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use kms_lib::{Actor, CreatedToken, ErrorCode, Kms, NewToken, RecordId, Role, RootKeySource, Timestamp};
use serde_json::json;

use super::exit::Failure;
use super::folders::{make_folders, make_parent};
use super::output;
use super::store::run;
use crate::auth::principals::Principals;
use crate::settings::{Settings, is_same_folder};

/// Lifetime of the first token in days, unless `init --days` says otherwise.
const FIRST_TOKEN_DAYS: u32 = 1;

/// Options of `kms-http init`.
#[derive(Args)]
pub struct Init {
    /// Principal that the token authenticates
    #[arg(long, default_value = "admin")]
    principal: String,
    /// Days until the token expires; 0 for never
    #[arg(long, default_value_t = FIRST_TOKEN_DAYS, value_parser = clap::value_parser!(u32).range(0..=36_500))]
    days: u32,
}

/// Creates the store and the root key if they are missing, and a new admin token.
pub fn init(command: Init, settings: Settings, as_json: bool) -> Result<ExitCode, Failure> {
    let made_key = make_root_key_if_missing(&settings)?;
    let http = settings.http.clone();
    let key_file = settings.default_key_file.clone();
    let settings = settings.with_default_key()?;
    make_folders(&settings)?;
    let principal = Principals::new(&http).of_token(&command.principal)?;
    let made = run(async {
        let kms = Kms::open(settings.kms).await?;
        let end = (command.days > 0).then(|| Timestamp::now().plus_days(command.days));
        let operator = kms.session(Actor::operator());
        let made = operator.create_token(first_token_of(principal, end)).await;
        kms.close().await?;
        Ok(made?)
    })?;
    let key_file = key_file.filter(|_| made_key);
    let shown = json!({"rootKeyFile": key_file, "token": made.token.as_str(), "credential": made.credential});
    let lines = key_file.iter().flat_map(|path| root_key_lines(path)).chain(token_lines(&made));
    output::show(as_json, &shown, lines)
}

/// Describes where a new root key was written.
pub fn root_key_lines(path: &Path) -> [String; 2] {
    let warning = "            Keep a copy elsewhere: without the root key, all keys in the store are lost.";
    [format!("root key    {}", path.display()), warning.to_owned()]
}

/// Describes a new token, including its secret text, which is not shown again.
pub fn token_lines(made: &CreatedToken) -> [String; 2] {
    let credential = &made.credential;
    let end = credential.expires_at.map_or_else(|| "does not expire".into(), |end| format!("expires at {end}"));
    let about = format!("for {} ({}); not shown again; {end}", credential.principal, credential.role);
    [format!("token       {}", made.token.as_str()), format!("            {about}")]
}

fn first_token_of(principal: impl Into<String>, end: Option<Timestamp>) -> NewToken {
    NewToken::new(principal, Role::Admin).label("first token").expires_at(end)
}

/// Creates the first token of a store, for an admin. None if a token exists already: of several nodes that start
/// together on an empty database, one creates it.
async fn first_token(kms: &Kms, principal: &str) -> kms_lib::Result<Option<CreatedToken>> {
    let end = Timestamp::now().plus_days(FIRST_TOKEN_DAYS);
    match kms.session(Actor::operator()).create_first_token(first_token_of(principal, Some(end))).await {
        Ok(made) => Ok(Some(made)),
        Err(error) if error.code() == ErrorCode::Conflict => Ok(None),
        Err(error) => Err(error),
    }
}

/// Creates the first token and hands it to the operator who starts the service: printed if standard output is a
/// terminal, otherwise written to a file that only its owner may read, because container logs keep standard output.
pub async fn hand_over_first_token(kms: &Kms, principal: &str, file: &Path) -> Result<(), Failure> {
    let is_made = if std::io::stdout().is_terminal() {
        let made = first_token(kms, principal).await?;
        made.iter().flat_map(token_lines).for_each(|text| output::line(&text));
        made.is_some()
    } else {
        write_first_token(kms, principal, file).await?
    };
    if !is_made {
        tracing::info!("another node has created the first token");
    }
    Ok(())
}

/// Creates the first token and writes it to a file. False if another node has created it.
async fn write_first_token(kms: &Kms, principal: &str, file: &Path) -> Result<bool, Failure> {
    let failed = |e: std::io::Error| {
        let path = file.display();
        Failure::new(3, format!("cannot write the first token to {path}: {e}; `kms-http init` prints one"))
    };
    make_parent(file)?;
    // Create the file before the token, because a token that cannot be written is lost; under a temporary name, because
    // another node on this machine may use the same file.
    let new = new_beside(file);
    write_new(&new, b"").map_err(failed)?;
    let written = match first_token(kms, principal).await {
        Ok(Some(made)) => {
            let written = fill(&new, made.token.as_bytes()).and_then(|()| fs::rename(&new, file));
            written.map(|()| true).map_err(failed)
        }
        Ok(None) => Ok(false),
        Err(error) => Err(error.into()),
    };
    if !matches!(written, Ok(true)) {
        let _ = fs::remove_file(&new);
        return written;
    }
    output::line(&format!("token file  {}", file.display()));
    tracing::info!(
        file = %file.display(), principal, days = FIRST_TOKEN_DAYS, "the first admin token was written to a file"
    );
    Ok(true)
}

fn fill(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    file.write_all(bytes).and_then(|()| file.sync_all())
}

/// An unused name in the same folder, for a temporary file.
fn new_beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", RecordId::random()));
    path.with_file_name(name)
}

/// Creates the default root key file if no root key is configured and the file is missing; returns whether it did.
/// Fails if the file would be in the store's folder, or if a store exists, which must have another root key.
pub fn make_root_key_if_missing(settings: &Settings) -> Result<bool, Failure> {
    let Some(path) = &settings.default_key_file else { return Ok(false) };
    if path.exists() {
        return Ok(false);
    }
    if let Some(store) = settings.kms.store_file() {
        if store.exists() {
            return Err(Failure::new(
                3,
                format!(
                    "the store {} exists, but its root key {} is missing; restore the file, or set KMS_MASTER_KEY",
                    store.display(),
                    path.display()
                ),
            ));
        }
        if is_same_folder(path, &store) {
            return Err(Failure::new(
                2,
                format!(
                    "the root key {} would be in the folder of the store; keep them in separate folders",
                    path.display()
                ),
            ));
        }
    }
    if let Some(mark) = settings.kms.high_water_file().filter(|mark| mark.exists()) {
        return Err(Failure::new(
            3,
            format!(
                "the high-water file {} is of an earlier store, whose root key {} is missing; restore the store and \
                 the root key (a new root key is created only if that file does not exist)",
                mark.display(),
                path.display()
            ),
        ));
    }
    make_parent(path)?;
    write_root_key(path)?;
    Ok(true)
}

/// Writes a new root key to a file that only its owner may read.
fn write_root_key(path: &Path) -> Result<(), Failure> {
    let mut text = RootKeySource::generate()?;
    text.push('\n');
    let failed = |e: std::io::Error| Failure::new(3, format!("cannot write {}: {e}", path.display()));
    // Write a temporary file first: no process may read half a key, and an existing key must not be replaced.
    let new = new_beside(path);
    let written = write_new(&new, text.as_bytes()).and_then(|()| match fs::hard_link(&new, path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => write_new(path, text.as_bytes()),
        linked => linked,
    });
    let _ = fs::remove_file(&new);
    written.map_err(failed)?;
    // Sync the folder too, where possible: data encrypted under a key that a power failure erases is lost.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Err(error) = fs::File::open(folder).and_then(|folder| folder.sync_all()) {
        tracing::debug!(%error, "cannot sync the folder of the root key");
    }
    Ok(())
}

fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written
}

#[cfg(test)]
#[path = "../../tests/unit/first_token.rs"]
mod tests;
