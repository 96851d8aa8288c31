//! The first steps: folders, a root key, a token.

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

/// Days for which the first token is good, unless `init` is told otherwise.
const FIRST_TOKEN_DAYS: u32 = 1;

/// `kms-http init`.
#[derive(Args)]
pub struct Init {
    /// The principal that the token stands for
    #[arg(long, default_value = "admin")]
    principal: String,
    /// Days until the token expires; 0 for never
    #[arg(long, default_value_t = FIRST_TOKEN_DAYS, value_parser = clap::value_parser!(u32).range(0..=36_500))]
    days: u32,
}

/// Makes what is missing, and a token.
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

/// Says where the root key that was just made is.
pub fn root_key_lines(path: &Path) -> [String; 2] {
    let warning = "            Keep a copy of it elsewhere: without it, what is stored is lost.";
    [format!("root key    {}", path.display()), warning.to_owned()]
}

/// Shows a token, this once.
pub fn token_lines(made: &CreatedToken) -> [String; 2] {
    let credential = &made.credential;
    let end = credential.expires_at.map_or_else(|| "never".into(), |end| format!("at {end}"));
    let about = format!("for {} ({}). It is shown this once and expires {end}.", credential.principal, credential.role);
    [format!("token       {}", made.token.as_str()), format!("            {about}")]
}

fn first_token_of(principal: impl Into<String>, end: Option<Timestamp>) -> NewToken {
    NewToken::new(principal, Role::Admin).label("first token").expires_at(end)
}

/// The first token of a store, for an admin. None if another node, or anybody, has made one: of several nodes that
/// start together on an empty database, one makes it.
async fn first_token(kms: &Kms, principal: &str) -> kms_lib::Result<Option<CreatedToken>> {
    let end = Timestamp::now().plus_days(FIRST_TOKEN_DAYS);
    match kms.session(Actor::operator()).create_first_token(first_token_of(principal, Some(end))).await {
        Ok(made) => Ok(Some(made)),
        Err(error) if error.code() == ErrorCode::Conflict => Ok(None),
        Err(error) => Err(error),
    }
}

/// The first token for the operator who starts the service: shown on a terminal, else in a file that only its owner may
/// read. The log of a container keeps what goes to standard output without a terminal.
pub async fn hand_over_first_token(kms: &Kms, principal: &str, file: &Path) -> Result<(), Failure> {
    let is_made = if std::io::stdout().is_terminal() {
        let made = first_token(kms, principal).await?;
        made.iter().flat_map(token_lines).for_each(|text| output::line(&text));
        made.is_some()
    } else {
        write_first_token(kms, principal, file).await?
    };
    if !is_made {
        tracing::info!("another node has made the first token and has handed it over");
    }
    Ok(())
}

/// Makes the first token and writes it to a file. Answers whether it did: another node may have made it.
async fn write_first_token(kms: &Kms, principal: &str, file: &Path) -> Result<bool, Failure> {
    let failed = |e: std::io::Error| {
        let path = file.display();
        Failure::new(3, format!("the first token cannot be written to {path}: {e}; `kms-http init` shows one"))
    };
    make_parent(file)?;
    // The file exists before the token, because a token that cannot be written is lost. It has another name until then,
    // because another node on this machine may have the same file.
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
        file = %file.display(), principal, days = FIRST_TOKEN_DAYS, "the first token of an admin is in a file"
    );
    Ok(true)
}

fn fill(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    file.write_all(bytes).and_then(|()| file.sync_all())
}

/// A name in the same folder that no other file has.
fn new_beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", RecordId::random()));
    path.with_file_name(name)
}

/// Makes the default root key file if no root key is configured and there is none. Answers whether it did. Never beside
/// the store, and never for a store that is there already: that one has another root key.
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
                    "the store {} is there, but its root key {} is not: put it back, or name it with KMS_MASTER_KEY",
                    store.display(),
                    path.display()
                ),
            ));
        }
        if is_same_folder(path, &store) {
            return Err(Failure::new(
                2,
                format!("the root key {} would lie beside the store; keep them apart", path.display()),
            ));
        }
    }
    if let Some(mark) = settings.kms.high_water_file().filter(|mark| mark.exists()) {
        return Err(Failure::new(
            3,
            format!(
                "there was a store here, says {}, and its root key {} is missing: put both back; a new root key is \
                 only made without that file",
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
    let failed = |e: std::io::Error| Failure::new(3, format!("{} cannot be written: {e}", path.display()));
    // Written elsewhere first: half a key must not be taken for one, nor one that was there be replaced.
    let new = new_beside(path);
    let written = write_new(&new, text.as_bytes()).and_then(|()| match fs::hard_link(&new, path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => write_new(path, text.as_bytes()),
        linked => linked,
    });
    let _ = fs::remove_file(&new);
    written.map_err(failed)?;
    // And its name, where that can be done: what is encrypted under a key that a power failure takes is lost.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Err(error) = fs::File::open(folder).and_then(|folder| folder.sync_all()) {
        tracing::debug!(%error, "the folder of the root key cannot be synced");
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
