//! Several nodes on one database server, of each kind: the log never forks and contains every acknowledged operation,
//! and revocations hold on every node, while nodes and servers are killed and connections are cut.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;

mod check;
mod node;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use check::{check, check_variety};
use common::{admin, check_usable};
use kms_lib::{Actor, Context, ErrorCode, Kms, NewGrant, NewKey, Permission, Role};
use kms_test_support::{Galera, MariaDb, Mode, Postgres, Proxy, Server};
use node::{Acknowledged, Node, config};

/// Upper limit for the wait until a node makes progress, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

fn is_full() -> bool {
    std::env::var("KMS_TEST_MODE").is_ok_and(|mode| mode == "full")
}

/// A private server of this engine. None, with a message, if it is not installed.
fn server(engine: &str) -> Option<Box<dyn Server>> {
    let server: Option<Box<dyn Server>> = match engine {
        "mysql" => MariaDb::try_new(&[]).map(|server| Box::new(server) as _),
        _ => Postgres::try_new(&[]).map(|server| Box::new(server) as _),
    };
    if server.is_none() {
        eprintln!("SKIPPED: {engine} is not installed, so several nodes on it are not tested");
    }
    server
}

/// Defines a test for each engine, which calls a function with its server.
macro_rules! on_servers {
    ($($name:ident),+ $(,)?) => {
        mod mysql { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { if let Some(server) = super::server("mysql") { super::$name(server).await; } })+ }
        mod postgres { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { if let Some(server) = super::server("postgres") { super::$name(server).await; } })+ }
    };
}

on_servers!(
    three_nodes_write_one_log,
    nodes_start_at_once_on_an_empty_database,
    a_revocation_holds_on_every_node,
    a_due_key_is_rotated_once,
    the_database_is_killed_and_restarted,
    connections_are_cut_while_committing,
    a_frozen_node_does_not_block_the_others,
);

/// Not a test: the code of a node's process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_process() {
    node::process().await;
}

async fn wait_for_progress(nodes: &[Node], operations: usize) {
    progress(nodes, operations, String::new).await;
}

/// Waits until each node has acknowledged this many operations. Otherwise panics with the status of `database`.
async fn progress(nodes: &[Node], operations: usize, database: impl Fn() -> String) {
    let begun = Instant::now();
    let before: Vec<usize> = nodes.iter().map(Node::progress).collect();
    while nodes.iter().zip(&before).any(|(node, before)| node.progress() < before + operations) {
        for node in nodes {
            // A node that stopped permanently has reported a fault.
            let faults = node.faults();
            assert!(faults.is_empty(), "{}: {:?}", node.name, faults.first());
        }
        let state = || nodes.iter().map(|node| (node.progress(), node.errors())).collect::<Vec<_>>();
        assert!(
            begun.elapsed() < PATIENCE,
            "a node does not get on: {before:?}, now (with errors) {:?} {}",
            state(),
            database()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn three_nodes_write_one_log(server: Box<dyn Server>) {
    let url = server.create_database();
    let kms = Kms::open(config(&url)).await.unwrap();
    admin(&kms).create_key(NewKey::aes("shared")).await.unwrap();
    let mut nodes: Vec<Node> = (0..3).map(|i| Node::start(&format!("node-{i}"), &url)).collect();
    let mut acknowledged = Vec::new();
    for kill in 0..if is_full() { 30 } else { 3 } {
        // Every node makes progress, also while a killed node starts again.
        wait_for_progress(&nodes, 50).await;
        tokio::time::sleep(Duration::from_millis(u64::from(rand::random::<u8>()))).await;
        let mut killed = std::mem::replace(&mut nodes[kill % 3], Node::start(&format!("node-{}", kill % 3), &url));
        killed.kill();
        acknowledged.push(killed.acknowledged());
    }
    wait_for_progress(&nodes, 50).await;
    acknowledged.extend(nodes.into_iter().map(Node::finish));
    check_variety(&check(&kms, &acknowledged).await);
    kms.close().await.unwrap();
}

/// Opens this many services concurrently, on these databases in turn.
async fn open_at_once(urls: &[String], count: usize) -> Vec<Kms> {
    let opening: Vec<_> = urls.iter().cycle().take(count).map(|url| tokio::spawn(Kms::open(config(url)))).collect();
    let mut services = Vec::new();
    for opened in opening {
        services.push(opened.await.unwrap().unwrap());
    }
    services
}

async fn nodes_start_at_once_on_an_empty_database(server: Box<dyn Server>) {
    for _ in 0..3 {
        let nodes = open_at_once(&[server.create_database()], 6).await;
        admin(&nodes[0]).create_key(NewKey::aes("shared")).await.unwrap();
        // A key that is created on one node is usable on the others at once.
        for node in &nodes {
            admin(node).encrypt("shared", b"x", &Context::new()).await.unwrap();
        }
        check(&nodes[5], &[]).await;
        for node in nodes {
            node.close().await.unwrap();
        }
    }
}

/// After `revoke` has returned on one node, no operation that begins on another node succeeds.
async fn a_revocation_holds_on_every_node(server: Box<dyn Server>) {
    let url = server.create_database();
    let (one, two) = (Kms::open(config(&url)).await.unwrap(), Kms::open(config(&url)).await.unwrap());
    revocations(&one, &two, if is_full() { 1_000 } else { 40 }).await;
    one.close().await.unwrap();
    two.close().await.unwrap();
}

async fn revocations(one: &Kms, two: &Kms, trials: u32) {
    let (here, there) = (admin(one), two.session(Actor::new("bob", Role::Admin).unwrap()));
    let app = two.session(Actor::new("app", Role::App).unwrap());
    let may_encrypt = [Permission::Encrypt];
    here.create_key(NewKey::aes("shared")).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let noise: Vec<_> = [here.clone(), there.clone()]
        .into_iter()
        .map(|session| {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let _ = session.encrypt("shared", b"noise", &Context::new()).await;
                }
            })
        })
        .collect();
    for trial in 0..trials {
        let sealed = there.encrypt("shared", b"x", &Context::new()).await.unwrap();
        here.revoke_version("shared", sealed.version).await.unwrap();
        let error = there.decrypt(&sealed.ciphertext, &Context::new()).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::VersionRevoked, "trial {trial}");
        let error = there.encrypt("shared", b"x", &Context::new()).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::VersionRevoked, "trial {trial}");
        there.rotate_key("shared", None).await.unwrap();
        // The same for a grant.
        let grant = here.put_grant(NewGrant::new("app", Role::App).on_all_keys().allow(may_encrypt)).await;
        app.encrypt("shared", b"x", &Context::new()).await.unwrap();
        here.revoke_grant(grant.unwrap().id).await.unwrap();
        let error = app.encrypt("shared", b"x", &Context::new()).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::AccessDenied, "trial {trial}");
        here.encrypt("shared", b"x", &Context::new()).await.unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    for task in noise {
        task.await.unwrap();
    }
    check(two, &[]).await;
}

