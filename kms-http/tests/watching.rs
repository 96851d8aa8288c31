//! Tests of `/metrics` during faults. The alert rules have a suite of their own.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::time::Duration;

use common::{Client, Server};
use serde_json::json;
use sqlx::{Connection, SqliteConnection};

const PUBLIC: [(&str, &str); 1] = [("KMS_HTTP_METRICS_PUBLIC", "true")];

/// Scrapes until the exposition contains a line.
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

/// Moves the files of a store away, so that the service cannot open them.
fn hide_store(server: &Server) {
    let away = server.home.path().join("away");
    fs::create_dir(&away).unwrap();
    for file in fs::read_dir(server.store().parent().unwrap()).unwrap() {
        let file = file.unwrap();
        fs::rename(file.path(), away.join(file.file_name())).unwrap();
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
    // The fault gives no principal more permissions.
    let refused = app.get("/metrics").await;
    assert!(refused.status == 403 || refused.status == 503, "{}", refused.text);
    server.client_with(None).get("/metrics").await.refused(401, "NotAuthenticated");
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
}

#[tokio::test]
async fn callers_that_are_not_recognized_are_counted_by_what_they_show() {
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
    // Every exposition counts the scrapes before it, so a new one would differ.
    assert!(same > 0, "the exposition is not kept for a moment");
}
