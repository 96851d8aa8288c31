//! The cost of the service's operations, each compared with its limit in the same run: `cargo bench -p kms-lib`. `--
//! --quick` runs a tenth of it, `-- durable` (or queued, blocking, signing, million) one part. Machines are noisy;
//! only the ratios are meaningful.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program that measures and prints")]

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use futures_util::TryStreamExt;
use kms_lib::SignatureAlgorithm::RsaPkcs1Sha256;
use kms_lib::{
    Actor, AuditAck, Config, Context, EncryptItem, KeyUpdate, Kms, NewKey, Role, SchedulerConfig, Session, SignItem,
};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, Row, SqliteConnection};

const ROUNDS: usize = 5;

#[tokio::main]
async fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let scale = if quick { 10 } else { 1 };
    println!("{:<44} {:>14} {:>14} {:>7}  aim", "operation", "ours", "limit", "ratio");
    let folder = tempfile::tempdir().unwrap();
    let chosen: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let wanted = |name: &str| chosen.is_empty() || chosen.iter().any(|chosen| chosen == name);
    if wanted("queued") {
        queued(folder.path(), scale).await;
    }
    if wanted("durable") {
        durable(folder.path(), scale).await;
    }
    if wanted("blocking") {
        let folder = folder.path().to_owned();
        std::thread::spawn(move || blocking(&folder, scale)).join().unwrap();
    }
    if wanted("signing") {
        signing(folder.path(), scale).await;
    }
    if wanted("million") {
        million(folder.path(), 1_000_000 / scale).await;
    }
}

fn report(name: &str, ours: f64, limit: f64, unit: &str, aim: &str) {
    println!("{name:<44} {:>14} {:>14} {:>6.2}x  {aim}", format(ours, unit), format(limit, unit), ours / limit);
}

fn format(value: f64, unit: &str) -> String {
    if value >= 1_000.0 { format!("{:.0} {unit}", value.round()) } else { format!("{value:.2} {unit}") }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn config(file: &Path, ack: AuditAck) -> Config {
    Config::new(format!("sqlite:{}", file.display()))
        .root_key_bytes([7; 32])
        .audit_ack(ack)
        .limits(65_536, 1 << 30)
        .scheduler(SchedulerConfig::disabled())
}

async fn open(file: &Path, ack: AuditAck) -> (Kms, Session) {
    let kms = Kms::open(config(file, ack)).await.unwrap();
    let session = kms.session(Actor::new("bench", Role::Admin).unwrap());
    session.create_key(NewKey::aes("aes")).await.unwrap();
    session.create_key(NewKey::rsa_signing("rsa")).await.unwrap();
    (kms, session)
}

/// Microseconds per operation in a burst that fits the queue, compared with the bare cipher.
async fn queued(folder: &Path, scale: usize) {
    let (kms, session) = open(&folder.join("queued.db"), AuditAck::Queued).await;
    let bare = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[1; 32]).unwrap());
    let random = SystemRandom::new();
    let none = Context::new();
    for (size, count) in [(256, 10_000), (1_024, 10_000), (65_536, 1_000)] {
        let plaintext = vec![0x5a; size];
        let count = count / scale;
        let (mut encrypt, mut decrypt, mut seal, mut unseal) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let mut last = Vec::new();
            for _ in 0..count {
                last = session.encrypt("aes", &plaintext, &none).await.unwrap().ciphertext;
            }
            encrypt.push(micros(begun, count));
            drain(&session).await;

            let begun = Instant::now();
            let mut sealed = Vec::new();
            let mut nonce = [0; 12];
            for _ in 0..count {
                random.fill(&mut nonce).unwrap();
                sealed = Vec::with_capacity(size + 16);
                sealed.extend_from_slice(&plaintext);
                bare.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed).unwrap();
                black_box(&sealed);
            }
            seal.push(micros(begun, count));

            let begun = Instant::now();
            for _ in 0..count {
                black_box(session.decrypt(&last, &none).await.unwrap());
            }
            decrypt.push(micros(begun, count));
            drain(&session).await;

            let begun = Instant::now();
            for _ in 0..count {
                let mut copy = sealed.clone();
                bare.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut copy).unwrap();
                black_box(&copy);
            }
            unseal.push(micros(begun, count));
        }
        let aim = if size == 256 { "4x" } else { "" };
        report(&format!("queued encrypt {size} B, 1 task"), median(encrypt), median(seal), "us", aim);
        report(&format!("queued decrypt {size} B, 1 task"), median(decrypt), median(unseal), "us", "");
    }
    kms.close().await.unwrap();
}

