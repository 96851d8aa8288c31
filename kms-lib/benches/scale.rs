//! The cost of operations with a short and with a long history: `cargo bench -p kms-lib --bench scale`. `-- --full`
//! uses the largest sizes, `-- grants` (or keys, versions, opening, log, commit, servers, opening-servers) runs one
//! part. Machines are noisy; only the ratios are meaningful, and the CPU time of opening a store.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program that measures and prints")]

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kms_lib::{
    Actor, AuditQuery, Config, Context, GrantFilter, KeyFilter, Kms, NewGrant, NewKey, Paging, Permission, Role,
    SchedulerConfig, Session,
};
use kms_test_support::{MariaDb, Postgres, Server};

/// The number of operations that are measured for one figure.
const MEASURED: usize = 200;

/// Names the store that a process started by this program opens, and nothing else.
const OPENED: &str = "KMS_BENCH_OPENED";

/// The sizes of a run.
struct Sizes {
    grants: usize,
    keys: usize,
    versions: u32,
    /// Versions of each key of a store that is opened, so that it has as many times the versions.
    versions_each: u32,
    records: usize,
}

#[tokio::main]
async fn main() {
    if let Ok(url) = std::env::var(OPENED) {
        return opened(&url).await;
    }
    let is_full = std::env::args().any(|arg| arg == "--full");
    let sizes = match is_full {
        true => Sizes { grants: 100_000, keys: 100_000, versions: 100_000, versions_each: 10, records: 1_000_000 },
        false => Sizes { grants: 10_000, keys: 10_000, versions: 5_000, versions_each: 3, records: 100_000 },
    };
    let chosen: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let wanted = |name: &str| chosen.is_empty() || chosen.iter().any(|chosen| chosen == name);
    let folder = tempfile::tempdir().unwrap();
    println!("{:<58} {:>13} {:>13} {:>8}", "operation", "much", "little", "ratio");
    if wanted("grants") {
        grants(&url(folder.path(), "grants"), sizes.grants).await;
    }
    if wanted("keys") {
        keys(&url(folder.path(), "keys"), &url(folder.path(), "few"), sizes.keys).await;
    }
    if wanted("versions") {
        versions(&url(folder.path(), "versions"), sizes.versions).await;
    }
    if wanted("opening") {
        opening(&url(folder.path(), "opening"), sizes.keys, sizes.versions_each).await;
    }
    if wanted("log") {
        log(&url(folder.path(), "log"), sizes.records).await;
    }
    if wanted("commit") {
        commit(folder.path()).await;
    }
    if wanted("servers") {
        if let Some(server) = MariaDb::try_new(&[]) {
            on_server("MariaDB", &server, &sizes).await;
        }
        if let Some(server) = Postgres::try_new(&[]) {
            on_server("PostgreSQL", &server, &sizes).await;
        }
    }
    if wanted("opening-servers") {
        if let Some(server) = MariaDb::try_new(&[]) {
            println!("MariaDB");
            opening(&server.create_database(), sizes.keys, 1).await;
        }
        if let Some(server) = Postgres::try_new(&[]) {
            println!("PostgreSQL");
            opening(&server.create_database(), sizes.keys, 1).await;
        }
    }
}

/// The same on a database server with a tenth of the sizes, since building takes longer there.
async fn on_server(name: &str, server: &dyn Server, sizes: &Sizes) {
    println!("{name}");
    grants(&server.create_database(), sizes.grants / 10).await;
    keys(&server.create_database(), &server.create_database(), sizes.keys / 10).await;
    versions(&server.create_database(), sizes.versions / 10).await;
}

fn url(folder: &Path, name: &str) -> String {
    format!("sqlite:{}", folder.join(format!("{name}.db")).display())
}

fn report(name: &str, much: f64, little: f64, unit: &str) {
    println!("{name:<58} {:>13} {:>13} {:>7.2}x", format(much, unit), format(little, unit), much / little);
}

fn format(value: f64, unit: &str) -> String {
    if value >= 1_000.0 { format!("{value:.0} {unit}") } else { format!("{value:.2} {unit}") }
}

fn micros(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() * 1e6
}

async fn open(url: &str) -> Kms {
    let config = Config::new(url).root_key_bytes([7; 32]).limits(65_536, 1 << 30).deletion_wait(0, 0);
    Kms::open(config.scheduler(SchedulerConfig::disabled())).await.unwrap()
}

fn admin(kms: &Kms) -> Session {
    kms.session(Actor::new("alice", Role::Admin).unwrap())
}

fn app(kms: &Kms, principal: &str) -> Session {
    kms.session(Actor::new(principal, Role::App).unwrap())
}

/// Runs `count` futures, 256 at a time.
async fn many<F: Future>(count: usize, each: impl Fn(usize) -> F) {
    let mut running = FuturesUnordered::new();
    for n in 0..count {
        running.push(each(n));
        if running.len() >= 256 {
            running.next().await;
        }
    }
    while running.next().await.is_some() {}
}

