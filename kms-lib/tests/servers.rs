//! Faults of database servers and of their settings: each is a clear error, and none damages the log.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use common::{admin, check_usable, code};
use kms_lib::{
    Actor, AuditAck, Clock, Config, Context, EncryptItem, ErrorCode, Kms, NewKey, Role, SchedulerConfig, Timestamp,
};
use kms_test_support::{Certificates, MariaDb, PgBouncer, Postgres, Server};

fn config(url: &str) -> Config {
    let scheduler = SchedulerConfig::disabled();
    Config::new(url).root_key_bytes([7; 32]).scheduler(scheduler)
}

/// Opens the store, which must fail without showing the password, and returns the code of the error.
async fn refused(url: &str) -> ErrorCode {
    let error = Kms::open(config(url)).await.unwrap_err();
    let text = format!("{error} {error:?} {:?}", config(url));
    assert!(!text.contains("kms-test") && !text.contains("wrong-one"), "{text}");
    eprintln!("{error}");
    error.code()
}

fn mariadb(arguments: &[&str]) -> Option<MariaDb> {
    let server = MariaDb::try_new(arguments);
    if server.is_none() {
        eprintln!("SKIPPED: MariaDB is not installed");
    }
    server
}

fn postgres(arguments: &[&str]) -> Option<Postgres> {
    let server = Postgres::try_new(arguments);
    if server.is_none() {
        eprintln!("SKIPPED: PostgreSQL is not installed");
    }
    server
}

/// Settings that both servers refuse.
async fn bad_access(url: &str) {
    assert_eq!(refused(&url.replace("kms-test", "wrong-one")).await, ErrorCode::InvalidConfiguration);
    assert_eq!(refused(&url.replace("/kms_", "/no_such_")).await, ErrorCode::InvalidConfiguration);
    let (plain, _) = url.split_once('?').unwrap();
    // The server has no TLS, and the service must not connect without it.
    assert_eq!(refused(plain).await, ErrorCode::InvalidConfiguration);
    assert_eq!(refused(&plain.replace("127.0.0.1", "127.0.0.2")).await, ErrorCode::StoreUnavailable);
    // A failed attempt creates nothing, so the second one fails in the same way.
    for _ in 0..2 {
        let error = Kms::open(config(url).make_store(false)).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::StoreUnavailable, "{error}");
        assert!(error.message().contains("there is no store"), "{error}");
    }
    let queued = config(url).audit_ack(AuditAck::Queued);
    assert_eq!(code(Kms::open(queued).await), ErrorCode::InvalidConfiguration);

    // No store is created while the clock is too far in the future.
    let in_2099 = Clock::new(|| Timestamp::now().plus_days(365 * 73));
    assert_eq!(code(Kms::open(config(url).clock(in_2099)).await), ErrorCode::ClockSkew);
    let kms = Kms::open(config(url)).await.unwrap();
    check_usable(&kms).await;
    Kms::open(config(url).make_store(false)).await.unwrap().close().await.unwrap();
    let wrong_key = config(url).root_key_bytes([8; 32]);
    assert_eq!(code(Kms::open(wrong_key).await), ErrorCode::WrongRootKey);
    let folder = tempfile::tempdir().unwrap();
    let backup = kms.session(Actor::new("root", Role::Admin).unwrap()).backup(&folder.path().join("x")).await;
    assert_eq!(code(backup), ErrorCode::InvalidArgument);
    held_lock(url, &kms).await;
    clocks(url, &kms).await;
    kms.close().await.unwrap();
}

/// Another session keeps the lock on the head. Calls fail after some seconds, and nothing was done.
async fn held_lock(url: &str, kms: &Kms) {
    let (locked, release) = (tokio::sync::oneshot::channel(), tokio::sync::oneshot::channel());
    let url = url.to_owned();
    let holder = tokio::spawn(async move { common::engine::hold_head(&url, locked.0, release.1).await });
    locked.1.await.unwrap();
    let error = admin(kms).create_key(NewKey::aes("held")).await.unwrap_err();
    assert!(error.code() == ErrorCode::StoreContended && error.is_retryable(), "{error}");
    release.0.send(()).unwrap();
    holder.await.unwrap();
    admin(kms).create_key(NewKey::aes("held")).await.unwrap();
}