/// Waits until released results are written, by making a change that is written after them.
async fn drain(session: &Session) {
    let update = KeyUpdate::new().rotation_period_days(90);
    session.update_key("rsa", update).await.unwrap();
}

fn micros(begun: Instant, count: usize) -> f64 {
    begun.elapsed().as_secs_f64() * 1e6 / count as f64
}

/// Durable operations per second, compared with inserting the same rows directly.
async fn durable(folder: &Path, scale: usize) {
    let file = folder.join("durable.db");
    let (kms, session) = open(&file, AuditAck::Durable).await;
    let plaintext = vec![0x5a; 256];
    let (mut one, mut many, mut batch) = (Vec::new(), Vec::new(), Vec::new());
    let (mut bare_one, mut bare_64, mut bare_256) = (Vec::new(), Vec::new(), Vec::new());
    let items: Vec<EncryptItem<'_>> = (0..100).map(|_| EncryptItem::new("aes", &plaintext, Context::new())).collect();
    encrypt_by(&session, 64, 2_000, &plaintext).await;
    let rows = sample(&file).await;
    for round in 0..ROUNDS {
        one.push(encrypt_by(&session, 1, 2_000 / scale, &plaintext).await);
        bare_one.push(insert_bare(&folder.join(format!("bare-1-{round}.db")), &rows, 1, 2_000 / scale));
        many.push(encrypt_by(&session, 64, 60_000 / scale, &plaintext).await);
        bare_64.push(insert_bare(&folder.join(format!("bare-64-{round}.db")), &rows, 64, 60_000 / scale));
        bare_256.push(insert_bare(&folder.join(format!("bare-256-{round}.db")), &rows, 256, 60_000 / scale));
        let begun = Instant::now();
        let calls = 200 / scale;
        for _ in 0..calls {
            assert!(session.encrypt_batch(&items).await.unwrap().iter().all(Result::is_ok));
        }
        batch.push((calls * items.len()) as f64 / begun.elapsed().as_secs_f64());
    }
    let many = median(many);
    report("durable encrypt 256 B, 1 task", median(one), median(bare_one), "/s", "");
    report("durable encrypt, 64 tasks (rows by 64)", many, median(bare_64), "/s", "0.50x");
    report("durable encrypt, 64 tasks (rows by 256)", many, median(bare_256), "/s", "");
    report("durable encrypt, batches of 100, items", median(batch), many, "/s", "");
    let verified = session.verify_audit().await.unwrap();
    assert!(verified.ok);
    kms.close().await.unwrap();
}

async fn encrypt_by(session: &Session, tasks: usize, count: usize, plaintext: &[u8]) -> f64 {
    let begun = Instant::now();
    let tasks: Vec<_> = (0..tasks)
        .map(|_| {
            let (session, plaintext) = (session.clone(), plaintext.to_vec());
            let count = count / tasks;
            tokio::spawn(async move {
                let none = Context::new();
                for _ in 0..count {
                    session.encrypt("aes", &plaintext, &none).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

/// Durable operations per second of threads that call the blocking interface, compared with bare transactions of as
/// many rows.
fn blocking(folder: &Path, scale: usize) {
    let file = folder.join("blocking.db");
    let kms = kms_lib::blocking::Kms::open(config(&file, AuditAck::Durable)).unwrap();
    let session = kms.session(Actor::new("bench", Role::Admin).unwrap());
    session.create_key(NewKey::aes("aes")).unwrap();
    let plaintext = vec![0x5a; 256];
    let encrypt = |threads: usize, count: usize| {
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    for _ in 0..count / threads {
                        session.encrypt("aes", &plaintext, &Context::new()).unwrap();
                    }
                });
            }
        });
        count as f64 / begun.elapsed().as_secs_f64()
    };
    encrypt(64, 2_000);
    let rows = tokio::runtime::Runtime::new().unwrap().block_on(sample(&file));
    let (mut rates, mut bare) = ([const { Vec::new() }; 4], [const { Vec::new() }; 4]);
    let cases = [(1, 2_000), (2, 2_000), (8, 8_000), (64, 30_000)];
    for round in 0..ROUNDS {
        for (case, (threads, count)) in cases.into_iter().enumerate() {
            rates[case].push(encrypt(threads, count / scale));
            let file = folder.join(format!("bare-{round}-{threads}.db"));
            bare[case].push(insert_bare(&file, &rows, threads, count / scale));
        }
    }
    for ((threads, _), (rates, bare)) in cases.into_iter().zip(rates.into_iter().zip(bare)) {
        report(&format!("durable encrypt 256 B, {threads} blocking threads"), median(rates), median(bare), "/s", "");
    }
    assert!(session.verify_audit().unwrap().ok);
    kms.close().unwrap();
}

/// The values of one record.
type Sample = Vec<Option<Value>>;

#[derive(Clone)]
enum Value {
    Int(i64),
    Text(String),
    Ciphertext(Vec<u8>),
}

const COLUMNS: &str = "seq, timestamp, actor, role, action, status, request_id, key_id, key_version, details, \
                       hash, format";

async fn raw(file: &Path) -> SqliteConnection {
    SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(file)).await.unwrap()
}

