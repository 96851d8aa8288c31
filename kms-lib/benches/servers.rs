//! The cost of the service on database servers, compared with a bare client that inserts the same rows on the same
//! server, and with several nodes: `cargo bench -p kms-lib --bench servers`, or with `-- --quick` a part of it. It
//! starts private servers of the installed engines. Machines are noisy; only the ratios are meaningful.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program that measures and prints")]

use kms_lib::{Actor, Config, Context, Kms, NewKey, Role, SchedulerConfig, Session};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kms_test_support::{Galera, MariaDb, Postgres, Server};
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, PgConnection};

const COLUMNS: &str = "seq, timestamp, actor, role, action, status, request_id, key_id, key_version, details, \
                       hash, format";
const NODE: &str = "KMS_BENCH_NODE_URL";
const SECONDS: &str = "KMS_BENCH_NODE_SECONDS";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Ok(url) = std::env::var(NODE) {
        let seconds = std::env::var(SECONDS).unwrap().parse().unwrap();
        return runtime.block_on(node(&url, Duration::from_secs(seconds)));
    }
    let quick = std::env::args().any(|arg| arg == "--quick");
    println!("{:<52} {:>12} {:>12} {:>7}  aim", "operation", "ours", "beside", "ratio");
    if let Some(server) = MariaDb::try_new(&[]) {
        runtime.block_on(engine("mariadb", &server, quick));
    }
    if let Some(server) = Postgres::try_new(&[]) {
        runtime.block_on(engine("postgres", &server, quick));
    }
    if let Some(cluster) = Galera::try_new(3) {
        let urls = cluster.create_database();
        runtime.block_on(async { drop(open(&urls[0]).await) });
        nodes("galera", &urls, quick);
    }
}