/// The median times of two operations that alternate, in microseconds.
async fn beside(count: usize, one: impl AsyncFn(), other: impl AsyncFn()) -> (f64, f64) {
    let (mut ones, mut others) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let begun = Instant::now();
        one().await;
        ones.push(micros(begun.elapsed()));
        let begun = Instant::now();
        other().await;
        others.push(micros(begun.elapsed()));
    }
    (median(ones), median(others))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A caller with many grants compared with a caller with one; pages of lists of grants.
async fn grants(url: &str, count: usize) {
    let kms = open(url).await;
    let session = admin(&kms);
    let ids: Vec<_> = futures_util::stream::iter(0..count)
        .map(|n| {
            let session = session.clone();
            async move { session.create_key(NewKey::aes(format!("key-{n:06}"))).await.unwrap().id }
        })
        .buffer_unordered(256)
        .collect()
        .await;
    let allowed = [Permission::Encrypt, Permission::Read];
    let on = |principal: &str, key| NewGrant::new(principal, Role::App).on_key(key).allow(allowed);
    many(count, |n| session.put_grant(on("many", ids[n]))).await;
    session.put_grant(on("one", ids[0])).await.unwrap();
    let (many, one) = (app(&kms, "many"), app(&kms, "one"));
    let none = Context::new();
    // Decides and reads one row, without waiting for a commit.
    let read = async |session: &Session| drop(session.get_version(ids[0], 1).await.unwrap());
    let (much, little) = beside(MEASURED, async || read(&many).await, async || read(&one).await).await;
    report(&format!("read a version, caller with {count} grants beside one"), much, little, "us");
    let malformed = async |session: &Session| drop(session.decrypt(b"malformed", &none).await.unwrap_err());
    let (much, little) = beside(MEASURED, async || malformed(&many).await, async || malformed(&one).await).await;
    report(&format!("malformed ciphertext, {count} grants beside one"), much, little, "us");
    let (all, of_one) = (GrantFilter::new(), GrantFilter::new().principal("one"));
    let list = async |filter: &GrantFilter| drop(session.list_grants(filter, &Paging::new(1)).await.unwrap());
    let (much, little) = beside(MEASURED, async || list(&all).await, async || list(&of_one).await).await;
    report(&format!("first of {count} grants beside the only one of a caller"), much, little, "us");
    let listed = async |session: &Session| drop(session.list_keys(&KeyFilter::new(), &Paging::new(100)).await.unwrap());
    let (much, little) = beside(MEASURED, async || listed(&many).await, async || listed(&session).await).await;
    report(&format!("100 keys of {count} granted ones beside an admin's page"), much, little, "us");
    kms.close().await.unwrap();
}

/// Opening, metrics and pages of a store with many keys, compared with a store with one.
async fn keys(url: &str, few_url: &str, count: usize) {
    let few = open(few_url).await;
    let little = admin(&few);
    little.create_key(NewKey::aes("key")).await.unwrap();
    let kms = open(url).await;
    let session = admin(&kms);
    many(count, |n| session.create_key(NewKey::aes(format!("key-{n:06}")))).await;
    for name in ["metrics", "a page of 1 key"] {
        let work = async |session: &Session| match name {
            "metrics" => drop(session.metrics().await.unwrap()),
            _ => drop(session.list_keys(&KeyFilter::new(), &Paging::new(1)).await.unwrap()),
        };
        let (many, one) = beside(MEASURED, async || work(&session).await, async || work(&little).await).await;
        report(&format!("{name}, {count} keys beside 1"), many, one, "us");
    }
    drop(little);
    few.close().await.unwrap();
    kms.close().await.unwrap();
    let (mut many, mut one) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        for (url, times) in [(url, &mut many), (few_url, &mut one)] {
            let begun = Instant::now();
            let kms = open(url).await;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
            kms.close().await.unwrap();
        }
    }
    report(&format!("open a store of {count} keys beside one of 1"), median(many), median(one), "ms");
    open_elsewhere("1 key", few_url);
    open_elsewhere(&format!("{count} keys"), url);
}

/// Opening a store with many keys, first with a version each, then with several.
async fn opening(url: &str, keys: usize, versions: u32) {
    let kms = open(url).await;
    let session = admin(&kms);
    many(keys, |n| session.create_key(NewKey::aes(format!("key-{n:06}")))).await;
    kms.close().await.unwrap();
    open_elsewhere(&format!("{keys} keys with a version each"), url);
    if versions == 1 {
        return;
    }
    let kms = open(url).await;
    let session = admin(&kms);
    for _ in 1..versions {
        many(keys, |n| session.rotate_key(format!("key-{n:06}"), None)).await;
    }
    kms.close().await.unwrap();
    open_elsewhere(&format!("{keys} keys with {versions} versions each"), url);
}

/// Opens a store and prints the time, the CPU time of all threads and the peak of the memory.
async fn opened(url: &str) {
    let begun = Instant::now();
    let kms = open(url).await;
    println!("{:.0} ms, {} ms of CPU time, {}", begun.elapsed().as_secs_f64() * 1e3, cpu_time(), peak());
    kms.close().await.unwrap();
}

