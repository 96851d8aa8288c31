//! Detecting that SQLite stores are used after a fork.
//!
//! SQLite keeps a table of its locks for the whole process. A forked child inherits the table but not the locks
//! (POSIX), and would trust locks that it does not hold. So a process whose parent had a store open when it forked
//! cannot open any.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::types::error::{Error, ErrorCode, Result};

/// The id of the process that has stores open, in the upper half, and their number. One atomic word needs no lock,
/// which a fork in another thread could leave locked permanently.
static OPEN: AtomicU64 = AtomicU64::new(0);

/// A store that is open in this process until this value is dropped.
#[derive(Debug)]
pub(super) struct Opened(());

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
        Ok(Self(()))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let process = std::process::id();
        // A store dropped in a forked child belongs to its parent.
        let _ = OPEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| closed(open, process));
    }
}

fn opened(open: u64, process: u32) -> Option<u64> {
    match open as u32 {
        0 => Some(u64::from(process) << 32 | 1),
        _ if (open >> 32) as u32 == process => Some(open + 1),
        _ => None,
    }
}

fn closed(open: u64, process: u32) -> Option<u64> {
    ((open >> 32) as u32 == process && open as u32 > 0).then(|| open - 1)
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
