//! What the process gives up so that others cannot look into its memory.

/// No core dumps, no debugger of the same user, and as many file descriptors as may be had. What does not work is said.
#[cfg(target_os = "linux")]
pub fn harden() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "the memory of the process may be read by others of the same user");
    }
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        tracing::warn!(%error, "a crash may write the memory of the process to a file");
    }
    let files = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files }) {
        tracing::warn!(%error, "the number of open files could not be raised");
    }
}

/// There is no such thing here.
#[cfg(not(target_os = "linux"))]
pub fn harden() {}
