//! Values that threads share, protected by locks that a forked child never waits for indefinitely.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::thread;
use std::time::Duration;

use kms_lib::{Error, ErrorCode};

use crate::failure::Outcome;

/// How often a forked child tries to take a lock, at intervals of a millisecond. Locks are held for microseconds: a
/// lock that is still taken after that was held by a thread of the parent.
const ATTEMPTS: u32 = 500;

/// A value that a lock protects.
pub struct Shared<T> {
    value: RwLock<T>,
    process: u32,
    kind: &'static str,
}

impl<T> Shared<T> {
    /// Wraps the value of a handle of this type.
    pub fn new(value: T, kind: &'static str) -> Self {
        Self { value: RwLock::new(value), process: std::process::id(), kind }
    }

    /// Locks the value for reading. `UsedAfterFork` if another thread held the lock when the process was forked,
    /// because the child never releases it.
    pub fn read(&self) -> Outcome<RwLockReadGuard<'_, T>> {
        self.lock(|| self.value.try_read(), || self.value.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Locks the value for changes. Errors: those of [`Shared::read`].
    pub fn write(&self) -> Outcome<RwLockWriteGuard<'_, T>> {
        self.lock(|| self.value.try_write(), || self.value.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn lock<G>(&self, attempt: impl Fn() -> Result<G, TryLockError<G>>, wait: impl Fn() -> G) -> Outcome<G> {
        for _ in 0..ATTEMPTS {
            match attempt() {
                Ok(guard) => return Ok(guard),
                Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if self.process == std::process::id() => return Ok(wait()),
                Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(1)),
            }
        }
        let text = format!("this process was forked while another thread used the {}; make a new one", self.kind);
        Err(Error::new(ErrorCode::UsedAfterFork, text).into())
    }
}
