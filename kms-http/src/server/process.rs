//! What the process gives up so that others cannot look into its memory, and what it has of its system.

/// Open files that are left to the store, the log and everything else.
#[cfg(target_os = "linux")]
const FILES: u64 = 128;

/// How many connections there can be of so many that are wanted: each is an open file, and without one left, nobody
/// would be let in any more.
#[cfg(target_os = "linux")]
pub fn most_connections(wanted: usize) -> usize {
    let Some(files) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current else { return wanted };
    let most = usize::try_from(files.saturating_sub(FILES).max(files / 2)).unwrap_or(usize::MAX);
    if most < wanted {
        tracing::warn!(
            connections = most,
            files,
            "fewer connections than http.connections says: raise the number of open files (ulimit -n, LimitNOFILE=)"
        );
    }
    wanted.min(most)
}

/// The limit is not known here.
#[cfg(not(target_os = "linux"))]
pub fn most_connections(wanted: usize) -> usize {
    wanted
}

/// No core dumps, no debugger of the same user, and as many file descriptors as may be had. Answers what did not work.
#[cfg(target_os = "linux")]
pub fn harden() -> Vec<String> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

    let files = getrlimit(Resource::Nofile);
    let done = [
        (
            "others of the same user may read the memory of the process",
            set_dumpable_behavior(DumpableBehavior::NotDumpable),
        ),
        (
            "a crash may write the memory of the process to a file",
            setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }),
        ),
        (
            "the number of open files could not be raised",
            setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files }),
        ),
    ];
    done.into_iter().filter_map(|(what, done)| Some(format!("{what}: {}", done.err()?))).collect()
}

/// There is no such thing here.
#[cfg(not(target_os = "linux"))]
pub fn harden() -> Vec<String> {
    Vec::new()
}
