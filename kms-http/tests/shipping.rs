//! Tests of exports of the log: followed, resumed, and verified without the store and the root key.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail by a panic, and says figures")]

mod common;

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Server, program, stdout};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Verifies exports without a home directory, a store or a root key.
fn verify(files: &[&Path], key: &str) -> (Option<i32>, Value) {
    let nowhere = TempDir::new().unwrap();
    let mut command = program(&nowhere);
    command.env_remove("HOME").args(["--json", "audit", "verify", "--pinned-key", key.trim()]);
    for file in files {
        command.arg("--file").arg(file);
    }
    let output = command.output().unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    (output.status.code(), report)
}

#[track_caller]
fn assert_good(files: &[&Path], key: &str) -> u64 {
    let (code, report) = verify(files, key);
    assert_eq!((code, &report["ok"]), (Some(0), &json!(true)), "{report}");
    assert_eq!(report["signed"], report["size"]);
    report["size"].as_u64().unwrap()
}

#[track_caller]
fn assert_bad(files: &[&Path], key: &str, kind: &str) {
    let (code, report) = verify(files, key);
    assert_eq!((code, &report["faults"][0]["kind"]), (Some(4), &json!(kind)), "{report}");
}

fn records(file: &Path) -> Vec<u64> {
    let text = fs::read_to_string(file).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}")));
    lines.filter_map(|line| line["seq"].as_u64()).collect()
}

