//! Tests of the alert rules in `examples/http`: each test causes a fault, and scrapes the service before and after it.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail by a panic, and says what it skips")]

#[path = "../common/mod.rs"]
mod common;
mod rules;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{Client, Server};
use kms_lib::{Actor, Clock, Config, Kms, NewKey, Role, SchedulerConfig, Timestamp};
use kms_test_support::authority::{Authority, Files};
use rules::{Fault, assert_fires, examples, has_promtool, promtool};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};
use tempfile::TempDir;

const PUBLIC: [(&str, &str); 1] = [("KMS_HTTP_METRICS_PUBLIC", "true")];

/// Alerts without a real fault in this file: Prometheus itself finds that a target is down, and `KmsNotVerified` takes
/// two days. `alerts-test.yml` tests both.
const NOT_CAUSED: [&str; 2] = ["KmsDown", "KmsNotVerified"];

#[test]
fn the_rules_are_sound_and_their_own_tests_pass() {
    let rules = fs::read_to_string(examples().join("alerts.yml")).unwrap();
    let synthetic = fs::read_to_string(examples().join("alerts-test.yml")).unwrap();
    let caused = include_str!("main.rs");
    let names: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() >= 19, "{names:?}");
    for name in names {
        if NOT_CAUSED.contains(&name) {
            assert!(synthetic.contains(&format!("alertname: {name}")), "{name} has no test");
        } else {
            assert!(caused.contains(&format!("fires(\"{name}\"")), "no test in this file causes {name}");
        }
    }
    if !has_promtool() {
        return;
    }
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts-test.yml"]] {
        let run = promtool(&arguments);
        assert!(run.status.success(), "{run:?}");
    }
}

/// Waits until the cached exposition has expired, and scrapes.
async fn scrape(client: &Client) -> String {
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    client.get("/metrics").await.text
}

