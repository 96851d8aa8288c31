//! The instructions that the calling thread executes for one call, counted by valgrind's callgrind.

use std::process::Command;

use kms_lib::AuditAck;

use crate::{Call, Calls};

/// Calls that are counted, after as many that are not.
const CALLS: u64 = 2_000;

/// Makes this call so many times. Runs under valgrind.
pub fn run(call: &str, count: u64) {
    let call = Call::ALL.into_iter().find(|other| format!("{other:?}") == call).unwrap();
    let mut calls = Calls::new(AuditAck::Queued);
    (0..count).for_each(|_| calls.make(call));
}

/// Prints how many instructions one call takes in both interfaces.
pub fn compare() {
    println!("| call, queued | Rust | C | difference |\n| --- | --- | --- | --- |");
    for call in Call::ALL.into_iter().filter(|call| *call != call.in_rust()) {
        let (Some(rust), Some(c)) = (of_one(call.in_rust()), of_one(call)) else {
            return println!("SKIPPED: valgrind is not installed");
        };
        println!("| {} | {rust} | {c} | {} |", call.name(), c - rust);
    }
}

/// The instructions of one call: the difference of two runs, divided by the calls that one of them made more.
fn of_one(call: Call) -> Option<i64> {
    let (few, many) = (of_run(call, CALLS)?, of_run(call, 2 * CALLS)?);
    Some((many - few) / CALLS as i64)
}

/// The instructions that the main thread executes in a run with this number of calls.
fn of_run(call: Call, count: u64) -> Option<i64> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("counts");
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "--separate-threads=yes", "-q"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe().unwrap())
        .args(["instructions", &format!("{call:?}"), &count.to_string()])
        .status();
    assert!(status.ok()?.success(), "the calls failed under valgrind");
    let text = std::fs::read_to_string(folder.path().join("counts-01")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()
}