/// Real records, to be inserted directly.
async fn sample(file: &Path) -> Vec<Sample> {
    let mut connection = raw(file).await;
    let sql = format!("SELECT {COLUMNS} FROM audit_logs WHERE action = 'ENCRYPT' LIMIT 1000");
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
    rows.iter()
        .map(|row| {
            (0..12)
                .map(|column| match column {
                    0 | 1 | 8 | 11 => row.get::<Option<i64>, _>(column).map(Value::Int),
                    7 | 10 => row.get::<Option<Vec<u8>>, _>(column).map(Value::Ciphertext),
                    _ => row.get::<Option<String>, _>(column).map(Value::Text),
                })
                .collect()
        })
        .collect()
}

/// Rows per second of a bare client that inserts the same rows into the same table, through the same library as the
/// service.
fn insert_bare(file: &Path, rows: &[Sample], transaction: usize, count: usize) -> f64 {
    let connection = rusqlite::Connection::open(file).unwrap();
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;
             CREATE TABLE audit_logs (seq INTEGER NOT NULL PRIMARY KEY, timestamp INTEGER NOT NULL,
             actor TEXT NOT NULL, role TEXT NOT NULL, action TEXT NOT NULL, status TEXT NOT NULL, request_id TEXT,
             key_id BLOB, key_version INTEGER, details TEXT, hash BLOB NOT NULL, format INTEGER NOT NULL)",
        )
        .unwrap();
    let by = transaction.min(64);
    let one = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let sql = format!("INSERT INTO audit_logs ({COLUMNS}) VALUES {one}{}", format!(", {one}").repeat(by - 1));
    let begun = Instant::now();
    let mut seq = 0i64;
    while seq < count as i64 {
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        for _ in 0..transaction.div_ceil(64) {
            let mut insert = connection.prepare_cached(&sql).unwrap();
            for place in 0..by {
                seq += 1;
                let row = &rows[usize::try_from(seq).unwrap() % rows.len()];
                insert.raw_bind_parameter(12 * place + 1, seq).unwrap();
                for (place, value) in (12 * place + 2..).zip(&row[1..]) {
                    match value {
                        None => insert.raw_bind_parameter(place, rusqlite::types::Null),
                        Some(Value::Int(n)) => insert.raw_bind_parameter(place, n),
                        Some(Value::Text(text)) => insert.raw_bind_parameter(place, text),
                        Some(Value::Ciphertext(bytes)) => insert.raw_bind_parameter(place, bytes),
                    }
                    .unwrap();
                }
            }
            insert.raw_execute().unwrap();
        }
        connection.execute_batch("COMMIT").unwrap();
    }
    let rate = seq as f64 / begun.elapsed().as_secs_f64();
    connection.close().unwrap();
    std::fs::remove_file(file).unwrap();
    rate
}

