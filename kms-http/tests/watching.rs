//! `/metrics` while something is wrong, and the alert rules of `examples/http`, fired by real faults.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail by a panic, and says what it skips")]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use common::{Client, Server};
use serde_json::json;
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;

const PUBLIC: [(&str, &str); 1] = [("KMS_HTTP_METRICS_PUBLIC", "true")];

/// Scrapes until a line is there.
async fn scrape_until(client: &Client, line: &str) -> String {
    let line = format!("{line}\n");
    for _ in 0..600 {
        let metrics = client.get("/metrics").await;
        assert_eq!(metrics.status, 200, "{}", metrics.text);
        if metrics.text.contains(&line) {
            return metrics.text;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{line} does not come: {}", client.get("/metrics").await.text);
}

/// Moves the files of a store out of its way.
fn hide_store(server: &Server) {
    let away = server.home.path().join("away");
    fs::create_dir(&away).unwrap();
    for file in fs::read_dir(server.store().parent().unwrap()).unwrap() {
        let file = file.unwrap();
        fs::rename(file.path(), away.join(file.file_name())).unwrap();
    }
}

/// Whether promtool is there; says so if not.
fn has_promtool() -> bool {
    let is_there = Command::new("promtool").arg("--version").output().is_ok_and(|run| run.status.success());
    if !is_there {
        eprintln!("SKIPPED: promtool is not installed (package prometheus; tests/run installs it)");
    }
    is_there
}

fn promtool(arguments: &[&str]) -> Output {
    Command::new("promtool").args(arguments).current_dir(examples()).output().unwrap()
}

fn examples() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/http").canonicalize().unwrap()
}

/// Asserts that an alert fires on what was scraped after a fault, and not on what was scraped before it.
fn assert_fires(alert: &str, before: &str, after: &str) {
    if !has_promtool() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let series = |text: &str, name: &str| -> Option<String> {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned))
    };
    let mut inputs = String::new();
    for line in before.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let Some(later) = series(after, name) else { continue };
        let labelled = match name.split_once('{') {
            Some((name, labels)) => format!("{name}{{job=\"mini-kms\", instance=\"a\", {labels}"),
            None => format!("{name}{{job=\"mini-kms\", instance=\"a\"}}"),
        };
        inputs += &format!("      - {{ series: '{labelled}', values: \"{value}x19 {later}x40\" }}\n");
    }
    let rules = examples().join("alerts.yml");
    let test = |time: &str| {
        format!(
            "rule_files: [\"{}\"]\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    input_series:\n{inputs}    \
             alert_rule_test:\n      - {{ alertname: {alert}, eval_time: {time}, exp_alerts: [] }}\n",
            rules.display()
        )
    };
    let run = |time: &str| {
        let file = folder.path().join("test.yml");
        fs::write(&file, test(time)).unwrap();
        promtool(&["test", "rules", file.to_str().unwrap()])
    };
    let (early, late) = (run("15m"), run("25m"));
    assert!(early.status.success(), "{alert} fires without a fault: {early:?}");
    let said = [late.stdout, late.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(!late.status.success() && said.contains("alertname") && said.contains(alert), "{alert}: {said}");
}

#[test]
fn the_rules_are_sound_and_their_own_tests_pass() {
    if !has_promtool() {
        return;
    }
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts-test.yml"]] {
        let run = promtool(&arguments);
        assert!(run.status.success(), "{run:?}");
    }
}

#[tokio::test]
async fn metrics_are_there_when_the_store_is_not() {
    let server = Server::start_on_file(&[]);
    let admin = server.client();
    admin.aes_key("users").await;
    admin.post("/v1/audit/verify", json!({})).await.expect(200);
    let app = admin.token_for("shop", "app").await;
    let before = scrape_until(&admin, "kms_audit_verification_failed 0").await;
    for line in ["kms_store_up 1", "kms_ledger_running 1", "kms_keys{state=\"ENABLED\"} 1", "kms_rotation_alerts 0"] {
        assert!(before.contains(&format!("{line}\n")), "{line} in {before}");
    }
    hide_store(&server);
    let after = scrape_until(&admin, "kms_store_up 0").await;
    assert!(after.contains("kms_keys{state=\"ENABLED\"} 1\n"), "what the process knows: {after}");
    let verified = |text: &str| {
        text.lines().find(|line| line.starts_with("kms_audit_verification_timestamp_seconds ")).unwrap().to_owned()
    };
    assert_eq!(verified(&before), verified(&after));
    assert_ne!(verified(&after), "kms_audit_verification_timestamp_seconds 0");
    // Nobody gains rights by that.
    let refused = app.get("/metrics").await;
    assert!(refused.status == 403 || refused.status == 503, "{}", refused.text);
    server.client_with(None).get("/metrics").await.refused(401, "NotAuthenticated");
    assert_fires("KmsStoreDown", &before, &after);
}

#[tokio::test]
async fn tampering_is_seen_from_the_first_time_on() {
    let server = Server::start_on_file(&PUBLIC);
    let admin = server.client();
    admin.aes_key("users").await;
    admin.post("/v1/audit/verify", json!({})).await.expect(200);
    let before = scrape_until(&admin, "kms_integrity_faults_total 0").await;
    assert!(before.contains("kms_integrity_errors_total{code=\"IntegrityFailure\"} 0\n"), "{before}");
    let mut store = SqliteConnection::connect(&format!("sqlite:{}", server.store().display())).await.unwrap();
    sqlx::raw_sql("UPDATE audit_logs SET hash = zeroblob(32) WHERE seq = 2").execute(&mut store).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(admin.post("/v1/audit/verify", json!({})).await.expect(200)["ok"], false);
    let after = scrape_until(&admin, "kms_integrity_faults_total 1").await;
    assert!(after.contains("kms_audit_verification_failed 1\n"), "{after}");
    assert_fires("KmsTampering", &before, &after);
}

#[tokio::test]
async fn callers_that_are_not_recognised_are_counted_by_what_they_show() {
    let server = Server::start_on_file(&PUBLIC);
    let before = scrape_until(&server.client(), "kms_authentication_failures_total{method=\"mtls\"} 0").await;
    assert!(before.contains("kms_reload_failures_total 0\n"));
    server.client_with(None).get("/v1/keys").await.refused(401, "NotAuthenticated");
    for token in ["x", "a.b.c"] {
        server.client_with(Some(token)).get("/v1/keys").await.refused(401, "NotAuthenticated");
    }
    let after = scrape_until(&server.client(), "kms_authentication_failures_total{method=\"token\"} 2").await;
    assert!(after.contains("kms_authentication_failures_total{method=\"none\"} 1\n"), "{after}");
}

#[tokio::test]
async fn many_who_scrape_at_once_ask_the_store_once() {
    let server = Server::start_on_file(&PUBLIC);
    let nobody = server.client_with(None);
    let first = nobody.get("/metrics").await.text;
    let mut same = 0;
    for _ in 0..20 {
        same += usize::from(nobody.get("/metrics").await.text == first);
    }
    // An exposition counts the scrapes: made anew, it would differ.
    assert!(same > 0, "the exposition is not kept for a moment");
}
