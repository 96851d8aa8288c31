//! Locking the memory of the process, to keep secrets out of swap.

/// Tries to lock the memory of the process, including later allocations, and logs whether that succeeded.
#[cfg(target_os = "linux")]
pub(super) fn lock() {
    use rustix::mm::{MlockAllFlags, mlockall};
    use rustix::process::{Resource, geteuid, getrlimit};

    // Under a limit, allocations would fail once it is reached, and the process would abort.
    if getrlimit(Resource::Memlock).current.is_some() && !geteuid().is_root() {
        tracing::warn!("the memory is not locked; set RLIMIT_MEMLOCK to unlimited");
        return;
    }
    // Pages are locked at their first use, since most of each thread's stack is never used.
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    match mlockall(flags) {
        Ok(()) => tracing::info!("the memory of the process is locked"),
        Err(error) => tracing::warn!(%error, "the memory is not locked"),
    }
}

/// Outside Linux, memory locking is not implemented.
#[cfg(not(target_os = "linux"))]
pub(super) fn lock() {
    tracing::warn!("the memory is not locked; locking is supported on Linux only");
}
