//! Keeping memory out of swap, as far as that is allowed.

/// Locks the memory of the process, that it gets later included. Tries; says in the logs if it could not.
#[cfg(target_os = "linux")]
pub(super) fn lock() {
    use rustix::mm::{MlockAllFlags, mlockall};
    use rustix::process::{Resource, geteuid, getrlimit};

    // Under a limit, later allocations would fail as soon as it is reached, and the process with them.
    if getrlimit(Resource::Memlock).current.is_some() && !geteuid().is_root() {
        tracing::warn!("the memory is not locked: RLIMIT_MEMLOCK is not unlimited");
        return;
    }
    // Pages are locked when they are first used: the stacks of threads are mostly never used.
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    match mlockall(flags) {
        Ok(()) => tracing::info!("the memory of the process is locked"),
        Err(error) => tracing::warn!(%error, "the memory is not locked"),
    }
}

/// Elsewhere than on Linux there is no way to do it safely.
#[cfg(not(target_os = "linux"))]
pub(super) fn lock() {
    tracing::warn!("the memory is not locked: this is done on Linux only");
}
