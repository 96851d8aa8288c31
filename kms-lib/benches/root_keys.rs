//! The cost of replacing a root key: the time and calls to wrap 10,000 keys under a second local key, and how long
//! callers wait for an encryption meanwhile, compared with an idle service. Run `cargo bench -p kms-lib --bench
//! root_keys`, or with `-- --quick` for 1,000 keys.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program that measures and prints")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kms_lib::{
    Actor, Config, Context, Kms, NewKey, RetireOptions, Role, RootKeyJob, RootKeySource, SchedulerConfig, Session,
};

/// The number of callers that encrypt concurrently.
const CALLERS: usize = 8;

#[tokio::main]
async fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let keys = if quick { 1_000 } else { 10_000 };
    let folder = tempfile::tempdir().unwrap();
    let config = Config::new(format!("sqlite:{}", folder.path().join("kms.db").display()))
        .root_key_bytes([7; 32])
        .add_root_key_bytes([8; 32])
        .scheduler(SchedulerConfig::disabled());
    let kms = Kms::open(config).await.unwrap();
    let session = kms.session(Actor::new("bench", Role::Admin).unwrap());
    create(&session, keys).await;
    let idle = {
        let stop = Arc::new(AtomicBool::new(false));
        let load = load(&session, &stop);
        tokio::time::sleep(Duration::from_secs(3)).await;
        stop.store(true, Ordering::SeqCst);
        waits(load).await
    };
    session.add_root_key(&RootKeySource::from_bytes([8; 32])).await.unwrap();
    let plan = session.plan_rewrap().await.unwrap();
    println!("{} materials to wrap; calls: {:?}", plan.materials, plan.calls);
    let stop = Arc::new(AtomicBool::new(false));
    let load = load(&session, &stop);
    let job = RootKeyJob::default();
    timed("rewrap, under load", keys, session.rewrap(&job)).await;
    timed("verify, under load", keys, session.verify_root_key(2, &job)).await;
    stop.store(true, Ordering::SeqCst);
    let busy = waits(load).await;
    let begun = Instant::now();
    session.retire_root_key(1, &RetireOptions::default()).await.unwrap();
    println!("retire: {:.2} s", begun.elapsed().as_secs_f64());
    for (name, waits) in [("idle", idle), ("while it rewraps and verifies", busy)] {
        let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!("encrypt, {name}: p50 {:.2} ms, p99 {:.2} ms, {} calls", at(0.5), at(0.99), waits.len());
    }
    kms.close().await.unwrap();
}

async fn create(session: &Session, keys: usize) {
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let session = session.clone();
            tokio::spawn(async move {
                for n in (task..keys).step_by(64) {
                    session.create_key(NewKey::aes(format!("k{n}"))).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

async fn timed<T: std::fmt::Debug>(what: &str, keys: usize, work: impl Future<Output = Result<T, kms_lib::Error>>) {
    let begun = Instant::now();
    let report = work.await.unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    println!("{what}: {seconds:.2} s, {:.0} keys/s; {report:?}", keys as f64 / seconds);
}

type Load = Vec<tokio::task::JoinHandle<Vec<Duration>>>;

/// Starts callers that encrypt until `stop` is set.
fn load(session: &Session, stop: &Arc<AtomicBool>) -> Load {
    let caller = |_| {
        let (session, stop) = (session.clone(), Arc::clone(stop));
        tokio::spawn(async move {
            let mut waits = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                let begun = Instant::now();
                session.encrypt("k0", &[0; 256], &Context::new()).await.unwrap();
                waits.push(begun.elapsed());
            }
            waits
        })
    };
    (0..CALLERS).map(caller).collect()
}

/// The durations of all calls, sorted.
async fn waits(load: Load) -> Vec<Duration> {
    let mut waits = Vec::new();
    for caller in load {
        waits.extend(caller.await.unwrap());
    }
    waits.sort_unstable();
    waits
}
