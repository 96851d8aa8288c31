//! Results are returned only after the sync of their records. The test traces the system calls of a process under load.
//! SIGKILL cannot show this, since the kernel keeps the writes of a dead process.
//!
//! Every operation has a mark as its request id, which is in its record and so in a page of the write-ahead log. When
//! the process reports the result, the transaction of that page must be complete in the file, and a sync of the file
//! that began later must have returned.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod common;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::process::{Command, Stdio};

use common::admin;
use kms_lib::{Actor, AuditAck, Config, Context, KeyId, Kms, NewGrant, NewKey, NewToken, Permission, Role, blocking};

const CHILD: &str = "KMS_TEST_SYNC_FILE";
const QUEUED: &str = "KMS_TEST_SYNC_QUEUED";
const TASKS: usize = 8;
const ROUNDS: usize = 4;
/// Length of a mark, in bytes.
const MARK: usize = "mark-00-00-00.".len();
/// Number of operations in one round.
const OPERATIONS: usize = 9;

fn config(file: &Path, ack: AuditAck) -> Config {
    Config::new(format!("sqlite:{}", file.display())).root_key_bytes([7; 32]).audit_ack(ack)
}

/// The actor whose next record carries this mark.
fn marked(role: Role, mark: &str) -> Actor {
    Actor::new("child", role).unwrap().with_request_id(mark).unwrap()
}

/// Reports that the operation with this mark has returned. The kind `use` marks cryptographic operations, the only ones
/// whose results `queued` may return early.
fn say(kind: &str, mark: &str) {
    println!("answered {kind} {mark}");
}

/// Performs one operation of every kind that has a record. With `await`, the service is asynchronous.
macro_rules! round {
    ($kms:expr, $task:expr, $round:expr $(, $wait:tt)?) => {{
        let (kms, task, round, none) = ($kms, $task, $round, Context::new());
        let mark = |operation: usize| format!("mark-{task:02}-{round:02}-{operation:02}.");
        let session = |operation: usize| kms.session(marked(Role::Admin, &mark(operation)));
        let auditor = || kms.session(marked(Role::Auditor, &mark(8)));
        let sealed = session(0).encrypt("k", b"x", &none)$(.$wait)?.unwrap();
        say("use", &mark(0));
        session(1).decrypt(&sealed.ciphertext, &none)$(.$wait)?.unwrap();
        say("use", &mark(1));
        session(2).generate_data_key("k", 32, &none)$(.$wait)?.unwrap();
        say("use", &mark(2));
        let key = session(3).create_key(NewKey::aes(format!("k-{task}-{round}")))$(.$wait)?.unwrap();
        say("change", &mark(3));
        session(4).rotate_key(key.id, None)$(.$wait)?.unwrap();
        say("change", &mark(4));
        let grant = NewGrant::new("app", Role::App).on_key(key.id).allow([Permission::Read]);
        session(5).put_grant(grant)$(.$wait)?.unwrap();
        say("change", &mark(5));
        session(6).create_token(NewToken::new("app", Role::App))$(.$wait)?.unwrap();
        say("change", &mark(6));
        session(7).revoke_key(key.id)$(.$wait)?.unwrap();
        say("change", &mark(7));
        // A refusal too is returned only when it is in the log.
        auditor().get_key(KeyId::random())$(.$wait)?.unwrap_err();
        auditor().rotate_key("k", None)$(.$wait)?.unwrap_err();
        say("change", &mark(8));
    }};
}

