//! The engine on which the suites run: `KMS_TEST_ENGINE` is `sqlite` (the default), `mysql` or `postgres`. The servers
//! are those of `KMS_TEST_MYSQL_URL` and `KMS_TEST_POSTGRES_URL` (with permission to create databases), otherwise
//! private ones. Feature `engine`.

#![allow(clippy::unwrap_used, reason = "a test may fail by a panic")]

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use sqlx::{AssertSqlSafe, Connection, MySqlConnection, PgConnection, SqliteConnection};
use tokio::sync::oneshot;

use crate::{MariaDb, Postgres, Server};

/// The name of the engine.
pub fn name() -> String {
    std::env::var("KMS_TEST_ENGINE").unwrap_or_else(|_| "sqlite".into())
}

/// Returns the URL of a new, empty store.
pub fn new_store(file: &Path) -> String {
    match name().as_str() {
        "sqlite" => format!("sqlite:{}", file.display()),
        "mysql" => server_store("KMS_TEST_MYSQL_URL", || MariaDb::try_new(&[]).map(|server| Box::new(server) as _)),
        "postgres" => {
            server_store("KMS_TEST_POSTGRES_URL", || Postgres::try_new(&[]).map(|server| Box::new(server) as _))
        }
        other => panic!("KMS_TEST_ENGINE={other}"),
    }
}

fn server_store(variable: &str, start: impl FnOnce() -> Option<Box<dyn Server>>) -> String {
    static PRIVATE: OnceLock<Mutex<Box<dyn Server>>> = OnceLock::new();
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let Ok(url) = std::env::var(variable) else {
        let server = PRIVATE.get_or_init(|| Mutex::new(start().expect("the server's packages are not installed")));
        return server.lock().unwrap().create_database();
    };
    let name = format!("kms_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let created = format!("CREATE DATABASE {name}");
    // Not on the test's runtime, which may have only this thread.
    std::thread::scope(|scope| {
        let creating = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            assert!(runtime.block_on(execute(&url, &created)));
        });
        creating.join().unwrap();
    });
    let (place, query) = url.split_once('?').unwrap_or((&url, ""));
    let (server, _) = place.rsplit_once('/').unwrap();
    format!("{server}/{name}?{query}")
}

/// Executes statements in syntax that all engines accept; returns whether the database executed them.
pub async fn execute(url: &str, sql: &str) -> bool {
    let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
    if url.starts_with("sqlite:") {
        let mut raw = SqliteConnection::connect(url).await.unwrap();
        let done = sql.execute(&mut raw).await.is_ok();
        raw.close().await.unwrap();
        done
    } else if url.starts_with("postgres:") {
        sql.execute(&mut PgConnection::connect(url).await.unwrap()).await.is_ok()
    } else {
        sql.execute(&mut mysql(url).await).await.is_ok()
    }
}

/// Returns the only number in a query's result.
pub async fn number(url: &str, sql: &str) -> i64 {
    let sql = || AssertSqlSafe(sql.to_owned());
    if url.starts_with("sqlite:") {
        sqlx::query_scalar(sql()).fetch_one(&mut SqliteConnection::connect(url).await.unwrap()).await.unwrap()
    } else if url.starts_with("postgres:") {
        sqlx::query_scalar(sql()).fetch_one(&mut PgConnection::connect(url).await.unwrap()).await.unwrap()
    } else {
        sqlx::query_scalar(sql()).fetch_one(&mut mysql(url).await).await.unwrap()
    }
}

async fn mysql(url: &str) -> MySqlConnection {
    let mut raw = MySqlConnection::connect(url).await.unwrap();
    sqlx::raw_sql("SET SESSION sql_mode = 'ANSI_QUOTES'").execute(&mut raw).await.unwrap();
    raw
}

/// Locks the head as a node does, signals that, and keeps the lock until `release`.
pub async fn hold_head(url: &str, locked: oneshot::Sender<()>, release: oneshot::Receiver<()>) {
    const LOCK: &str = "BEGIN; SELECT seq FROM audit_head WHERE id = 1 FOR UPDATE";
    if url.starts_with("postgres:") {
        let mut raw = PgConnection::connect(url).await.unwrap();
        sqlx::raw_sql(LOCK).execute(&mut raw).await.unwrap();
        locked.send(()).unwrap();
        release.await.unwrap();
    } else {
        let mut raw = mysql(url).await;
        sqlx::raw_sql(LOCK).execute(&mut raw).await.unwrap();
        locked.send(()).unwrap();
        release.await.unwrap();
    }
}