/// RSA-2048 signatures per second, compared with bare ones on one thread, and of batches on all threads.
async fn signing(folder: &Path, scale: usize) {
    let (kms, session) = open(&folder.join("signing.db"), AuditAck::Durable).await;
    let bare = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    assert!(!bare.public_key().as_ref().is_empty());
    let count = 2_000 / scale;
    let (mut one, mut eight, mut limit) = (Vec::new(), Vec::new(), Vec::new());
    let (mut batches, mut all) = ([Vec::new(), Vec::new()], Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for _ in 0..ROUNDS {
        for (tasks, rates) in [(1, &mut one), (8, &mut eight)] {
            let begun = Instant::now();
            let running: Vec<_> = (0..tasks)
                .map(|_| {
                    let session = session.clone();
                    tokio::spawn(async move {
                        for _ in 0..count / tasks {
                            session.sign("rsa", b"payload", RsaPkcs1Sha256).await.unwrap();
                        }
                    })
                })
                .collect();
            for task in running {
                task.await.unwrap();
            }
            rates.push(count as f64 / begun.elapsed().as_secs_f64());
        }
        for (size, rates) in [8, 100].into_iter().zip(&mut batches) {
            let items: Vec<_> = (0..size).map(|_| SignItem::new("rsa", b"payload", RsaPkcs1Sha256)).collect();
            let begun = Instant::now();
            for _ in 0..count / size {
                assert!(session.sign_batch(&items).await.unwrap().iter().all(Result::is_ok));
            }
            rates.push((count / size * size) as f64 / begun.elapsed().as_secs_f64());
        }
        limit.push(sign_bare(&bare, 1, count));
        all.push(sign_bare(&bare, threads, count));
    }
    let (limit, all) = (median(limit), median(all));
    report("durable sign RSA-2048, 1 task", median(one), limit, "/s", "");
    report("durable sign RSA-2048, 8 tasks (limit: 1 core)", median(eight), limit, "/s", "");
    let [small, large] = batches.map(median);
    report("durable sign, batches of 8 (limit: all cores)", small, all, "/s", "");
    report("durable sign, batches of 100 (all cores)", large, all, "/s", "0.90x");
    kms.close().await.unwrap();
}

/// Bare signatures per second on this number of threads.
fn sign_bare(key: &RsaKeyPair, threads: usize, count: usize) -> f64 {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut signature = vec![0; key.public_modulus_len()];
                for _ in 0..count / threads {
                    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), b"payload", &mut signature).unwrap();
                }
            });
        }
    });
    count as f64 / begun.elapsed().as_secs_f64()
}

/// A long log: verifying it compared with a bare scan of its rows, and its metrics compared with those of a short one.
async fn million(folder: &Path, records: usize) {
    let file = folder.join("million.db");
    let (kms, session) = open(&file, AuditAck::Queued).await;
    let mut short = Vec::new();
    for _ in 0..ROUNDS * 20 {
        let begun = Instant::now();
        black_box(session.metrics().await.unwrap());
        short.push(micros(begun, 1));
    }
    let built = encrypt_by(&session, 64, records, &[0x5a; 16]).await;
    drain(&session).await;
    println!("{:<44} {:>14}", format!("building a log of {records} records"), format(built, "/s"));
    let (mut verify, mut scan) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let begun = Instant::now();
        let report = session.verify_audit().await.unwrap();
        assert!(report.ok, "{:?}", report.faults);
        verify.push(report.size as f64 / begun.elapsed().as_secs_f64());
        scan.push(scan_bare(&file).await);
    }
    report("verify a long log, records", median(verify), median(scan), "/s", "0.50x");
    let mut long = Vec::new();
    for _ in 0..ROUNDS * 20 {
        let begun = Instant::now();
        black_box(session.metrics().await.unwrap());
        long.push(micros(begun, 1));
    }
    report("metrics with a long log (limit: a short one)", median(long), median(short), "us", "1x");
    let begun = Instant::now();
    let incremental = session.verify_audit_incrementally().await.unwrap();
    assert!(incremental.ok && incremental.from > 0);
    println!("{:<44} {:>14}", "incremental verification", format(millis(begun.elapsed()), "ms"));
    kms.close().await.unwrap();
}

fn millis(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() * 1e3
}

async fn scan_bare(file: &Path) -> f64 {
    let mut connection = raw(file).await;
    let sql = format!("SELECT {COLUMNS} FROM audit_logs ORDER BY seq");
    let begun = Instant::now();
    let mut count = 0u64;
    let mut rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch(&mut connection);
    while let Some(row) = rows.try_next().await.unwrap() {
        for column in 0..12 {
            match column {
                0 | 1 | 8 | 11 => drop(black_box(row.get::<Option<i64>, _>(column))),
                7 | 10 => drop(black_box(row.get::<Option<Vec<u8>>, _>(column))),
                _ => drop(black_box(row.get::<Option<String>, _>(column))),
            }
        }
        count += 1;
    }
    drop(rows);
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    connection.close().await.unwrap();
    rate
}