/// The CPU time that the process has used, in milliseconds, where the kernel reports it.
fn cpu_time() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The numbers after the name of the program; user and system time are in hundredths of a second.
    let times = stat.rsplit(')').next().unwrap_or_default().split(' ').skip(12).take(2);
    times.map(|ticks| ticks.parse::<u64>().unwrap_or_default() * 10).sum()
}

/// Opens a store in a process of its own.
fn open_elsewhere(what: &str, url: &str) {
    let program = std::env::current_exe().unwrap();
    let output = std::process::Command::new(program).env(OPENED, url).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("{:<58} {}", format!("open {what} in a process"), String::from_utf8_lossy(&output.stdout).trim());
}

/// The peak of the resident memory, where the kernel reports it.
fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or_else(|| "unknown".to_owned(), |line| line.trim().to_owned())
}

/// A key with many versions compared with keys with one.
async fn versions(url: &str, count: u32) {
    let kms = open(url).await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("many")).await.unwrap();
    many(count as usize / 2 - 1, |_| session.rotate_key("many", None)).await;
    let one = async |n: usize| session.create_key(NewKey::aes(format!("one-{n}"))).await.unwrap().id;
    let (mut rotated, mut beside) = (Vec::new(), Vec::new());
    for n in 0..20 {
        let key = one(n).await;
        let begun = Instant::now();
        session.rotate_key("many", None).await.unwrap();
        rotated.push(micros(begun.elapsed()));
        let begun = Instant::now();
        session.rotate_key(key, None).await.unwrap();
        beside.push(micros(begun.elapsed()));
    }
    report(&format!("rotate with {} versions beside 1", count / 2), median(rotated), median(beside), "us");
    let made = session.get_key("many").await.unwrap().current_version;
    many(count.saturating_sub(made) as usize, |_| session.rotate_key("many", None)).await;
    let key = one(20).await;
    let begun = Instant::now();
    session.revoke_key("many").await.unwrap();
    let much = micros(begun.elapsed());
    let begun = Instant::now();
    session.revoke_key(key).await.unwrap();
    report(&format!("revoke a key with {count} versions beside 1"), much, micros(begun.elapsed()), "us");
    kms.close().await.unwrap();
    open_elsewhere(&format!("{count} versions of a key"), url);
    let kms = open(url).await;
    let session = admin(&kms);
    let (mut much, mut little) = (0.0, 0.0);
    for (id, took) in [(session.get_key("many").await.unwrap().id, &mut much), (key, &mut little)] {
        session.schedule_deletion(id, Some(0)).await.unwrap();
        let begun = Instant::now();
        assert_eq!(kms.run_scheduler().await.unwrap().destroyed, [id]);
        *took = micros(begun.elapsed());
    }
    report(&format!("destroy a key with {count} versions, in steps, beside 1"), much, little, "us");
    kms.close().await.unwrap();
}

/// A log with many records: a filter that matches nothing, compared with the newest record; and verification.
async fn log(url: &str, count: usize) {
    let kms = open(url).await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("aes")).await.unwrap();
    let none = Context::new();
    many(count, |_| session.encrypt("aes", b"x", &none)).await;
    let (missing, all) = (AuditQuery::new().request_id("no such request"), AuditQuery::new());
    let list = async |query: &AuditQuery| drop(session.list_audit(query, &Paging::new(1)).await.unwrap());
    let (much, little) = beside(5, async || list(&missing).await, async || list(&all).await).await;
    report(&format!("a filter that none of {count} records passes"), much, little, "us");
    let begun = Instant::now();
    let verified = session.verify_audit().await.unwrap();
    assert!(verified.ok);
    let rate = verified.size as f64 / begun.elapsed().as_secs_f64();
    println!("{:<58} {:>13}", format!("verification of {count} records"), format(rate, "/s"));
    kms.close().await.unwrap();
}

/// The number of pages that a commit of one record writes, and its duration.
async fn commit(folder: &Path) {
    let url = url(folder, "commit");
    let kms = open(&url).await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("aes")).await.unwrap();
    let none = Context::new();
    let wal = folder.join("commit.db-wal");
    let mut took = Vec::new();
    let mut grown = Vec::new();
    for _ in 0..MEASURED {
        let before = std::fs::metadata(&wal).unwrap().len();
        let begun = Instant::now();
        session.encrypt("aes", b"x", &none).await.unwrap();
        took.push(micros(begun.elapsed()));
        grown.push(std::fs::metadata(&wal).unwrap().len().saturating_sub(before) as f64 / 4_120.0);
    }
    println!("{:<58} {:>13}", "pages of a commit of one record", format(median(grown), "pages"));
    println!("{:<58} {:>13}", "time of a commit of one record", format(median(took), "us"));
    many(20_000, |_| session.encrypt("aes", b"x", &none)).await;
    kms.close().await.unwrap();
    let bytes = std::fs::metadata(folder.join("commit.db")).unwrap().len() as f64;
    println!("{:<58} {:>13}", "bytes of the store for each of 20,000 records", format(bytes / 20_000.0, "B"));
}
