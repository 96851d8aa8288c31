//! Tests that no request fails during a rolling restart of three nodes on one database, with a load balancer that
//! checks `/v1/readyz`.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail by a panic, and says what it skips")]

mod balancer;
#[path = "../common/mod.rs"]
mod common;
mod node;

use std::sync::Arc;
use std::time::Duration;

use balancer::{Balancer, Protocol};
use kms_test_support::{MariaDb, Postgres, Server as Database};
use node::{Cluster, Node};
use serde_json::{Value, json};

const NODES: usize = 3;

fn is_full() -> bool {
    std::env::var("KMS_TEST_MODE").is_ok_and(|mode| mode == "full")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_on_postgres() {
    let Some(database) = Postgres::try_new(&[]) else {
        eprintln!("SKIPPED: PostgreSQL is not installed");
        return;
    };
    restart_all(&database.create_database()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_on_mariadb() {
    let Some(database) = MariaDb::try_new(&[]) else {
        eprintln!("SKIPPED: MariaDB is not installed");
        return;
    };
    restart_all(&database.create_database()).await;
}

async fn restart_all(url: &str) {
    let cluster = Cluster::new(url);
    let mut nodes: Vec<Node> = (0..NODES).map(|_| cluster.start_node()).collect();
    let token = nodes[0].token.clone().expect("a token at the first start");
    let balancer =
        Arc::new(Balancer::new(&cluster.client_config(), nodes.iter().map(|node| node.port).collect(), token));
    balancer.ask(0, "POST", "/v1/keys", Some(&new_key("users"))).await.unwrap();
    let watching = balancer.watch();
    balancer.until(|balancer| (0..NODES).all(|node| balancer.is_ready(node))).await;
    let workers: Vec<_> =
        (0..8).map(|n| balancer.work(n, if n % 2 == 0 { Protocol::Http1 } else { Protocol::Http2 })).collect();
    balancer.until(|balancer| (0..NODES).all(|node| balancer.served(node) >= 20)).await;

    for _ in 0..if is_full() { 5 } else { 1 } {
        for (n, node) in nodes.iter_mut().enumerate() {
            restart(&balancer, n, node, &cluster).await;
        }
    }
    balancer.stop();
    let mut encrypted = 0;
    for worker in workers {
        encrypted += worker.await.unwrap();
    }
    watching.await.unwrap();
    let said = balancer.report();
    eprintln!("{said}");
    assert!(balancer.failures().is_empty(), "{said}");

    // The log has exactly one record for each successful encryption.
    let exported = cluster.command(&["audit", "export"]);
    let lines = exported.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let is_encryption = |record: &Value| record["action"] == "ENCRYPT" && record["status"] == "SUCCESS";
    assert_eq!(lines.filter(is_encryption).count(), encrypted);
    let verified: Value = serde_json::from_str(&cluster.command(&["--json", "audit", "verify"])).unwrap();
    assert_eq!(verified["ok"], true, "{verified}");
}

/// Restarts a node as a deployment does: it receives SIGTERM, drains, ends, starts again, and serves requests again.
async fn restart(balancer: &Arc<Balancer>, n: usize, node: &mut Node, cluster: &Cluster) {
    node.signal("-TERM");
    let mut code = Value::Null;
    for _ in 0..200 {
        // The node reports that it is not ready, and still serves, because the balancer has not noticed yet.
        let ready = balancer.ask(n, "GET", "/v1/readyz", None).await;
        if let Err(answer) = ready {
            code = serde_json::from_str::<Value>(&answer).unwrap_or_else(|_| panic!("{answer}"))["code"].clone();
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(code, "Closed", "the node does not report that it is closing");
    balancer
        .ask(n, "POST", "/v1/crypto/encrypt", Some(&balancer::encrypt()))
        .await
        .expect("a draining node still serves");
    balancer.count_own_encryption();
    assert!(node.wait().await.success());
    *node = cluster.start_again(node);
    let before = balancer.served(n);
    balancer.until(|balancer| balancer.served(n) >= before + 20).await;
}

fn new_key(name: &str) -> Value {
    json!({"name": name, "type": "AES256_GCM", "purpose": "ENCRYPTION"})
}