async fn a_due_key_is_rotated_once(server: Box<dyn Server>) {
    let url = server.create_database();
    let ahead = kms_lib::Clock::new(|| kms_lib::Timestamp::now().plus_days(40)).skip_skew_check();
    let setup = Kms::open(config(&url)).await.unwrap();
    for i in 0..10 {
        admin(&setup).create_key(NewKey::aes(format!("due-{i}")).rotation_period_days(30)).await.unwrap();
    }
    admin(&setup).create_key(NewKey::aes("shared")).await.unwrap();
    setup.close().await.unwrap();
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(Kms::open(config(&url).clock(ahead.clone())).await.unwrap());
    }
    let running: Vec<_> =
        nodes.iter().cloned().map(|node| tokio::spawn(async move { node.run_scheduler().await.unwrap() })).collect();
    let mut rotated = 0;
    for report in running {
        let report = report.await.unwrap();
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        rotated += report.rotated.len();
    }
    assert_eq!(rotated, 10);
    for i in 0..10 {
        assert_eq!(admin(&nodes[0]).get_key(format!("due-{i}").as_str()).await.unwrap().current_version, 2);
    }
    check(&nodes[1], &[]).await;
}

/// During the outage, requests fail with a code for it. Afterwards the nodes resume without a restart.
async fn the_database_is_killed_and_restarted(mut server: Box<dyn Server>) {
    let url = server.create_database();
    let kms = Kms::open(config(&url)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("shared")).await.unwrap();
    let nodes: Vec<Node> = (0..2).map(|i| Node::start(&format!("node-{i}"), &url)).collect();
    for _ in 0..if is_full() { 10 } else { 2 } {
        wait_for_progress(&nodes, 50).await;
        server.kill();
        let error = session.encrypt("shared", b"x", &Context::new()).await.unwrap_err();
        assert!(matches!(error.code(), ErrorCode::StoreUnavailable | ErrorCode::OutcomeUnknown), "{error}");
        let error = session.get_key("no such key").await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::StoreUnavailable, "{error}");
        server.start();
    }
    wait_for_progress(&nodes, 50).await;
    let acknowledged: Vec<Acknowledged> = nodes.into_iter().map(Node::finish).collect();
    assert!(acknowledged.iter().all(|node| node.errors > 0));
    check(&kms, &acknowledged).await;
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

