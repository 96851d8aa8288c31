//! The stores that are open in this process, whose locks two things would undo.
//!
//! SQLite keeps a table of its locks for the whole process. A forked child inherits the table but not the locks
//! (POSIX), and would trust locks that it does not hold. So a process whose parent had a store open when it forked
//! cannot open any. And whoever closes a descriptor of a file releases all locks of the process on it (POSIX), so
//! nothing else may open the file of a store that is open.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::files::FileId;
use crate::types::error::{Error, ErrorCode, Result};

/// The id of the process that has stores open, in the upper half, and their number. One atomic word needs no lock,
/// which a fork in another thread could leave locked permanently.
static OPEN: AtomicU64 = AtomicU64::new(0);

/// The files of the stores that may be written. Locked only while a store is counted as open: a process that is forked
/// meanwhile cannot get here.
static FILES: Mutex<Vec<FileId>> = Mutex::new(Vec::new());

/// A store that is open in this process until this value is dropped.
#[derive(Debug)]
pub(super) struct Opened(Option<FileId>);

impl Opened {
    /// Registers a store; `UsedAfterFork` if a parent process left stores open here.
    pub fn here() -> Result<Self> {
        let process = std::process::id();
        OPEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| opened(open, process)).map_err(|_| {
            Error::new(
                ErrorCode::UsedAfterFork,
                "a SQLite store was open when this process was forked, and SQLite's locks do not survive that; open \
                 stores after the fork, or start processes without forking (spawn)",
            )
        })?;
        Ok(Self(None))
    }

    /// Notes the file of a store that may be written. A backup is only read, and needs no locks.
    pub fn note(&mut self, file: FileId) {
        files().push(file);
        self.0 = Some(file);
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let process = std::process::id();
        // A store dropped in a forked child belongs to its parent.
        if is_of(OPEN.load(Ordering::Relaxed), process)
            && let Some(file) = self.0
        {
            let mut files = files();
            if let Some(place) = files.iter().position(|one| *one == file) {
                files.swap_remove(place);
            }
        }
        let _ = OPEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| closed(open, process));
    }
}

fn files() -> MutexGuard<'static, Vec<FileId>> {
    FILES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this is the file of a store that this process has open and may write. `UsedAfterFork` if a parent process
/// left stores open here.
pub(crate) fn is_open(path: &Path) -> Result<bool> {
    let _counted = Opened::here()?;
    // Locks on other platforms belong to the descriptor, not to the process.
    Ok(cfg!(unix) && FileId::of(path).is_ok_and(|file| files().contains(&file)))
}

/// Whether the stores that are open belong to this process.
fn is_of(open: u64, process: u32) -> bool {
    (open >> 32) as u32 == process
}

fn opened(open: u64, process: u32) -> Option<u64> {
    match open as u32 {
        0 => Some(u64::from(process) << 32 | 1),
        _ if is_of(open, process) => Some(open + 1),
        _ => None,
    }
}

fn closed(open: u64, process: u32) -> Option<u64> {
    (is_of(open, process) && open as u32 > 0).then(|| open - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_of_a_process_with_open_stores_opens_none() {
        let (parent, child) = (7, 8);
        let one = opened(0, parent);
        let two = one.and_then(|open| opened(open, parent));
        assert_eq!(two.and_then(|open| opened(open, child)), None);
        // Stores dropped by the child do not count.
        assert_eq!(two.and_then(|open| closed(open, child)), None);
        let none = two.and_then(|open| closed(open, parent)).and_then(|open| closed(open, parent));
        assert_eq!(none.and_then(|open| closed(open, parent)), None);
        assert_eq!(none.and_then(|open| opened(open, child)), opened(0, child));
    }
}
