//! The files of a backup and a restore: what is verified is what gets the final name, and no file that is there is
//! replaced.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::catalog::run_blocking;
use crate::storage::durable::sync_name;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::RecordId;

/// What SQLite keeps beside a database.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

/// Refuses a place for a new file where something is, a link that leads nowhere too. What SQLite keeps beside a store
/// would be taken for a part of the new one: the write-ahead log of a former store would be played into it.
pub(super) fn check_is_free(to: &Path) -> Result<()> {
    for ending in std::iter::once("").chain(BESIDE) {
        let taken = beside(to, ending);
        match fs::symlink_metadata(&taken) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {}
            Err(e) => {
                return Err(Error::invalid(format!("{} cannot be looked at: {e}", taken.display())).with_source(e));
            }
            Ok(_) => {
                let text = format!("{} is there already; a new place is needed", taken.display());
                return Err(Error::invalid(text));
            }
        }
    }
    Ok(())
}

/// Refuses the copy of a store's files for a backup: SQLite would read it with what lies beside it, and only the one
/// file would be restored.
pub(super) fn check_is_whole(backup: &Path) -> Result<()> {
    for ending in ["-wal", "-journal"] {
        let part = beside(backup, ending);
        if fs::symlink_metadata(&part).is_ok_and(|metadata| metadata.len() > 0) {
            let text = format!(
                "{} is not a backup but a copy of a store's files: {} belongs to it. Put both in the place of the store",
                backup.display(),
                part.display()
            );
            return Err(Error::invalid(text));
        }
    }
    Ok(())
}

/// A file beside the place where it is to be, under a name of its own. Removed when dropped.
pub(super) struct Part {
    path: PathBuf,
    to: PathBuf,
}

impl Part {
    /// A name for a file that is to be made: `NAME.<random>.part`.
    pub fn of(to: &Path) -> Self {
        Self { path: beside(to, &format!(".{}.part", RecordId::random())), to: to.to_owned() }
    }

    /// Copies. Only its owner may read the copy, whatever the mode of the backup.
    pub async fn copy(backup: &Path, to: &Path) -> Result<Self> {
        let part = Self { path: beside(to, &format!(".{}.restoring", RecordId::random())), to: to.to_owned() };
        let failed = failed(backup, to);
        let (from, path) = (backup.to_owned(), part.path.clone());
        run_blocking(move || copy_private(&from, &path).map_err(failed)).await?;
        Ok(part)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it where it is; answers its name.
    pub fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.path)
    }

    /// Gives it its final name too. `InvalidArgument` if there is a file of that name by now.
    pub fn place(&self) -> Result<()> {
        // Whoever has made a store there meanwhile has it open: what it writes beside it would end in this one.
        check_is_free(&self.to)?;
        rename_to_new(&self.path, &self.to).map_err(failed(&self.path, &self.to))?;
        sync_name(&self.to).map_err(|e| {
            let text = format!("{} is complete, but its name may not outlast a power failure: {e}", self.to.display());
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

/// Gives a file a new name, and never replaces another.
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        // Its first name goes when the part is dropped.
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(e),
        // Some file systems have no second names for a file.
        Err(_) => fs::rename(from, to),
    }
}