async fn connections_are_cut_while_committing(server: Box<dyn Server>) {
    let url = server.create_database();
    let proxy = Proxy::new(server.port());
    let through = url.replace(&format!(":{}/", server.port()), &format!(":{}/", proxy.port()));
    let direct = Kms::open(config(&url)).await.unwrap();
    admin(&direct).create_key(NewKey::aes("shared")).await.unwrap();
    let kms = Kms::open(config(&through)).await.unwrap();
    let session = admin(&kms);
    let mut receipts = std::collections::HashMap::new();
    // The connection exists before it is cut.
    session.encrypt("shared", b"x", &Context::new()).await.unwrap();
    let mut expected = 1;
    for round in 0..if is_full() { 200 } else { 12 } {
        // If the commit succeeded and its response was lost, the log shows the record. Otherwise the caller gets an
        // error.
        let (mode, committed) =
            if round % 2 == 0 { (Mode::CutAfterCommit, true) } else { (Mode::CutBeforeCommit, false) };
        proxy.set(mode);
        match session.encrypt("shared", b"x", &Context::new()).await {
            Ok(sealed) => {
                assert!(committed);
                receipts.insert(sealed.receipt.seq, kms_lib::internals::hex(&sealed.receipt.hash));
            }
            Err(error) => {
                assert!(!committed && error.code() == ErrorCode::StoreUnavailable, "round {round}: {error}");
                assert!(error.is_retryable());
            }
        }
        expected += usize::from(committed);
        session.encrypt("shared", b"x", &Context::new()).await.unwrap();
        expected += 1;
    }
    let rows = check(&direct, &[Acknowledged { name: "proxied".into(), receipts, errors: 0 }]).await;
    assert_eq!(rows.iter().filter(|row| row.action == "ENCRYPT").count(), expected);
    kms.close().await.unwrap();
    direct.close().await.unwrap();
}

/// A node disappears while it holds the lock on the head. The server releases the lock, and the other nodes continue.
async fn a_frozen_node_does_not_block_the_others(server: Box<dyn Server>) {
    let url = server.create_database();
    let proxy = Proxy::new(server.port());
    let through = url.replace(&format!(":{}/", server.port()), &format!(":{}/", proxy.port()));
    let kms = Kms::open(config(&url)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("shared")).await.unwrap();
    let frozen = Kms::open(config(&through)).await.unwrap();
    let mut receipts = std::collections::HashMap::new();
    for _ in 0..if is_full() { 5 } else { 1 } {
        let busy = admin(&frozen);
        let stop = Arc::new(AtomicBool::new(false));
        let working: Vec<_> = (0..8)
            .map(|_| {
                let (busy, stop) = (busy.clone(), Arc::clone(&stop));
                tokio::spawn(async move {
                    let mut receipts = Vec::new();
                    while !stop.load(Ordering::SeqCst)
                        && let Ok(sealed) = busy.encrypt("shared", b"x", &Context::new()).await
                    {
                        receipts.push((sealed.receipt.seq, kms_lib::internals::hex(&sealed.receipt.hash)));
                    }
                    receipts
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxy.set(Mode::Freeze);
        // Calls work after some seconds. Some need a retry, as their error says.
        let begun = Instant::now();
        loop {
            let none = Context::new();
            let call = tokio::time::timeout(Duration::from_secs(60), session.encrypt("shared", b"x", &none));
            match call.await.expect("a call hangs") {
                Ok(_) => break,
                Err(error) => assert!(error.is_retryable() && begun.elapsed() < Duration::from_secs(60), "{error}"),
            }
        }
        // Long enough that the node is blocked within an operation.
        tokio::time::sleep(Duration::from_secs(1)).await;
        proxy.set(Mode::Pass);
        stop.store(true, Ordering::SeqCst);
        for task in working {
            receipts.extend(task.await.unwrap());
        }
    }
    check_usable(&kms).await;
    check_usable(&frozen).await;
    check(&kms, &[Acknowledged { name: "frozen".into(), receipts, errors: 0 }]).await;
}

/// Three nodes of the service, each on its own member of the cluster. One member is killed and rejoins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn galera() {
    let Some(mut cluster) = Galera::try_new(3) else {
        eprintln!("SKIPPED: galera-4 is not installed, so a Galera cluster is not tested");
        return;
    };
    // Setting up a new database on one member aborts concurrent statements of the others.
    for _ in 0..if is_full() { 50 } else { 2 } {
        for service in open_at_once(&cluster.create_database(), 6).await {
            service.close().await.unwrap();
        }
    }
    let urls = cluster.create_database();
    let services = open_at_once(&urls, 3).await;
    revocations(&services[0], &services[1], if is_full() { 300 } else { 15 }).await;
    let nodes: Vec<Node> = urls.iter().enumerate().map(|(i, url)| Node::start(&format!("node-{i}"), url)).collect();
    for _ in 0..if is_full() { 3 } else { 1 } {
        progress(&nodes, 20, || cluster.sessions()).await;
        cluster.kill(2);
        // The other nodes continue once the cluster has noticed.
        wait_for_progress(&nodes[..2], 50).await;
        cluster.rejoin(2);
    }
    progress(&nodes, 20, || cluster.sessions()).await;
    let acknowledged: Vec<Acknowledged> = nodes.into_iter().map(Node::finish).collect();
    check(&services[2], &acknowledged).await;
    check(&services[0], &acknowledged).await;
    for service in services {
        check_usable(&service).await;
        service.close().await.unwrap();
    }
}