fn report(name: &str, ours: f64, beside: f64, aim: &str) {
    println!("{name:<52} {ours:>10.0}/s {beside:>10.0}/s {:>6.2}x  {aim}", ours / beside);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn open(url: &str) -> Session {
    let config = Config::new(url).root_key_bytes([7; 32]).scheduler(SchedulerConfig::disabled());
    let kms = Kms::open(config).await.unwrap();
    let session = kms.session(Actor::new("bench", Role::Admin).unwrap());
    if session.get_key("aes").await.is_err() {
        session.create_key(NewKey::aes("aes")).await.unwrap();
    }
    session
}

/// Operations per second of this number of tasks.
async fn encrypt(session: &Session, tasks: usize, time: Duration) -> f64 {
    let begun = Instant::now();
    let running: Vec<_> = (0..tasks)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move {
                let (none, mut count) = (Context::new(), 0u64);
                while begun.elapsed() < time {
                    session.encrypt("aes", &[0x5a; 256], &none).await.unwrap();
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut count = 0;
    for task in running {
        count += task.await.unwrap();
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

async fn engine(name: &str, server: &dyn Server, quick: bool) {
    let url = server.create_database();
    let session = open(&url).await;
    let (rounds, time) = if quick { (1, Duration::from_secs(1)) } else { (5, Duration::from_secs(3)) };
    encrypt(&session, 64, time).await;
    let mut ours = [1, 16, 64].map(|tasks| (tasks, Vec::new()));
    let mut bare = [1, 64].map(|rows| (rows, Vec::new()));
    for _ in 0..rounds {
        for (tasks, rates) in &mut ours {
            rates.push(encrypt(&session, *tasks, time).await);
        }
        for (rows, rates) in &mut bare {
            rates.push(if name == "mariadb" {
                mysql(&url, *rows, time).await
            } else {
                postgres(&url, *rows, time).await
            });
        }
    }
    let [one, batched] = bare.map(|(_, rates)| median(rates));
    let [(_, alone), (_, some), (_, many)] = ours;
    report(&format!("{name}: 1 task (bare: transactions of 1 row)"), median(alone), one, "");
    report(&format!("{name}: 16 tasks (bare: 64 rows)"), median(some), batched, "");
    report(&format!("{name}: 64 tasks (bare: 64 rows)"), median(many), batched, "0.60x");
    nodes(name, &[url.clone(), url.clone(), url], quick);
}

/// One, two and three nodes, each in its own process: the total rate, and the share of the slowest node.
fn nodes(name: &str, urls: &[String], quick: bool) {
    let (rounds, seconds) = if quick { (1, "1") } else { (3, "4") };
    let mut rates = [Vec::new(), Vec::new(), Vec::new()];
    let mut least = [1.0f64; 3];
    for _ in 0..rounds {
        for (at, rates) in rates.iter_mut().enumerate() {
            let running: Vec<_> = urls[..=at]
                .iter()
                .map(|url| {
                    let mut command = Command::new(std::env::current_exe().unwrap());
                    command.env(NODE, url).env(SECONDS, seconds).stdout(Stdio::piped());
                    command.spawn().unwrap()
                })
                .collect();
            let each: Vec<f64> = running
                .into_iter()
                .map(|child| {
                    let output = child.wait_with_output().unwrap();
                    assert!(output.status.success());
                    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
                })
                .collect();
            let sum: f64 = each.iter().sum();
            let slowest = each.iter().copied().fold(f64::INFINITY, f64::min);
            least[at] = least[at].min(slowest * each.len() as f64 / sum);
            rates.push(sum);
        }
    }
    let [one, two, three] = rates.map(median);
    report(&format!("{name}: 2 nodes (slowest gets {:.2} of its part)", least[1]), two, one, "");
    report(&format!("{name}: 3 nodes (slowest gets {:.2} of its part)", least[2]), three, one, "0.90x");
}

async fn node(url: &str, time: Duration) {
    let session = open(url).await;
    // The other nodes need a moment to start too.
    encrypt(&session, 64, time / 4).await;
    println!("{}", encrypt(&session, 64, time).await);
}

/// Rows per second of a bare client that inserts copies of real records into a table like theirs.
macro_rules! bare {
    ($name:ident, $connection:ty, $copy:literal, $mark:expr) => {
        async fn $name(url: &str, rows: usize, time: Duration) -> f64 {
            let mut connection = <$connection>::connect(url).await.unwrap();
            sqlx::raw_sql("DROP TABLE IF EXISTS bare").execute(&mut connection).await.unwrap();
            sqlx::raw_sql($copy).execute(&mut connection).await.unwrap();
            let record: Record = sqlx::query_as(AssertSqlSafe(format!(
                "SELECT timestamp, key_id, key_version, details, hash FROM audit_logs WHERE action = 'ENCRYPT' LIMIT 1"
            )))
            .fetch_one(&mut connection)
            .await
            .unwrap();
            let mark: fn(usize) -> String = $mark;
            let values = (0..rows)
                .map(|row| format!("({})", (1..=12).map(|i| mark(row * 12 + i)).collect::<Vec<_>>().join(", ")))
                .collect::<Vec<_>>()
                .join(", ");
            let insert = format!("INSERT INTO bare ({COLUMNS}) VALUES {values}");
            let begun = Instant::now();
            let mut seq = 0i64;
            while begun.elapsed() < time {
                sqlx::raw_sql("BEGIN").execute(&mut connection).await.unwrap();
                let mut query = sqlx::query(AssertSqlSafe(insert.clone()));
                for _ in 0..rows {
                    seq += 1;
                    let (timestamp, key_id, version, details, hash) = record.clone();
                    query = query.bind(seq).bind(timestamp).bind("bench").bind("admin").bind("ENCRYPT");
                    query = query.bind("SUCCESS").bind(None::<String>).bind(key_id).bind(version).bind(details);
                    query = query.bind(hash).bind(2i64);
                }
                query.execute(&mut connection).await.unwrap();
                sqlx::raw_sql("COMMIT").execute(&mut connection).await.unwrap();
            }
            seq as f64 / begun.elapsed().as_secs_f64()
        }
    };
}

type Record = (i64, Vec<u8>, i64, String, Vec<u8>);

bare!(mysql, MySqlConnection, "CREATE TABLE bare LIKE audit_logs", |_| "?".into());
bare!(postgres, PgConnection, "CREATE TABLE bare (LIKE audit_logs INCLUDING ALL)", |i| format!("${i}"));
