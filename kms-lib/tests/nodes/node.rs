//! A node in its own process: the work that it does until the test ends it, and the test's handle to it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use kms_lib::internals::hex;
use kms_lib::{
    Actor, Config, Context, Error, ErrorCode, Kms, NewGrant, NewKey, Permission, Receipt, Role, SchedulerConfig,
    Session,
};

const URL: &str = "KMS_TEST_NODE_URL";
const NAME: &str = "KMS_TEST_NODE_NAME";
/// Number of tasks that encrypt and decrypt on each node.
const TASKS: usize = 8;

pub fn config(url: &str) -> Config {
    Config::new(url).root_key_bytes([7; 32]).scheduler(SchedulerConfig::disabled()).deletion_wait(0, 0)
}

/// The test's handle to the process of a node.
pub struct Node {
    pub name: String,
    child: Child,
    reader: Option<JoinHandle<()>>,
    said: Arc<Said>,
}

/// The output of a node so far.
#[derive(Default)]
struct Said {
    acknowledged: Mutex<HashMap<u64, String>>,
    faults: Mutex<Vec<String>>,
    errors: AtomicU64,
}

impl Node {
    pub fn start(name: &str, url: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "node_process", "--nocapture", "--test-threads=1"])
            .env(URL, url)
            .env(NAME, name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let said = Arc::<Said>::default();
        let listener = Arc::clone(&said);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                listener.hear(&String::from_utf8_lossy(&line));
            }
        });
        Self { name: name.into(), child, reader: Some(reader), said }
    }

    /// Kills the process.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Lets the node finish. Panics if it reports a fault or fails.
    pub fn finish(mut self) -> Acknowledged {
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap();
        let acknowledged = self.acknowledged();
        let faults = self.faults();
        assert!(status.success() && faults.is_empty(), "{}: {status} {faults:?}", self.name);
        acknowledged
    }

    /// The acknowledged operations, after the end of the node's output.
    pub fn acknowledged(&mut self) -> Acknowledged {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        let acknowledged = self.said.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Acknowledged { name: self.name.clone(), receipts: acknowledged, errors: self.errors() }
    }

    /// The number of operations acknowledged so far.
    pub fn progress(&self) -> usize {
        self.said.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The faults that the node reported.
    pub fn faults(&self) -> Vec<String> {
        self.said.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The number of operations that failed with an expected error.
    pub fn errors(&self) -> u64 {
        self.said.errors.load(Ordering::SeqCst)
    }
}

impl Said {
    fn hear(&self, line: &str) {
        let words: Vec<&str> = line.trim().split(' ').collect();
        match words[..] {
            ["ack", seq, hash] if hash.len() == 64 => {
                let former = self
                    .acknowledged
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(seq.parse().unwrap(), hash.to_owned());
                if former.is_some() {
                    self.fault(format!("record {seq} stands for two operations"));
                }
            }
            ["error", _] => {
                self.errors.fetch_add(1, Ordering::SeqCst);
            }
            ["fault", ..] => self.fault(line.to_owned()),
            _ => {}
        }
    }
    fn fault(&self, text: String) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }
}

/// The hashes of the acknowledged records, by sequence number.
pub struct Acknowledged {
    pub name: String,
    pub receipts: HashMap<u64, String>,
    pub errors: u64,
}

/// Not a test: the code of a node's process.
pub async fn process() {
    let Ok(url) = std::env::var(URL) else { return };
    let name = std::env::var(NAME).unwrap();
    let kms = Kms::open(config(&url)).await.unwrap();
    let session = kms.session(Actor::new(&name, Role::Admin).unwrap());
    let app = kms.session(Actor::new("app", Role::App).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for _ in 0..TASKS {
        tasks.push(tokio::spawn(encrypt_and_decrypt(session.clone(), Arc::clone(&stop))));
    }
    tasks.push(tokio::spawn(change(session.clone(), app, name, Arc::clone(&stop))));
    let scheduler = kms.clone();
    let ended = Arc::clone(&stop);
    tasks.push(tokio::spawn(async move {
        while !ended.load(Ordering::SeqCst) {
            let _ = scheduler.run_scheduler().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }));
    // Works until the test closes standard input.
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await.unwrap().unwrap();
    stop.store(true, Ordering::SeqCst);
    for task in tasks {
        if task.await.is_err() {
            say("fault a task panicked");
        }
    }
    let _ = kms.close().await;
}

fn say(line: &str) {
    // Written at once, because several tasks write lines.
    let mut output = std::io::stdout().lock();
    let _ = output.write_all(format!("{line}\n").as_bytes());
    let _ = output.flush();
}

fn acknowledge(receipt: &Receipt) {
    say(&format!("ack {} {}", receipt.seq, hex(&receipt.hash)));
}

/// Reports an error. Errors are expected only if changes of other nodes or an outage of the database explain them.
async fn complain(error: &Error) {
    let expected = matches!(
        error.code(),
        ErrorCode::VersionRevoked
            | ErrorCode::KeyDisabled
            | ErrorCode::Conflict
            | ErrorCode::StoreUnavailable
            | ErrorCode::StoreContended
            | ErrorCode::Overloaded
            | ErrorCode::CallerOverloaded
            | ErrorCode::OutcomeUnknown
    );
    say(&if expected { format!("error {}", error.code()) } else { format!("fault {error}") });
    if error.is_retryable() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn encrypt_and_decrypt(session: Session, stop: Arc<AtomicBool>) {
    let none = Context::new();
    while !stop.load(Ordering::SeqCst) {
        let sealed = match session.encrypt("shared", b"payload", &none).await {
            Ok(sealed) => sealed,
            Err(error) => {
                complain(&error).await;
                continue;
            }
        };
        acknowledge(&sealed.receipt);
        match session.decrypt(&sealed.ciphertext, &none).await {
            Ok(opened) => acknowledge(&opened.receipt),
            Err(error) => complain(&error).await,
        }
    }
}

/// Rotates, revokes, grants and deletes keys.
async fn change(session: Session, app: Session, name: String, stop: Arc<AtomicBool>) {
    let mut round = 0u32;
    while !stop.load(Ordering::SeqCst) {
        round += 1;
        let done = async {
            let rotated = session.rotate_key("shared", None).await?;
            if round.is_multiple_of(3) {
                session.revoke_version("shared", rotated.current_version - 1).await?;
            }
            let own = format!("{name} {} {round}", std::process::id());
            let own = session.create_key(NewKey::aes(own)).await?;
            // A key that this node creates is usable here at once, and so is a grant on it.
            let grant = [Permission::Encrypt, Permission::Decrypt];
            let grant = session.put_grant(NewGrant::new("app", Role::App).on_key(own.id).allow(grant)).await?;
            acknowledge(&app.encrypt(own.id, b"x", &Context::new()).await?.receipt);
            session.revoke_grant(grant.id).await?;
            // The deletion is due at once, and a scheduler destroys the key.
            session.schedule_deletion(own.id, Some(0)).await.map(drop)
        };
        if let Err(error) = done.await {
            complain(&error).await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
