//! Process hardening (no core dumps, no access to its memory by other processes) and the limit on open files.

/// Open files reserved for everything but connections in service: the store, the log and so on, and connections that
/// wait to be started.
#[cfg(target_os = "linux")]
const FILES: u64 = 256;

/// The number of connections that the limit on open files allows, at most `wanted`. If connections used up all open
/// files, no new one could be accepted.
#[cfg(target_os = "linux")]
pub fn most_connections(wanted: usize) -> usize {
    let Some(files) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current else { return wanted };
    let most = usize::try_from(files.saturating_sub(FILES).max(files / 2)).unwrap_or(usize::MAX);
    if most < wanted {
        tracing::warn!(
            connections = most,
            files,
            "fewer connections than http.connections; raise the limit on open files (ulimit -n, LimitNOFILE=)"
        );
    }
    wanted.min(most)
}

/// The limit on open files is not read on this platform.
#[cfg(not(target_os = "linux"))]
pub fn most_connections(wanted: usize) -> usize {
    wanted
}

/// Disables core dumps and access by debuggers of the same user, and raises the limit on open files to its maximum.
/// Returns a message for each step that failed.
#[cfg(target_os = "linux")]
pub fn harden() -> Vec<String> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

    let files = getrlimit(Resource::Nofile);
    let done = [
        (
            "other processes of the same user can read the memory of this process",
            set_dumpable_behavior(DumpableBehavior::NotDumpable),
        ),
        (
            "core dumps cannot be disabled; a crash may write the memory of this process to a file",
            setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }),
        ),
        (
            "the limit on open files cannot be raised",
            setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files }),
        ),
    ];
    done.into_iter().filter_map(|(what, done)| Some(format!("{what}: {}", done.err()?))).collect()
}

/// Hardening is implemented on Linux only.
#[cfg(not(target_os = "linux"))]
pub fn harden() -> Vec<String> {
    Vec::new()
}
