//! Names that last: a file that is made or renamed is there after a power failure only once its folder is synced too.

use std::io;
use std::io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
use std::path::Path;

/// Syncs the folder that a file is in, where that can be done.
#[cfg(unix)]
pub(crate) fn sync_name(file: &Path) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match std::fs::File::open(folder).and_then(|folder| folder.sync_all()) {
        // Some file systems sync no folders, and who may not read a folder may still make files in it.
        Err(e) if matches!(e.kind(), InvalidInput | Unsupported | PermissionDenied) => Ok(()),
        done => done,
    }
}

/// Syncs the folder that a file is in: folders cannot be opened here.
#[cfg(not(unix))]
pub(crate) fn sync_name(_: &Path) -> io::Result<()> {
    Ok(())
}
