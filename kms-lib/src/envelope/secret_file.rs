//! Files with a secret. Only their owner may have access. Read access of the group only causes a warning, because
//! `fsGroup` gives the files of a Kubernetes volume mode 0440 or 0640.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use zeroize::Zeroizing;

/// Largest file with a secret, in bytes.
const FILE_BYTES: u64 = 4096;

/// The reason why a file with a secret is not used. It contains nothing of the file's content.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SecretFileError {
    message: String,
    source: Option<io::Error>,
}

impl SecretFileError {
    fn refused(message: String) -> Self {
        Self { message, source: None }
    }

    fn failed(message: String, source: io::Error) -> Self {
        Self { message, source: Some(source) }
    }
}

/// Reads a file with one secret.
pub fn read_secret_file(path: &Path) -> Result<Zeroizing<String>, SecretFileError> {
    let file =
        open(path).map_err(|e| SecretFileError::failed(format!("file {} cannot be opened: {e}", path.display()), e))?;
    check_secret_file(&file, path)?;
    // The capacity is sufficient for all of the text, because growing would leave a copy.
    let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES as usize + 32));
    match file.take(FILE_BYTES + 1).read_to_string(&mut text) {
        Ok(n) if n as u64 > FILE_BYTES => {
            Err(SecretFileError::refused(format!("file {} is larger than {FILE_BYTES} bytes", path.display())))
        }
        Ok(_) => Ok(text),
        Err(e) => Err(SecretFileError::failed(format!("file {} cannot be read: {e}", path.display()), e)),
    }
}

/// Opens a file without waiting for the other end of a FIFO.
#[cfg(unix)]
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed()).open(path)
}

#[cfg(not(unix))]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// Checks that a file is a regular file that no other user can read or write. Logs a warning if its group can read it.
#[cfg(unix)]
pub fn check_secret_file(file: &File, path: &Path) -> Result<(), SecretFileError> {
    use std::os::unix::fs::MetadataExt;
    let path = path.display();
    let metadata = file.metadata().map_err(|e| SecretFileError::failed(format!("file {path}: {e}"), e))?;
    if !metadata.is_file() {
        return Err(SecretFileError::refused(format!("file {path} is not a regular file")));
    }
    let mode = metadata.mode() & 0o777;
    let refused = |what: &str| {
        let message = format!("file {path} is {what} (mode {mode:04o}); run chmod 0600 on it");
        Err(SecretFileError::refused(message))
    };
    match mode {
        _ if mode & 0o006 == 0o002 => refused("writable by other users"),
        _ if mode & 0o007 != 0 => refused("readable by other users"),
        _ if mode & 0o020 != 0 => refused("writable by its group"),
        _ if mode & 0o040 != 0 => {
            tracing::warn!("the secret file {path} is readable by its group (mode {mode:04o}); 0600 is safer");
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Accepts every file, because this system has no file modes.
#[cfg(not(unix))]
pub fn check_secret_file(_: &File, _: &Path) -> Result<(), SecretFileError> {
    Ok(())
}
