//! Tests of `examples/http` against the service.

#![allow(clippy::unwrap_used)]

mod common;

use std::process::Command;

use common::{Server, example};

/// The names in a text that begin with `kms_`.
fn metric_names(text: &str) -> Vec<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices("kms_")
        .filter(|(at, _)| !text[..*at].ends_with(is_part))
        .map(|(at, _)| &text[at..at + text[at..].find(|c| !is_part(c)).unwrap_or(text.len() - at)])
        .collect()
}

#[test]
fn the_walk_through_the_life_of_a_key_comes_to_its_end() {
    let server = Server::start(&[]);
    let mut walk = Command::new(example("walk.sh"));
    let walk = walk.env("KMS_URL", &server.url).env("KMS_TOKEN", &server.admin).output().unwrap();
    let (said, complained) = (String::from_utf8_lossy(&walk.stdout), String::from_utf8_lossy(&walk.stderr));
    assert!(walk.status.success(), "{said}\n{complained}");
    assert!(said.ends_with("Done.\n"), "{said}");
    // The walk can be repeated.
    let mut again = Command::new(example("walk.sh"));
    assert!(again.env("KMS_URL", &server.url).env("KMS_TOKEN", &server.admin).status().unwrap().success());
}

#[test]
fn a_walk_that_is_refused_says_so() {
    let server = Server::start(&[]);
    let mut walk = Command::new(example("walk.sh"));
    let walk = walk.env("KMS_URL", &server.url).env("KMS_TOKEN", "nobody").output().unwrap();
    assert!(!walk.status.success());
    assert!(!String::from_utf8_lossy(&walk.stdout).contains("Done."));
}

#[tokio::test]
async fn alerts_and_dashboard_are_about_metrics_and_errors_that_exist() {
    let folder = tempfile::TempDir::new().unwrap();
    let anchors = folder.path().join("anchors");
    let server = Server::start(&[("KMS_HTTP_ANCHORS_FILE", anchors.to_str().unwrap())]);
    let client = server.client();
    client.aes_key("a").await;
    // The file may have the append-only attribute, which would prevent the deletion of the directory.
    let _ = Command::new("chattr").arg("-a").arg(&anchors).output();
    let metrics = client.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    let known = metric_names(&metrics.text);
    let alerts = std::fs::read_to_string(example("alerts.yml")).unwrap();
    let used = metric_names(&alerts);
    assert!(used.len() > 5, "{used:?}");
    // Only a server with TLS has the metrics of its certificate; the tests of certificates check their names.
    for name in used.into_iter().filter(|name| !name.starts_with("kms_tls_")) {
        assert!(known.contains(&name), "{name} is not in\n{}", metrics.text);
    }
    let dashboard = std::fs::read_to_string(example("grafana.json")).unwrap();
    let parsed: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    for panel in parsed["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            let used = metric_names(expression);
            assert!(!used.is_empty(), "{panel}");
            for name in used {
                assert!(known.contains(&name), "{name} of {} is not in the metrics", panel["title"]);
            }
        }
    }
    // Outcomes are error codes, and operations are those in the metrics.
    let codes: Vec<_> = kms_lib::ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
    for (label, known) in [("outcome", codes), ("operation", labels(&metrics.text, "operation"))] {
        let used: Vec<_> = labels(&alerts, label);
        assert!(!used.is_empty());
        for value in used.iter().flat_map(|values| values.split('|')) {
            assert!(known.contains(&value), "{label} {value} is not one of {known:?}");
        }
    }
}

/// The values that a label has or is compared with in a text.
fn labels<'a>(text: &'a str, label: &str) -> Vec<&'a str> {
    let (equal, like) = (format!("{label}=\""), format!("{label}=~\""));
    let found = |pattern: &str| -> Vec<&'a str> {
        text.match_indices(pattern).filter_map(|(at, _)| text[at + pattern.len()..].split('"').next()).collect()
    };
    [found(&equal), found(&like)].concat()
}