async fn wait_for(file: &Path, seq: u64) {
    for _ in 0..1200 {
        let text = fs::read_to_string(file).unwrap_or_default();
        if text.lines().any(|line| line.starts_with(&format!("{{\"seq\":{seq},"))) && text.ends_with('\n') {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("record {seq} is not exported: {:?}", records(file));
}

/// A running `--follow` export; killed when dropped.
struct Follower(Child);

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn follow(server: &Server, file: &Path) -> Follower {
    let mut command = program(&server.home);
    command.args(["audit", "export", "--follow", "--resume", "--output"]).arg(file);
    Follower(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
}

#[tokio::test]
async fn an_export_is_verified_without_store_and_root_key() {
    let server = Server::start_on_file(&[]);
    let admin = server.client();
    admin.aes_key("users").await;
    let first_key = stdout(&server.command(&["audit", "public-key"]));
    admin.encrypt(5).await;
    let second_key = stdout(&server.command(&["audit", "rotate-key"]));
    admin.encrypt(5).await;
    let third_key = stdout(&server.command(&["audit", "rotate-key"]));
    admin.encrypt(5).await;
    let home = server.home.path();
    let export = |name: &str, arguments: &[&str]| -> PathBuf {
        let file = home.join(name);
        stdout(&server.command(&[&["audit", "export", "--output", file.to_str().unwrap()], arguments].concat()));
        file
    };
    let all = export("all", &[]);
    // Each of the keys works, including those that no longer sign.
    for key in [&first_key, &second_key, &third_key] {
        assert_eq!(assert_good(&[&all], key) as usize, records(&all).len());
    }
    // Several files, which together begin with the first record.
    let middle = records(&all)[5];
    let rest = export("rest", &["--since", &middle.to_string()]);
    assert_eq!(records(&rest)[0], middle);
    assert_bad(&[&rest], &first_key, "gap");
    let text = fs::read_to_string(&all).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let begins = |line: &&&str| !line.starts_with(&format!("{{\"seq\":{middle},"));
    let head = home.join("head");
    fs::write(&head, lines.iter().take_while(begins).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    assert_good(&[&head, &rest], &first_key);

    let altered = home.join("altered");
    let with = |lines: Vec<String>| fs::write(&altered, lines.join("\n") + "\n").unwrap();
    let owned = || lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    let is_note = |line: &String| line.starts_with("{\"checkpoint\"");
    // Every field of a record is verified, and no other fields exist.
    let record: Value = serde_json::from_str(lines[3]).unwrap();
    for (name, value) in record.as_object().unwrap() {
        let mut changed = record.clone();
        changed[name] = match value {
            Value::Number(number) => json!(number.as_u64().unwrap() + 1),
            Value::String(text) if name == "timestamp" => json!(text.replace("20", "21")),
            Value::String(text) => json!(format!("{text}x")),
            Value::Null => json!("x"),
            _ => json!({"a": 1}),
        };
        let mut lines = owned();
        lines[3] = changed.to_string();
        with(lines);
        let (code, report) = verify(&[&altered], &third_key);
        assert_eq!(code, Some(4), "{name}: {report}");
    }
    let mut more = owned();
    more[3] = more[3].replacen('{', "{\"severity\":\"low\",", 1);
    with(more);
    assert_bad(&[&altered], &third_key, "unreadable");
    // Records missing in the middle, at the end or everywhere, and checkpoints without the records they cover.
    for (at, kind) in [(3, "gap"), (0, "gap")] {
        let mut lines = owned();
        lines.remove(at);
        with(lines);
        assert_bad(&[&altered], &third_key, kind);
    }
    let mut cut = owned();
    let last = cut.iter().rposition(|line| !is_note(line)).unwrap();
    cut.remove(last);
    with(cut);
    let (code, report) = verify(&[&altered], &third_key);
    assert_eq!(code, Some(4), "{report}");
    with(owned().into_iter().filter(|line| !is_note(line)).collect());
    assert_bad(&[&altered], &third_key, "badSignature");
    with(Vec::new());
    assert_eq!(verify(&[&altered], &third_key).0, Some(4));
    // Records after the last checkpoint, which an attacker could have appended.
    let mut uncovered = owned();
    let last = uncovered.iter().rposition(is_note).unwrap();
    uncovered.truncate(last);
    with(uncovered);
    let (code, report) = verify(&[&altered], &third_key);
    assert_eq!(code, Some(4), "{report}");
    // Without the checkpoints signed by two keys, no chain leads from the first key to the others.
    let last = owned().iter().rposition(is_note).unwrap();
    with(owned().into_iter().enumerate().filter(|(at, line)| *at == last || !is_note(line)).map(|(_, l)| l).collect());
    assert_good(&[&altered], &third_key);
    assert_bad(&[&altered], &first_key, "signingKey");
    // The key of another log.
    let other = Server::start_on_file(&[]);
    let (code, report) = verify(&[&all], &stdout(&other.command(&["audit", "public-key"])));
    assert_eq!(code, Some(4), "{report}");
}

#[tokio::test]
async fn following_survives_an_outage_and_a_kill() {
    let server = Server::start_on_file(&[]);
    let admin = server.client();
    admin.aes_key("users").await;
    let key = stdout(&server.command(&["audit", "public-key"]));
    let file = server.home.path().join("shipped.jsonl");
    let mut follower = follow(&server, &file);
    admin.encrypt(20).await;
    wait_for(&file, admin.log_size().await).await;
    // The store disappears and comes back.
    let (store, away) = (server.store(), server.home.path().join("away"));
    let folder = store.parent().unwrap();
    fs::rename(folder, &away).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    fs::rename(&away, folder).unwrap();
    for _ in 0..600 {
        if admin.get("/v1/readyz").await.status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    admin.encrypt(20).await;
    wait_for(&file, admin.log_size().await).await;
    assert!(follower.0.try_wait().unwrap().is_none(), "it goes on");
    // The export is killed while its last line is incomplete.
    follower.0.kill().unwrap();
    follower.0.wait().unwrap();
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, &text[..text.len() - text.lines().last().unwrap().len() / 2]).unwrap();
    admin.encrypt(20).await;
    let mut follower = follow(&server, &file);
    wait_for(&file, admin.log_size().await).await;
    let stopped = Command::new("kill").args(["-TERM", &follower.0.id().to_string()]).status().unwrap();
    assert!(stopped.success() && follower.0.wait().unwrap().success());
    let seqs = records(&file);
    assert!(seqs.iter().copied().eq(1..=seqs.len() as u64), "no gaps and nothing twice: {seqs:?}");
    assert_eq!(assert_good(&[&file], &key), seqs.len() as u64);
    // A file that is not an export is not changed.
    let other = server.home.path().join("other.txt");
    fs::write(&other, "not an export\n").unwrap();
    let refused = server.command(&["audit", "export", "--resume", "--output", other.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert_eq!(fs::read_to_string(&other).unwrap(), "not an export\n");
}

/// The sequence number of the last complete record of an export, read from the end of the file.
fn last(file: &Path) -> u64 {
    let Ok(mut file) = fs::File::open(file) else { return 0 };
    let length = file.metadata().unwrap().len();
    file.seek(SeekFrom::Start(length.saturating_sub(256 * 1024))).unwrap();
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).unwrap();
    let tail = String::from_utf8_lossy(&tail);
    let whole = tail.rfind('\n').map_or("", |end| &tail[..end]);
    let seq = |line: &str| line.strip_prefix("{\"seq\":")?.split_once(',')?.0.parse().ok();
    whole.lines().rev().find_map(seq).unwrap_or_default()
}

/// Runs for ten minutes in the long suites: the log grows as fast as callers can make it, and the export lags by no
/// more than the records of the last seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn following_keeps_up_with_the_full_rate() {
    let is_full = std::env::var("KMS_TEST_MODE").is_ok_and(|mode| mode == "full");
    let (seconds, behind) = if is_full { (600, 10) } else { (10, 5) };
    let server = Server::start_on_file(&[]);
    let admin = server.client();
    admin.aes_key("users").await;
    let key = stdout(&server.command(&["audit", "public-key"]));
    let file = server.home.path().join("shipped.jsonl");
    let mut follower = follow(&server, &file);
    let is_over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..32)
        .map(|_| {
            let (admin, is_over) = (admin.clone(), Arc::clone(&is_over));
            tokio::spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    admin.encrypt(1).await;
                }
            })
        })
        .collect();
    let (mut sizes, mut most) = (Vec::new(), 0);
    for second in 0..seconds {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let exported = last(&file);
        sizes.push(admin.log_size().await);
        most = most.max(sizes[second] - exported);
        let wanted = second.checked_sub(behind).map_or(0, |before| sizes[before]);
        assert!(exported >= wanted, "after {second} s: {exported} of {wanted} records, {sizes:?}");
    }
    is_over.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    let size = admin.log_size().await;
    for _ in 0..1200 {
        if last(&file) >= size {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let stopped = Command::new("kill").args(["-TERM", &follower.0.id().to_string()]).status().unwrap();
    assert!(stopped.success() && follower.0.wait().unwrap().success());
    eprintln!("{size} records in {seconds} s, {} a second; at most {most} behind", size / seconds as u64);
    assert_eq!(assert_good(&[&file], &key), size);
}
