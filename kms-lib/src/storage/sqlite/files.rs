//! The files of a SQLite store: created private, and recognized by their identity, not by their names.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::types::error::{Error, ErrorCode, Result};

/// Creates the file with mode 0600 if none exists, since SQLite would take the mode from the umask. Returns the file if
/// it was created.
pub(super) fn create_private(path: &Path) -> Result<Option<File>> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    match options.open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(None),
        Err(e)
            if e.kind() == std::io::ErrorKind::PermissionDenied
                || e.kind() == std::io::ErrorKind::ReadOnlyFilesystem =>
        {
            Err(Error::new(ErrorCode::StoreReadOnly, format!("{} cannot be created: {e}", path.display()))
                .with_source(e))
        }
        Err(e) => {
            let text = format!("{} cannot be created: {e}", path.display());
            Err(Error::new(ErrorCode::StoreUnavailable, text).with_source(e))
        }
    }
}

/// Gives a new file the owner and mode of the store, as SQLite does for its own files: a file created by root must not
/// lock out the service.
#[cfg(unix)]
pub(super) fn give_to_owner(store: &Path, file: &File) {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
    let Ok(of_store) = std::fs::metadata(store) else { return };
    let mode = std::fs::Permissions::from_mode(of_store.mode() & 0o666);
    let given = fchown(file, Some(of_store.uid()), Some(of_store.gid())).and_then(|()| file.set_permissions(mode));
    if let Err(error) = given {
        tracing::debug!(%error, "the owner of a file beside the store could not be changed");
    }
}

#[cfg(not(unix))]
pub(super) fn give_to_owner(_: &Path, _: &File) {}

/// Whether the existing file is not writable, or no file can be created beside it, which writing requires.
#[cfg(unix)]
pub(crate) fn is_read_only(path: &Path) -> bool {
    use rustix::fs::{Access, access};
    use rustix::io::Errno;
    let is_refused = |path: &Path| matches!(access(path, Access::WRITE_OK), Err(Errno::ROFS | Errno::ACCESS));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    path.is_file() && (is_refused(path) || is_refused(folder))
}

#[cfg(not(unix))]
pub(crate) fn is_read_only(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().readonly())
}

#[cfg(unix)]
pub(super) fn free_space(folder: &Path) -> Option<u64> {
    // The space available to users other than root, which is what the service can use.
    rustix::fs::statvfs(folder).ok().map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(not(unix))]
pub(super) fn free_space(_: &Path) -> Option<u64> {
    None
}

/// Opens a file and truncates it; does not follow a link.
pub(super) fn empty(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.write(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    }
    options.open(path)
}

/// Writes bytes that no file system can store as a hole.
pub(super) fn fill(path: &Path, bytes: u64) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = empty(path)?;
    let mut block = [0; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        rand::RngExt::fill(&mut rand::rng(), &mut block[..]);
        let part = left.min(block.len() as u64);
        file.write_all(&block[..usize::try_from(part).unwrap_or(block.len())])?;
        left -= part;
    }
    file.sync_all()
}

/// The identity of a file, independent of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId(u64, u64);

impl FileId {
    #[cfg(unix)]
    pub(super) fn of(path: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(path).map(|metadata| Self(metadata.dev(), metadata.ino()))
    }
    #[cfg(not(unix))]
    pub(super) fn of(path: &Path) -> std::io::Result<Self> {
        // An open file cannot be removed on this platform.
        std::fs::metadata(path).map(|_| Self(0, 0))
    }
    pub(super) fn check(&self, path: &Path) -> Result<()> {
        match Self::of(path) {
            Ok(file) if file == *self => Ok(()),
            Ok(_) => Err(gone(path, "another file has its name")),
            Err(e) => Err(unreachable_file(path, e)),
        }
    }
}

fn gone(path: &Path, why: &str) -> Error {
    Error::new(ErrorCode::StoreUnavailable, format!("the store's file {} is gone: {why}", path.display()))
}

/// The error for a file of the store that the operating system does not find.
pub(super) fn unreachable_file(path: &Path, why: std::io::Error) -> Error {
    gone(path, &why.to_string()).with_source(why)
}

/// The files that a connection writes. SQLite keeps writing to them even after their names are gone.
pub(super) struct Files {
    pub path: PathBuf,
    pub file: FileId,
    pub log_path: PathBuf,
    /// The write-ahead log; known after the first transaction.
    pub log: Option<FileId>,
    /// The length of the log, in bytes, when this connection last wrote.
    pub log_bytes: u64,
}

impl Files {
    pub(super) fn check(&self) -> Result<()> {
        self.file.check(&self.path)?;
        self.log.map_or(Ok(()), |log| log.check(&self.log_path))
    }
    fn log_bytes(&self) -> Result<u64> {
        std::fs::metadata(&self.log_path).map(|log| log.len()).map_err(|e| unreachable_file(&self.log_path, e))
    }
    /// Notes the length of the write-ahead log after this connection has written.
    pub(super) fn note_log_bytes(&mut self) -> Result<()> {
        self.log_bytes = self.log_bytes()?;
        Ok(())
    }
    /// Whether the write-ahead log became shorter since this connection wrote. Another process may have moved it into
    /// the database, or another program may have truncated it. This connection would not notice the difference as long
    /// as its cache has the pages it needs; a new connection reads the files.
    pub(super) fn is_log_shorter(&self) -> Result<bool> {
        Ok(self.log_bytes()? < self.log_bytes)
    }
    pub(super) fn note_log(&mut self) -> Result<()> {
        if self.log.is_none() {
            self.log = Some(FileId::of(&self.log_path).map_err(|e| unreachable_file(&self.log_path, e))?);
        }
        Ok(())
    }
}