/// A node whose clock is wrong commits nothing, and the other nodes continue.
async fn clocks(url: &str, kms: &Kms) {
    let in_2099 = Clock::new(|| Timestamp::now().plus_days(365 * 73));
    let wrong = Kms::open(config(url).clock(in_2099)).await.unwrap();
    let session = wrong.session(Actor::new("from 2099", Role::Admin).unwrap());
    assert_eq!(code(session.create_key(NewKey::aes("future")).await), ErrorCode::ClockSkew);
    check_usable(kms).await;
    wrong.close().await.unwrap();
    let yesterday = Clock::new(|| Timestamp::from_micros(Timestamp::now().micros() - 86_400_000_000));
    assert_eq!(code(Kms::open(config(url).clock(yesterday)).await), ErrorCode::ClockSkew);
    // The clock jumps while the node runs.
    let offset = std::sync::Arc::new(std::sync::atomic::AtomicI64::new(0));
    let jumping = Clock::new({
        let offset = std::sync::Arc::clone(&offset);
        move || {
            let seconds = offset.load(std::sync::atomic::Ordering::SeqCst);
            Timestamp::from_micros(Timestamp::now().micros() + seconds * 1_000_000)
        }
    });
    let node = Kms::open(config(url).clock(jumping)).await.unwrap();
    for seconds in [-3_600, 0, 3_600, 0, 20, 0, -5] {
        offset.store(seconds, std::sync::atomic::Ordering::SeqCst);
        let made = admin(&node).encrypt("clocked", b"x", &Context::new()).await;
        match made {
            Err(error) if error.code() == ErrorCode::KeyNotFound => {
                assert!(i64::abs(seconds) < 30);
                admin(&node).create_key(NewKey::aes("clocked")).await.unwrap();
            }
            Err(error) => assert!(error.code() == ErrorCode::ClockSkew && i64::abs(seconds) > 30, "{seconds}: {error}"),
            Ok(_) => assert!(i64::abs(seconds) < 30, "{seconds}"),
        }
    }
    node.close().await.unwrap();
    check_usable(kms).await;
}