/// Not a test: the child process that is traced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_process() {
    let Some(file) = std::env::var_os(CHILD) else { return };
    let ack = if std::env::var_os(QUEUED).is_some() { AuditAck::Queued } else { AuditAck::Durable };
    let kms = Kms::open(config(Path::new(&file), ack)).await.unwrap();
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let kms = kms.clone();
            tokio::spawn(async move {
                for number in 0..ROUNDS {
                    round!(&kms, task, number, await);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    kms.close().await.unwrap();
}

/// Not a test: the same with threads that call the blocking interface and write to the log themselves.
#[test]
fn blocking_child_process() {
    let Some(file) = std::env::var_os(CHILD) else { return };
    let kms = blocking::Kms::open(config(Path::new(&file), AuditAck::Durable)).unwrap();
    std::thread::scope(|scope| {
        for task in 0..TASKS {
            let kms = &kms;
            scope.spawn(move || (0..ROUNDS).for_each(|number| round!(kms, task, number)));
        }
    });
    kms.close().unwrap();
}

/// Traces this child process. Returns None, with a message, if tracing is not possible.
fn trace(child: &str, ack: AuditAck) -> Option<String> {
    let possible = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: strace is missing or may not trace, so the order of syncs and results is not tested");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let (file, trace) = (folder.path().join("kms.db"), folder.path().join("trace"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let kms = Kms::open(config(&file, AuditAck::Durable)).await.unwrap();
        admin(&kms).create_key(NewKey::aes("k")).await.unwrap();
        kms.close().await.unwrap();
    });
    let mut command = Command::new("strace");
    command
        // Prints whole pages in hexadecimal, and the paths of descriptors.
        .args(["-f", "-y", "-xx", "-s", "5000", "-e", "trace=write,pwrite64,pwritev,fsync,fdatasync", "-o"])
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", child, "--nocapture", "--test-threads=1"])
        .env(CHILD, &file)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    if ack == AuditAck::Queued {
        command.env(QUEUED, "1");
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "the traced process failed");
    let said = String::from_utf8(output.stdout).unwrap().lines().filter(|line| line.contains("answered ")).count();
    assert_eq!(said, TASKS * ROUNDS * OPERATIONS);
    Some(std::fs::read_to_string(&trace).unwrap())
}

/// A system call that matters for the test.
#[derive(Debug, PartialEq)]
enum Event {
    /// The header of a frame of the write-ahead log was written. True if the frame ends a transaction.
    Frame { ends: bool },
    /// A page was written after its header.
    Page(Vec<u8>),
    /// This thread began a sync of the write-ahead log.
    SyncBegins(u32),
    /// The sync of this thread returned without an error.
    SyncDone(u32),
    /// The process began to report that this operation has returned.
    Answered { kind: String, mark: String },
}

/// Decodes a string of strace, with every byte as `\xNN` or in plain characters.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4);
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match rest {
            [b'\\', b'x', high, low, ..] => {
                std::str::from_utf8(&[*high, *low]).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok())
            }
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &rest[4..] } else { tail };
    }
    bytes
}

/// Parses a line of the trace. None for calls on other files.
fn event(line: &str, names: &mut HashMap<u32, bool>) -> Vec<Event> {
    let Some((thread, call)) = line.trim_start().split_once(' ') else { return Vec::new() };
    let Ok(thread) = thread.parse::<u32>() else { return Vec::new() };
    let call = call.trim_start();
    if let Some(resumed) = call.strip_prefix("<... ") {
        let is_sync = resumed.starts_with("fsync") || resumed.starts_with("fdatasync");
        let of_log = is_sync && names.remove(&thread).unwrap_or(false);
        return if of_log && resumed.trim_end().ends_with("= 0") { vec![Event::SyncDone(thread)] } else { Vec::new() };
    }
    let Some((name, arguments)) = call.split_once('(') else { return Vec::new() };
    let path = arguments.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(path, _)| unescape(path));
    let of_log = path.is_some_and(|path| path.ends_with(b"-wal"));
    let bytes = || arguments.split('"').nth(1).map(unescape).unwrap_or_default();
    match name {
        "fsync" | "fdatasync" if of_log => {
            let mut events = vec![Event::SyncBegins(thread)];
            if arguments.ends_with("<unfinished ...>") {
                names.insert(thread, true);
            } else if arguments.trim_end().ends_with("= 0") {
                events.push(Event::SyncDone(thread));
            }
            events
        }
        "pwrite64" if of_log => {
            let bytes = bytes();
            match bytes.len() {
                // Page number, size of the database after the commit (0 within a transaction), salts, checksums.
                24 => vec![Event::Frame { ends: bytes[4..8] != [0; 4] }],
                // The header of the file.
                32 => Vec::new(),
                _ => vec![Event::Page(bytes)],
            }
        }
        "pwritev" if of_log => panic!("SQLite writes in a way that this test does not understand: {line:.200}"),
        "write" if arguments.starts_with("1<") || arguments.starts_with("1,") => {
            let text = String::from_utf8(bytes()).unwrap_or_default();
            let answered =
                text.lines().filter_map(|line| line.split_once("answered ").and_then(|(_, said)| said.split_once(' ')));
            answered.map(|(kind, mark)| Event::Answered { kind: kind.into(), mark: mark.into() }).collect()
        }
        _ => Vec::new(),
    }
}

