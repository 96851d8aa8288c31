//! What the process gives up so that others cannot look into its memory.

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