/// Tables of another application with the same names are not altered.
async fn foreign_tables(url: &str) {
    assert!(common::engine::execute(url, "CREATE TABLE grants (id INT)").await);
    assert_eq!(refused(url).await, ErrorCode::StoreCorrupt);
    assert_eq!(common::engine::number(url, "SELECT COUNT(*) FROM grants").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_bad_input() {
    let Some(server) = mariadb(&[]) else { return };
    bad_access(&server.create_database()).await;
    foreign_tables(&server.create_database()).await;

    // A user who may not create tables, and then one who has only the privileges that operation needs.
    let url = server.create_database();
    let database = url.rsplit('/').next().unwrap().split('?').next().unwrap();
    server.sql("CREATE USER worker@'127.0.0.1' IDENTIFIED BY 'kms-test'");
    server.sql(&format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {database}.* TO worker@'127.0.0.1'"));
    let as_worker = url.replace("//kms:", "//worker:");
    assert_eq!(refused(&as_worker).await, ErrorCode::StoreReadOnly);
    Kms::open(config(&url)).await.unwrap().close().await.unwrap();
    let kms = Kms::open(config(&as_worker)).await.unwrap();
    check_usable(&kms).await;
    // This user cannot see triggers. The warning names the missing privilege.
    let report = admin(&kms).verify_audit().await.unwrap();
    let warning = format!("GRANT TRIGGER ON `{database}`.* TO 'worker'@'127.0.0.1'");
    assert!(report.ok && report.warnings.iter().any(|found| found.contains(&warning)), "{:?}", report.warnings);
    server.sql(&format!("GRANT TRIGGER ON {database}.* TO worker@'127.0.0.1'"));
    kms.close().await.unwrap();
    let kms = Kms::open(config(&as_worker)).await.unwrap();
    assert!(admin(&kms).verify_audit().await.unwrap().warnings.is_empty());
    kms.close().await.unwrap();
    server.sql(&format!("REVOKE INSERT, UPDATE, DELETE ON {database}.* FROM worker@'127.0.0.1'"));
    let kms = Kms::open(config(&as_worker)).await.unwrap();
    assert_eq!(code(admin(&kms).create_key(NewKey::aes("k")).await), ErrorCode::StoreReadOnly);
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_bad_input() {
    let Some(server) = postgres(&[]) else { return };
    bad_access(&server.create_database()).await;
    foreign_tables(&server.create_database()).await;

    let url = server.create_database();
    let database = url.rsplit('/').next().unwrap().split('?').next().unwrap();
    server.sql(database, "CREATE ROLE worker LOGIN PASSWORD 'kms-test'; REVOKE CREATE ON SCHEMA public FROM PUBLIC");
    let as_worker = url.replace("//postgres:", "//worker:");
    assert_eq!(refused(&as_worker).await, ErrorCode::StoreReadOnly);
    Kms::open(config(&url)).await.unwrap().close().await.unwrap();
    assert_eq!(refused(&as_worker).await, ErrorCode::StoreReadOnly);
    server.sql(database, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO worker");
    let kms = Kms::open(config(&as_worker)).await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();

    // Settings of a database or a role.
    server.sql("postgres", &format!("ALTER DATABASE {database} SET bytea_output = 'escape'"));
    server.sql("postgres", &format!("ALTER DATABASE {database} SET standard_conforming_strings = off"));
    let kms = Kms::open(config(&url)).await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();

    server.sql("postgres", "CREATE DATABASE kms_latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    let latin = url.replace(database, "kms_latin");
    assert_eq!(refused(&latin).await, ErrorCode::InvalidConfiguration);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_with_a_small_packet_limit() {
    let Some(server) = mariadb(&["--max-allowed-packet=1M"]) else { return };
    let kms = Kms::open(config(&server.create_database())).await.unwrap();
    let session = admin(&kms);
    // A full batch: many keys, and a large context in each record.
    let mut names = Vec::new();
    for i in 0..100 {
        names.push(format!("key-{i}"));
        let metadata = serde_json::json!({ "filler": "x".repeat(16_000) });
        session.create_key(NewKey::aes(names[i].as_str()).metadata(metadata)).await.unwrap();
    }
    let context = Context::from([("filler", "x".repeat(1_900))]);
    let items: Vec<EncryptItem<'_>> =
        (0..1_000).map(|i| EncryptItem::new(names[i % 100].as_str(), b"x", context.clone())).collect();
    for result in session.encrypt_batch(&items).await.unwrap() {
        result.unwrap();
    }
    check_usable(&kms).await;
    kms.close().await.unwrap();
    drop(server);
    let Some(server) = mariadb(&["--max-allowed-packet=256K"]) else { return };
    assert_eq!(refused(&server.create_database()).await, ErrorCode::InvalidConfiguration);
}

/// The server's certificate is checked by default: its authority and its name.
async fn tls(url: &str, good: &Certificates, other: &Certificates) {
    let (plain, _) = url.split_once('?').unwrap();
    let with =
        |certificates: &Certificates| format!("{plain}?ssl-ca={}", certificates.folder().join("ca.pem").display());
    let kms = Kms::open(config(&with(good))).await.unwrap();
    check_usable(&kms).await;
    kms.close().await.unwrap();
    assert_eq!(refused(plain).await, ErrorCode::InvalidConfiguration);
    assert_eq!(refused(&with(other)).await, ErrorCode::InvalidConfiguration);
    assert_eq!(refused(&format!("{plain}?ssl-ca=/no/such/file.pem")).await, ErrorCode::InvalidConfiguration);
    // The certificate does not have this name of the machine.
    assert_eq!(refused(&with(good).replace("127.0.0.1", "localhost")).await, ErrorCode::InvalidConfiguration);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_tls() {
    let good = Certificates::new("mysql");
    let path = |name: &str| good.folder().join(name).display().to_string();
    let arguments = [
        format!("--ssl-ca={}", path("ca.pem")),
        format!("--ssl-cert={}", path("server.pem")),
        format!("--ssl-key={}", path("server.key")),
        "--require-secure-transport=ON".into(),
    ];
    let Some(server) = mariadb(&arguments.each_ref().map(String::as_str)) else { return };
    let url = server.create_database();
    tls(&url, &good, &Certificates::new("mysql")).await;
    // The server requires TLS.
    assert_eq!(refused(&url).await, ErrorCode::InvalidConfiguration);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_tls() {
    let good = Certificates::new("postgres");
    let path = |name: &str| good.folder().join(name).display().to_string();
    let arguments = [
        "-cssl=on".into(),
        format!("-cssl_cert_file={}", path("server.pem")),
        format!("-cssl_key_file={}", path("server.key")),
    ];
    let Some(server) = postgres(&arguments.each_ref().map(String::as_str)) else { return };
    tls(&server.create_database(), &good, &Certificates::new("postgres")).await;
}

/// The URL with these hosts instead of its own.
fn at(url: &str, place: &str) -> String {
    let (user, rest) = url.rsplit_once('@').unwrap();
    format!("{user}@{place}/{}", rest.split_once('/').unwrap().1)
}

async fn usable(url: &str) {
    let kms = Kms::open(config(url)).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// An IPv6 address with and without TLS, and several hosts of which the first do not answer.
async fn places(url: &str, port: u16, good: &Certificates) {
    let none = kms_test_support::free_port();
    usable(&at(url, &format!("[::1]:{port}"))).await;
    let plain = at(url, &format!("[::1]:{port}"));
    let (plain, _) = plain.split_once('?').unwrap();
    usable(&format!("{plain}?ssl-ca={}", good.folder().join("ca.pem").display())).await;
    usable(&at(url, &format!("127.0.0.1:{none},[::1]:{port}"))).await;
    usable(&at(url, &format!("[::1]:{none},127.0.0.1:{none},127.0.0.1:{port}"))).await;
    usable(&format!("{url}&connect_timeout=3")).await;
    assert_eq!(refused(&at(url, &format!("127.0.0.1:{none},[::1]:{none}"))).await, ErrorCode::StoreUnavailable);
    // The hosts belong to one service: if one refuses the password, the others are not tried.
    let wrong = at(url, &format!("127.0.0.1:{port},[::1]:{port}")).replace("kms-test", "wrong-one");
    assert_eq!(refused(&wrong).await, ErrorCode::InvalidConfiguration);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_places() {
    let good = Certificates::new("mysql");
    let path = |name: &str| good.folder().join(name).display().to_string();
    let arguments = [
        "--bind-address=127.0.0.1,::1".into(),
        format!("--ssl-cert={}", path("server.pem")),
        format!("--ssl-key={}", path("server.key")),
    ];
    let arguments = arguments.each_ref().map(String::as_str);
    let Some(server) = mariadb(&arguments) else { return };
    let url = server.create_database();
    let database = url.rsplit('/').next().unwrap().split('?').next().unwrap();
    server.sql(&format!("CREATE USER kms@'::1' IDENTIFIED BY 'kms-test'; GRANT ALL ON {database}.* TO kms@'::1'"));
    places(&url, server.port(), &good).await;
    assert_eq!(refused(&format!("{url}&application_name=x")).await, ErrorCode::InvalidConfiguration);
    // The first host is a read-only replica.
    let Some(replica) = mariadb(&["--read-only=1"]) else { return };
    replica.sql(&format!(
        "CREATE DATABASE {database}; CREATE USER kms@'127.0.0.1' IDENTIFIED BY 'kms-test'; \
         GRANT ALL ON {database}.* TO kms@'127.0.0.1'"
    ));
    usable(&at(&url, &format!("127.0.0.1:{},127.0.0.1:{}", replica.port(), server.port()))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_places() {
    let good = Certificates::new("postgres");
    let path = |name: &str| good.folder().join(name).display().to_string();
    let arguments = [
        "-clisten_addresses=127.0.0.1,::1".into(),
        "-cssl=on".into(),
        format!("-cssl_cert_file={}", path("server.pem")),
        format!("-cssl_key_file={}", path("server.key")),
    ];
    let Some(server) = postgres(&arguments.each_ref().map(String::as_str)) else { return };
    let url = server.create_database();
    let database = url.rsplit('/').next().unwrap().split('?').next().unwrap();
    places(&url, server.port(), &good).await;

    // The name of connections on the server.
    for (more, name) in [("", "mini-kms"), ("&application_name=billing&channel_binding=prefer", "billing")] {
        let kms = Kms::open(config(&format!("{url}{more}"))).await.unwrap();
        check_usable(&kms).await;
        let sql = format!("SELECT DISTINCT application_name FROM pg_stat_activity WHERE datname = '{database}'");
        assert_eq!(server.sql("postgres", &sql), name);
        kms.close().await.unwrap();
    }
    assert_eq!(refused(&format!("{url}&channel_binding=require")).await, ErrorCode::InvalidConfiguration);

    // The first host is read-only, as a standby is.
    let Some(standby) = postgres(&[]) else { return };
    standby.sql("postgres", &format!("CREATE DATABASE {database}"));
    standby.sql("postgres", &format!("ALTER DATABASE {database} SET default_transaction_read_only = on"));
    let both = at(&url, &format!("127.0.0.1:{},127.0.0.1:{}", standby.port(), server.port()));
    usable(&both).await;
    usable(&format!("{both}&target_session_attrs=read-write")).await;
    let alone = format!("{}&target_session_attrs=read-write", at(&url, &format!("127.0.0.1:{}", standby.port())));
    assert_eq!(refused(&alone).await, ErrorCode::StoreUnavailable);
}

/// PgBouncer assigns sessions to connections, transactions or statements. Only session mode works. The other modes are
/// refused, with and without free sessions, and the settings of shared sessions are not changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pgbouncer() {
    let Some(server) = postgres(&[]) else { return };
    let url = server.create_database();
    for (mode, servers) in [("transaction", 1), ("transaction", 20), ("statement", 20), ("session", 20)] {
        let Some(pooler) = PgBouncer::try_new(server.port(), mode, servers) else {
            eprintln!("SKIPPED: PgBouncer is not installed");
            return;
        };
        let through = at(&url, &format!("127.0.0.1:{}", pooler.port()));
        if mode == "session" {
            usable(&through).await;
            continue;
        }
        let error = Kms::open(config(&through)).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidConfiguration, "{mode}: {error}");
        assert!(error.message().contains("pool_mode = session"), "{error}");
        assert_eq!(statement_timeout(&through).await, "0");
    }
}

/// The statement timeout of a session that PgBouncer shares.
async fn statement_timeout(url: &str) -> String {
    use sqlx::{ConnectOptions, Row};
    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let mut raw = options.extra_float_digits(None).connect().await.unwrap();
    sqlx::raw_sql("SHOW statement_timeout").fetch_one(&mut raw).await.unwrap().get(0)
}