/// The number of results in the trace, and the kinds and marks of those that were returned before their sync.
#[derive(Debug, Default, PartialEq)]
struct Finding {
    answers: usize,
    too_early: Vec<(String, String)>,
}

fn check(trace: &str) -> Finding {
    let mut names = HashMap::new();
    let mut finding = Finding::default();
    // The marks of the transaction that is being written, and the number of the transaction of each mark.
    let mut open: BTreeSet<String> = BTreeSet::new();
    let mut ends = false;
    let mut transactions = 0usize;
    let mut written: HashMap<String, usize> = HashMap::new();
    let mut syncing: HashMap<u32, usize> = HashMap::new();
    let mut synced = 0usize;
    for event in trace.lines().flat_map(|line| event(line, &mut names)) {
        match event {
            Event::Frame { ends: last } => ends = last,
            Event::Page(bytes) => {
                open.extend(marks(&bytes));
                if std::mem::take(&mut ends) {
                    transactions += 1;
                    for mark in std::mem::take(&mut open) {
                        // Later transactions write the page with an earlier record again.
                        written.entry(mark).or_insert(transactions);
                    }
                }
            }
            Event::SyncBegins(thread) => drop(syncing.insert(thread, transactions)),
            Event::SyncDone(thread) => synced = synced.max(syncing.remove(&thread).unwrap_or(0)),
            Event::Answered { kind, mark } => {
                finding.answers += 1;
                if written.get(&mark).is_none_or(|transaction| *transaction > synced) {
                    finding.too_early.push((kind, mark));
                }
            }
        }
    }
    finding
}

/// The marks that a page contains.
fn marks(page: &[u8]) -> impl Iterator<Item = String> {
    let starts = page.windows(5).enumerate().filter(|(_, window)| *window == b"mark-").map(|(at, _)| at);
    starts
        .filter_map(|at| page.get(at..at + MARK))
        .filter_map(|mark| String::from_utf8(mark.to_vec()).ok())
        .filter(|mark| mark.ends_with('.'))
}

#[test]
fn every_result_is_returned_after_the_sync_of_its_record() {
    for child in ["child_process", "blocking_child_process"] {
        let Some(trace) = trace(child, AuditAck::Durable) else { return };
        all_are_in_order(&trace);
    }
}

/// Checks the order of syncs and results, and that the check detects faults.
fn all_are_in_order(trace: &str) {
    let all = TASKS * ROUNDS * OPERATIONS;
    assert_eq!(check(trace), Finding { answers: all, too_early: Vec::new() });

    // Without syncs, and with failed syncs, every result is too early.
    let is_sync = |line: &str| line.contains("sync(") || line.contains("sync resumed");
    let without: Vec<&str> = trace.lines().filter(|line| !is_sync(line)).collect();
    assert_eq!(check(&without.join("\n")).too_early.len(), all);
    let fail = |line: &str| line.replace("= 0", "= -1 EIO (Input/output error)");
    let failed: Vec<String> = trace.lines().map(|line| if is_sync(line) { fail(line) } else { line.into() }).collect();
    assert_eq!(check(&failed.join("\n")).too_early.len(), all);
    // If every sync is moved behind the next result, some results are too early.
    let (mut late, mut held) = (Vec::new(), Vec::new());
    for line in trace.lines() {
        if is_sync(line) {
            held.push(line);
            continue;
        }
        late.push(line);
        if line.contains("write(1") {
            late.append(&mut held);
        }
    }
    assert!(!check(&late.join("\n")).too_early.is_empty());
}

/// With `queued`, the trace must show that results of cryptographic operations are returned early, and changes are not.
#[test]
fn queued_results_are_early_and_changes_are_not() {
    let Some(trace) = trace("child_process", AuditAck::Queued) else { return };
    let finding = check(&trace);
    assert_eq!(finding.answers, TASKS * ROUNDS * OPERATIONS);
    assert!(finding.too_early.iter().any(|(kind, _)| kind == "use"), "no result was released early: {finding:?}");
    let changes: Vec<_> = finding.too_early.iter().filter(|(kind, _)| kind == "change").collect();
    assert!(changes.is_empty(), "{changes:?}");
}
