//! The files of a backup and a restore. Only a verified file gets the final name, and no existing file is replaced.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::storage::durable::sync_name;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::RecordId;
use crate::workers::run_blocking;

/// Suffixes of the files that SQLite keeps beside a database.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

/// Refuses a path for a new file where something exists, including a dangling link. SQLite would take the files beside
/// an old store for part of the new one, and replay the old write-ahead log into it.
pub(super) fn check_is_free(to: &Path) -> Result<()> {
    for ending in std::iter::once("").chain(BESIDE) {
        let taken = beside(to, ending);
        match fs::symlink_metadata(&taken) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {}
            Err(e) => {
                return Err(Error::invalid(format!("{} cannot be examined: {e}", taken.display())).with_source(e));
            }
            Ok(_) => {
                let text = format!("{} already exists; choose another path", taken.display());
                return Err(Error::invalid(text));
            }
        }
    }
    Ok(())
}

/// Refuses a copy of a store's files as a backup: SQLite would read it together with the files beside it, but only the
/// one file would be restored.
pub(super) fn check_is_whole(backup: &Path) -> Result<()> {
    for ending in ["-wal", "-journal"] {
        let part = beside(backup, ending);
        if fs::symlink_metadata(&part).is_ok_and(|metadata| metadata.len() > 0) {
            let text = format!(
                "{} is a copy of a store's files, not a backup: {} belongs to it; put both in the store's place",
                backup.display(),
                part.display()
            );
            return Err(Error::invalid(text));
        }
    }
    Ok(())
}

/// A temporary file beside its final path. Removed when dropped.
pub(super) struct Part {
    path: PathBuf,
    to: PathBuf,
}

impl Part {
    /// A temporary name for a new file: `NAME.<random>.part`.
    pub fn of(to: &Path) -> Self {
        Self { path: beside(to, &format!(".{}.part", RecordId::random())), to: to.to_owned() }
    }

    /// Copies a backup to a temporary file that only its owner may read, whatever the mode of the backup.
    pub async fn copy(backup: &Path, to: &Path) -> Result<Self> {
        let part = Self { path: beside(to, &format!(".{}.restoring", RecordId::random())), to: to.to_owned() };
        let failed = failed(backup, to);
        let (from, path) = (backup.to_owned(), part.path.clone());
        run_blocking(move || copy_private(&from, &path).map_err(failed)).await?;
        Ok(part)
    }

    /// The path of the temporary file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the temporary file when this is dropped, and returns its path.
    pub fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.path)
    }

    /// Gives the file its final name. `InvalidArgument` if a file of that name exists by now.
    pub fn place(&self) -> Result<()> {
        // Another process may have made a store there since; SQLite would take its side files for this store's.
        check_is_free(&self.to)?;
        rename_to_new(&self.path, &self.to).map_err(failed(&self.path, &self.to))?;
        sync_name(&self.to).map_err(|e| {
            let text = format!("{} is complete, but its name may be lost in a power failure: {e}", self.to.display());
            Error::new(ErrorCode::InputOutput, text).with_source(e)
        })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.path.as_os_str().is_empty() {
            return;
        }
        for ending in std::iter::once("").chain(BESIDE) {
            let _ = fs::remove_file(beside(&self.path, ending));
        }
    }
}

fn failed(from: &Path, to: &Path) -> impl Fn(io::Error) -> Error + Send + 'static {
    let (from, to) = (from.display().to_string(), to.display().to_string());
    move |e| {
        let code = if e.kind() == io::ErrorKind::StorageFull { ErrorCode::StoreFull } else { ErrorCode::InputOutput };
        Error::new(code, format!("{from} cannot be written to {to}: {e}")).with_source(e)
    }
}

fn copy_private(from: &Path, to: &Path) -> io::Result<()> {
    let mut options = fs::File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut copy = options.open(to)?;
    let copied = io::copy(&mut fs::File::open(from)?, &mut copy).and_then(|_| copy.sync_all());
    if copied.is_err() {
        let _ = fs::remove_file(to);
    }
    copied
}

/// Renames a file without replacing an existing one.
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        // The temporary name is removed when the part is dropped.
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(e),
        // Some file systems have no hard links.
        Err(_) => fs::rename(from, to),
    }
}