/// Scrapes until the exposition contains this line.
async fn scrape_until(client: &Client, line: &str) -> String {
    for _ in 0..600 {
        let metrics = client.get("/metrics").await;
        if metrics.text.contains(&format!("{line}\n")) {
            return metrics.text;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the metrics never contained {line}: {}", client.get("/metrics").await.text);
}

async fn execute(store: &Path, sql: String) {
    let mut store = SqliteConnection::connect(&format!("sqlite:{}", store.display())).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut store).await.unwrap();
    store.close().await.unwrap();
}

async fn encrypt(client: &Client) -> common::Answer {
    client.post("/v1/crypto/encrypt", json!({"keyId": "users", "plaintext": "x"})).await
}

#[tokio::test]
async fn a_missing_store_fires_store_down_and_failing() {
    let server = Server::start_on_file(&PUBLIC);
    let admin = server.client();
    admin.aes_key("users").await;
    let before = scrape_until(&admin, "kms_store_up 1").await;
    fs::rename(server.store().parent().unwrap(), server.home.path().join("away")).unwrap();
    for _ in 0..3 {
        admin.post("/v1/keys/users/rotate", json!({})).await.expect(503);
    }
    let after = scrape_until(&admin, "kms_store_up 0").await;
    assert_fires("KmsStoreDown", 2, Fault::Stays, &before, &after);
    assert_fires("KmsFailing", 4, Fault::GoesOn, &before, &after);
}

#[tokio::test]
async fn an_altered_log_fires_tampering() {
    let server = Server::start_on_file(&PUBLIC);
    let admin = server.client();
    admin.aes_key("users").await;
    admin.post("/v1/audit/verify", json!({})).await.expect(200);
    let before = scrape_until(&admin, "kms_integrity_faults_total 0").await;
    execute(&server.store(), "UPDATE audit_logs SET hash = zeroblob(32) WHERE seq = 2".into()).await;
    assert_eq!(admin.post("/v1/audit/verify", json!({})).await.expect(200)["ok"], false);
    let after = scrape_until(&admin, "kms_integrity_faults_total 1").await;
    assert_fires("KmsTampering", 5, Fault::Stays, &before, &after);
}

#[tokio::test]
async fn an_altered_grant_fires_quarantine() {
    let mut server = Server::start_on_file(&PUBLIC);
    let admin = server.client();
    let grant = json!({"principal": "shop", "role": "app", "keyId": "*", "allowedOps": ["encrypt"]});
    admin.post("/v1/grants", grant).await.expect(201);
    let before = scrape_until(&admin, "kms_quarantined_rows 0").await;
    assert!(server.stop().success());
    execute(&server.store(), "UPDATE grants SET allowed_ops = 'decrypt,encrypt'".into()).await;
    server.restart();
    let after = scrape_until(&server.client(), "kms_quarantined_rows 1").await;
    assert_fires("KmsQuarantine", 1, Fault::Stays, &before, &after);
}

/// The store is rolled back while the service runs. The service has already anchored the state that is lost.
#[tokio::test]
async fn a_rolled_back_log_fires_ledger_stopped_and_diverged() {
    let places = TempDir::new().unwrap();
    let file = places.path().join("anchors.jsonl");
    let anchors = [("KMS_HTTP_ANCHORS_FILE", file.to_str().unwrap()), ("KMS_HTTP_ANCHORS_EVERY_SECONDS", "1")];
    let others = [("KMS_SCHEDULER_ENABLED", "false"), ("KMS_HIGH_WATER", "")];
    let mut server = Server::start_on_file(&[&PUBLIC[..], &anchors, &others].concat());
    let admin = server.client();
    admin.aes_key("users").await;
    let old = server.home.path().join("old.db");
    execute(&server.store(), format!("VACUUM INTO '{}'", old.display())).await;
    for _ in 0..3 {
        encrypt(&admin).await.expect(200);
    }
    let size: u64 = admin.get("/v1/audit/checkpoint").await.text.lines().nth(1).unwrap().parse().unwrap();
    for _ in 0..600 {
        if fs::read_to_string(&file).is_ok_and(|text| text.contains(&format!("\\n{size}\\n"))) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let before = scrape_until(&admin, "kms_anchor_diverged 0").await;
    let back = format!(
        "ATTACH '{}' AS old; BEGIN IMMEDIATE; DELETE FROM audit_head; INSERT INTO audit_head SELECT * FROM \
         old.audit_head; DELETE FROM audit_logs WHERE seq > (SELECT max(seq) FROM old.audit_logs); COMMIT",
        old.display()
    );
    execute(&server.store(), back).await;
    let refused = encrypt(&admin).await;
    assert!(refused.status.is_server_error(), "{}", refused.text);
    let after = scrape_until(&admin, "kms_ledger_running 0").await;
    assert_fires("KmsLedgerStopped", 1, Fault::Stays, &before, &after);
    // After a restart, nothing in the database shows the rollback. The anchors do.
    server.kill();
    server.restart();
    let after = scrape_until(&server.client(), "kms_anchor_diverged 1").await;
    assert_fires("KmsDiverged", 1, Fault::Stays, &before, &after);
    // The append-only attribute would prevent the folder's removal.
    let _ = Command::new("chattr").arg("-a").arg(&file).output();
}

#[tokio::test]
async fn an_unwritable_anchor_file_fires_not_anchored() {
    let folder = TempDir::new().unwrap();
    let anchors = [("KMS_HTTP_ANCHORS_FILE", folder.path().to_str().unwrap()), ("KMS_HTTP_ANCHORS_EVERY_SECONDS", "1")];
    let server = Server::start_on_file(&[&PUBLIC[..], &anchors].concat());
    let admin = server.client();
    let failures = "kms_anchor_failures_total";
    let before = common::scrape_beyond(&admin, failures, 0).await;
    admin.aes_key("users").await;
    let after = common::scrape_beyond(&admin, failures, common::metric(&before, failures) + 1).await;
    assert_fires("KmsNotAnchored", 17, Fault::GoesOn, &before, &after);
}

#[tokio::test]
async fn broken_and_expiring_tls_files_fire() {
    let (authority, files) = (Authority::new("servers"), Files::create());
    files.install(&authority.server(1));
    let (certificate, key) = (files.path("server.pem"), files.path("server.key"));
    let tls = [
        ("KMS_HTTP_TLS_CERTIFICATE_FILE", certificate.to_str().unwrap()),
        ("KMS_HTTP_TLS_KEY_FILE", key.to_str().unwrap()),
    ];
    let server = Server::start_on_file(&[&PUBLIC[..], &tls].concat());
    let mut anybody = server.client_with(None);
    // The client accepts any certificate, also an expired one.
    anybody.http = reqwest::Client::builder().danger_accept_invalid_certs(true).build().unwrap();
    let before = scrape_until(&anybody, "kms_reload_failures_total 0").await;
    files.write("server.pem", "garbage");
    server.signal("-HUP");
    let after = scrape_until(&anybody, "kms_reload_failures_total 1").await;
    assert_fires("KmsReloadFails", 5, Fault::Stays, &before, &after);
    let ends = |text: &str| {
        let name = "kms_tls_certificate_expiration_timestamp_seconds ";
        text.lines().find(|line| line.starts_with(name)).unwrap().to_owned()
    };
    files.install(&authority.server_until(2, 2026));
    server.signal("-HUP");
    let mut after = scrape(&anybody).await;
    while ends(&after) == ends(&before) {
        after = scrape(&anybody).await;
    }
    assert_fires("KmsCertificateEnds", 1, Fault::Stays, &before, &after);
}

#[tokio::test]
async fn unknown_callers_fire() {
    let server = Server::start_on_file(&[PUBLIC[0], ("KMS_HTTP_AUTH_FAILURES_PER_SECOND", "1000")]);
    let before = scrape(&server.client()).await;
    let nobody = server.client_with(Some("kms_guess"));
    for _ in 0..120 {
        nobody.get("/v1/keys").await.refused(401, "NotAuthenticated");
    }
    let after = scrape_until(&server.client(), "kms_authentication_failures_total{method=\"token\"} 120").await;
    assert_fires("KmsUnknownCallers", 17, Fault::GoesOn, &before, &after);
    assert_fires("KmsManyDenials", 17, Fault::GoesOn, &before, &after);
}

/// A lock on the store delays commits: the callers in process wait, and the service refuses the callers behind them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_store_fires_overloaded_and_slow() {
    let limits = [("KMS_HTTP_CONCURRENCY", "1"), ("KMS_HTTP_QUEUE", "0")];
    let server = Server::start_on_file(&[&PUBLIC[..], &limits].concat());
    let admin = server.client();
    admin.aes_key("users").await;
    let before = scrape(&admin).await;
    let url = format!("sqlite:{}", server.store().display());
    for _ in 0..3 {
        let mut other = SqliteConnection::connect(&url).await.unwrap();
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
        let waiting = admin.clone();
        // Retries, because the list below may occupy the only place.
        let waiting = tokio::spawn(async move { while encrypt(&waiting).await.status != 200 {} });
        while admin.get("/v1/keys").await.status != 503 {}
        for _ in 0..40 {
            admin.get("/v1/keys").await.refused(503, "Overloaded");
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
        waiting.await.unwrap();
    }
    let after = scrape(&admin).await;
    assert_fires("KmsOverloaded", 12, Fault::GoesOn, &before, &after);
    assert_fires("KmsSlow", 17, Fault::GoesOn, &before, &after);
    assert_fires("KmsSlowCommits", 17, Fault::GoesOn, &before, &after);
}

/// A file system of 24 MiB, mounted over a folder until the value is dropped.
struct Small(TempDir);

impl Small {
    fn new() -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(folder.path());
        if !mount.output().is_ok_and(|run| run.status.success()) {
            eprintln!("SKIPPED: mounting a file system is not permitted, so a full disk is not tested");
            return None;
        }
        Some(Self(folder))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_fires() {
    let Some(disk) = Small::new() else { return };
    let url = format!("sqlite:{}", disk.0.path().join("kms.db").display());
    let server = Server::start_on_file(&[PUBLIC[0], ("KMS_STORE_URL", &url), ("KMS_DISK_ALARM_MIB", "1")]);
    let admin = server.client();
    admin.aes_key("users").await;
    let before = scrape_until(&admin, "kms_store_low 0").await;
    let mut stuff = Command::new("dd");
    stuff.args(["if=/dev/zero", "bs=4k"]).arg(format!("of={}", disk.0.path().join("stuffing").display()));
    assert!(!stuff.output().unwrap().status.success(), "the disk is not full");
    for _ in 0..10_000 {
        if encrypt(&admin).await.status != 200 {
            break;
        }
    }
    let after = scrape_until(&admin, "kms_store_full 1").await;
    assert_fires("KmsStoreFull", 1, Fault::Stays, &before, &after);
    assert_fires("KmsStoreLow", 6, Fault::Stays, &before, &after);
}

/// The key was created 100 days ago, and the scheduler is disabled.
#[tokio::test]
async fn an_overdue_rotation_fires() {
    let home = TempDir::new().unwrap();
    let store = home.path().join("kms.db");
    let key = format!("hex:{}", "07".repeat(32));
    let past = Timestamp::now().minus_days(100);
    let config = Config::new(format!("sqlite:{}", store.display())).root_key(&key).unwrap().no_high_water();
    let config = config.clock(Clock::new(move || past)).scheduler(SchedulerConfig::disabled());
    let kms = Kms::open(config).await.unwrap();
    let session = kms.session(Actor::new("alice", Role::Admin).unwrap());
    session.create_key(NewKey::aes("users").rotation_period_days(90)).await.unwrap();
    kms.close().await.unwrap();
    let url = format!("sqlite:{}", store.display());
    let server = Server::start_on_file(&[
        PUBLIC[0],
        ("KMS_HTTP_AUTH", "trusted_headers"),
        ("KMS_STORE_URL", &url),
        ("KMS_MASTER_KEY", &key),
        ("KMS_SCHEDULER_ENABLED", "false"),
    ]);
    let sound = Server::start_on_file(&PUBLIC);
    let before = scrape(&sound.client_with(None)).await;
    let after = scrape_until(&server.client_with(None), "kms_rotation_alerts 1").await;
    assert_fires("KmsRotationDue", 24 * 60 + 5, Fault::Stays, &before, &after);
}
