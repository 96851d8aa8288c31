//! The same interface for callers without an async runtime.
//!
//! ```
//! # fn main() -> Result<(), kms_lib::Error> {
//! # let folder = tempfile::tempdir().map_err(|e| kms_lib::Error::invalid(e.to_string()))?;
//! # let file = folder.path().join("kms.db");
//! use kms_lib::{Actor, Config, Context, NewKey, Role, blocking::Kms};
//!
//! let kms = Kms::open(Config::new(format!("sqlite:{}", file.display())).root_key_bytes([7; 32]))?;
//! let alice = kms.session(Actor::new("alice", Role::Admin)?);
//! alice.create_key(NewKey::aes("users"))?;
//! let sealed = alice.encrypt("users", b"secret", &Context::new())?;
//! assert_eq!(alice.decrypt(&sealed.ciphertext, &Context::new())?.plaintext.as_slice(), b"secret");
//! kms.close()
//! # }
//! ```

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io::{Read, Write};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::{Handle, Runtime};

use crate::config::Config;
use crate::crypto::provider::SignatureAlgorithm;
use crate::envelope::RootKeySource;
#[cfg(feature = "import")]
use crate::import::{ImportJob, ImportReport, ImportSource};
use crate::kms::{BackupComparison, BackupOptions, BackupReport, JobReport};
use crate::ledger::Leader;
use crate::ops::{Metrics, Ready, Telemetry};
use crate::session::{
    self, AuditKey, AuditQuery, CreatedToken, CredentialDescription, DataKey, DecryptItem, Decrypted, EncryptItem,
    Encrypted, GrantDescription, GrantFilter, ImportedRow, IntegrityKeyReplacement, KeyDescription, KeyFilter, KeyRef,
    KeyUpdate, NewGrant, NewKey, NewToken, Page, Paging, QuarantinedRow, ReencryptItem, Reencrypted, RetireOptions,
    Retirement, RewrapPlan, RootKeyDescription, RootKeyJob, RootKeyReport, SignItem, Signature, SignatureCheck,
    StreamDecryptor, StreamEncryptor, StreamSummary, VerifyItem, VersionDescription,
};
use crate::types::actor::Actor;
use crate::types::audit::AuditRecord;
use crate::types::context::Context;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::{CredentialId, GrantId};
use crate::types::time::Timestamp;
use crate::verification::{AnchorReport, Report, VerifyOptions};
use crate::workers::build_runtime;

/// The runtime that does the work, and the process that it was created in.
struct Engine {
    runtime: Mutex<Option<Runtime>>,
    handle: Handle,
    process: u32,
}

impl Engine {
    fn new() -> Result<Self> {
        check_thread()?;
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        // Connections to database servers need I/O.
        let runtime = build_runtime(builder.thread_name("mini-kms").enable_all(), None).map_err(|e| {
            let text = format!("the runtime cannot be started: {e}; nothing was done, retry later");
            Error::new(ErrorCode::Overloaded, text).with_source(e)
        })?;
        let handle = runtime.handle().clone();
        Ok(Self { runtime: Mutex::new(Some(runtime)), handle, process: std::process::id() })
    }

    /// Runs a future to completion on this thread, which also writes what it submits, if no other thread writes. The
    /// service's own tasks run on the threads of the runtime.
    fn run<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        // A forked child does not have the threads of the runtime, so waiting for them would never end.
        if std::process::id() != self.process {
            return Err(Error::new(
                ErrorCode::UsedAfterFork,
                "this process was forked after the service was opened; open the service again in the child",
            ));
        }
        check_thread()?;
        reseed(self.process);
        let mut done = None;
        let work = async { done = Some(work.await) };
        self.finish(pin!(work));
        done.unwrap_or_else(|| Err(Error::new(ErrorCode::Internal, "the operation ended without a result")))
    }

    /// Runs a future on this thread. Not generic, because the runtime would be compiled for each operation.
    fn finish(&self, work: Pin<&mut dyn Future<Output = ()>>) {
        // The runtime moves what it is given several times, and the state of an operation has kilobytes.
        let (mut work, mut leader) = (work, Leader::default());
        self.handle.block_on(poll_fn(|context| leader.poll(work.as_mut(), context)));
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let runtime = self.runtime.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            if std::process::id() == self.process {
                // Does not wait, because dropping may happen within another runtime, where waiting is not allowed.
                runtime.shutdown_background();
            } else {
                // The runtime's threads are not in this process, so its destructor, which joins them, must not run.
                std::mem::forget(runtime);
            }
        }
    }
}

thread_local! {
    /// The process in which this thread's random generator was last seeded; 0 if unknown.
    static SEEDED_IN: Cell<u32> = const { Cell::new(0) };
}

/// Seeds this thread's random generator, which makes identifiers, once in each process. Otherwise, a forked child would
/// make the same identifiers as its parent. Nonces and keys come from the cryptography provider's generator.
fn reseed(process: u32) {
    if SEEDED_IN.replace(process) != process && rand::rng().reseed().is_err() {
        SEEDED_IN.set(0);
        tracing::warn!("the system's random generator failed; identifiers of a forked process may repeat");
    }
}

fn check_thread() -> Result<()> {
    match Handle::try_current() {
        Ok(_) => Err(Error::new(
            ErrorCode::BlockingInAsync,
            "a blocking call was made from within an async runtime; use kms_lib::Kms there",
        )),
        Err(_) => Ok(()),
    }
}

/// [`crate::Kms`] for callers without an async runtime. Cheap to clone; can be shared between threads.
#[derive(Clone)]
pub struct Kms {
    engine: Arc<Engine>,
    kms: crate::Kms,
}

impl Kms {
    /// Opens the store; see [`crate::Kms::open`].
    pub fn open(config: Config) -> Result<Self> {
        let engine = Arc::new(Engine::new()?);
        let kms = engine.run(crate::Kms::open(config))?;
        Ok(Self { engine, kms })
    }
    /// Opens a SQLite store for reading; see [`crate::Kms::open_read_only`].
    pub fn open_read_only(config: Config) -> Result<Self> {
        let engine = Arc::new(Engine::new()?);
        let kms = engine.run(crate::Kms::open_read_only(config))?;
        Ok(Self { engine, kms })
    }
    /// A session of an actor; see [`crate::Kms::session`].
    pub fn session(&self, actor: Actor) -> Session {
        Session { engine: Arc::clone(&self.engine), session: self.kms.session(actor) }
    }
    /// See [`crate::Kms::authenticate`].
    pub fn authenticate(&self, token: &str) -> Result<Actor> {
        self.engine.run(self.kms.authenticate(token))
    }
    /// See [`crate::Kms::ready`].
    pub fn ready(&self) -> Result<Ready> {
        self.engine.run(self.kms.ready())
    }
    /// See [`crate::Kms::stop_verifying`].
    pub fn stop_verifying(&self) {
        self.kms.stop_verifying();
    }
    /// See [`crate::Kms::is_alive`].
    pub fn is_alive(&self) -> bool {
        self.kms.is_alive()
    }
    /// See [`crate::Kms::telemetry`].
    pub fn telemetry(&self) -> Result<Telemetry> {
        self.engine.run(self.kms.telemetry())
    }
    /// See [`crate::Kms::run_scheduler`].
    pub fn run_scheduler(&self) -> Result<JobReport> {
        self.engine.run(self.kms.run_scheduler())
    }
    /// See [`crate::Kms::verify_backup`].
    pub fn verify_backup(config: &Config, backup: impl AsRef<Path>) -> Result<BackupReport> {
        Engine::new()?.run(crate::Kms::verify_backup(config, backup))
    }
    /// See [`crate::Kms::verify_backup_with`].
    pub fn verify_backup_with(
        config: &Config,
        backup: impl AsRef<Path>,
        options: &BackupOptions,
    ) -> Result<BackupReport> {
        Engine::new()?.run(crate::Kms::verify_backup_with(config, backup, options))
    }
    /// See [`crate::Kms::restore`].
    pub fn restore(config: &Config, backup: impl AsRef<Path>) -> Result<BackupReport> {
        Engine::new()?.run(crate::Kms::restore(config, backup))
    }
    /// See [`crate::Kms::restore_with`].
    pub fn restore_with(config: &Config, backup: impl AsRef<Path>, options: &BackupOptions) -> Result<BackupReport> {
        Engine::new()?.run(crate::Kms::restore_with(config, backup, options))
    }
    /// Closes the service; see [`crate::Kms::close`].
    pub fn close(&self) -> Result<()> {
        self.engine.run(self.kms.close())
    }
}

impl std::fmt::Debug for Kms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kms")
    }
}

/// [`crate::Session`] for callers without an async runtime.
#[derive(Clone)]
pub struct Session {
    engine: Arc<Engine>,
    session: session::Session,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.session.fmt(f)
    }
}

/// Mirrors methods of the async session, each with a link to the original.
macro_rules! mirror {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $answer:ty;)+) => {
        impl Session {
            /// See [`crate::Session::with_idempotency_key`].
            pub fn with_idempotency_key(&self, key: &str) -> Result<Self> {
                let session = self.session.with_idempotency_key(key)?;
                Ok(Self { engine: Arc::clone(&self.engine), session })
            }
            /// The actor of the session.
            pub fn actor(&self) -> &Actor {
                self.session.actor()
            }
            $(
                #[doc = concat!("See [`crate::Session::", stringify!($name), "`].")]
                pub fn $name(&self, $($arg: $kind),*) -> Result<$answer> {
                    self.engine.run(self.session.$name($($arg),*))
                }
            )+
        }
    };
}

/// Mirrors methods of the async session whose first argument is a key. The key is converted first, so that the
/// operation is not generic and is compiled in this crate only.
macro_rules! mirror_on_key {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $answer:ty;)+) => {
        impl Session {
            $(
                #[doc = concat!("See [`crate::Session::", stringify!($name), "`].")]
                pub fn $name(&self, key: impl Into<KeyRef>, $($arg: $kind),*) -> Result<$answer> {
                    fn run(on: &Session, key: KeyRef, $($arg: $kind),*) -> Result<$answer> {
                        on.engine.run(on.session.$name(key, $($arg),*))
                    }
                    run(self, key.into(), $($arg),*)
                }
            )+
        }
    };
}

mirror! {
    create_key(new: NewKey) -> KeyDescription;
    list_keys(filter: &KeyFilter, paging: &Paging) -> Page<KeyDescription>;
    decrypt(ciphertext: &[u8], context: &Context) -> Decrypted;
    decrypt_item(item: DecryptItem<'_>) -> Decrypted;
    reencrypt(item: ReencryptItem<'_>) -> Reencrypted;
    encrypt_batch(items: &[EncryptItem<'_>]) -> Vec<Result<Encrypted>>;
    decrypt_batch(items: &[DecryptItem<'_>]) -> Vec<Result<Decrypted>>;
    sign_batch(items: &[SignItem<'_>]) -> Vec<Result<Signature>>;
    verify_batch(items: &[VerifyItem<'_>]) -> Vec<Result<SignatureCheck>>;
    reencrypt_batch(items: &[ReencryptItem<'_>]) -> Vec<Result<Reencrypted>>;
    put_grant(new: NewGrant) -> GrantDescription;
    revoke_grant(id: GrantId) -> ();
    revoke_grant_cascading(id: GrantId) -> ();
    list_grants(filter: &GrantFilter, paging: &Paging) -> Page<GrantDescription>;
    create_token(new: NewToken) -> CreatedToken;
    create_first_token(new: NewToken) -> CreatedToken;
    revoke_credential(id: CredentialId) -> ();
    list_credentials(paging: &Paging) -> Page<CredentialDescription>;
    list_quarantine() -> Vec<QuarantinedRow>;
    release_quarantine() -> Vec<QuarantinedRow>;
    list_audit(query: &AuditQuery, paging: &Paging) -> Page<AuditRecord>;
    list_imported_audit(source: &str, paging: &Paging) -> Page<ImportedRow>;
    checkpoint() -> String;
    kept_checkpoint(size: u64) -> Option<String>;
    compare_anchors(checkpoints: &[String]) -> AnchorReport;
    record_anchor_failure(reason: &str) -> ();
    audit_public_key() -> String;
    audit_public_keys() -> Vec<AuditKey>;
    replace_signing_key() -> String;
    verify_audit() -> Report;
    verify_audit_incrementally() -> Report;
    verify_audit_with(options: &VerifyOptions) -> Report;
    metrics() -> Metrics;
    permit_telemetry() -> ();
    backup(to: impl AsRef<Path>) -> BackupReport;
    backup_with(to: impl AsRef<Path>, options: &BackupOptions) -> BackupReport;
    compare_backup(from: impl AsRef<Path>) -> BackupComparison;
    list_root_keys() -> Vec<RootKeyDescription>;
    add_root_key(source: &RootKeySource) -> RootKeyDescription;
    plan_rewrap() -> RewrapPlan;
    rewrap(job: &RootKeyJob) -> RootKeyReport;
    verify_root_key(generation: u32, job: &RootKeyJob) -> RootKeyReport;
    verify_planned_root_key(source: &RootKeySource, job: &RootKeyJob) -> RootKeyReport;
    retire_root_key(generation: u32, options: &RetireOptions) -> Retirement;
    replace_integrity_key() -> IntegrityKeyReplacement;
    decrypt_stream(beginning: &[u8], context: &Context) -> Option<(StreamDecryptor, usize)>;
}

mirror_on_key! {
    get_key() -> KeyDescription;
    public_key(version: u32) -> String;
    list_versions(paging: &Paging) -> Page<VersionDescription>;
    get_version(version: u32) -> VersionDescription;
    rotate_key(expected_current: Option<u32>) -> KeyDescription;
    enable_key() -> KeyDescription;
    disable_key() -> KeyDescription;
    revoke_key() -> KeyDescription;
    enable_version(version: u32) -> KeyDescription;
    disable_version(version: u32) -> KeyDescription;
    revoke_version(version: u32) -> KeyDescription;
    set_window(version: u32, not_after: Option<Timestamp>) -> KeyDescription;
    update_key(update: KeyUpdate) -> KeyDescription;
    schedule_deletion(waiting_days: Option<u32>) -> KeyDescription;
    cancel_deletion() -> KeyDescription;
    trim_key() -> KeyDescription;
    encrypt(plaintext: &[u8], context: &Context) -> Encrypted;
    decrypt_with(ciphertext: &[u8], context: &Context) -> Decrypted;
    decrypt_oaep(version: u32, ciphertext: &[u8]) -> Decrypted;
    sign(payload: &[u8], algorithm: SignatureAlgorithm) -> Signature;
    sign_with_version(version: u32, payload: &[u8], algorithm: SignatureAlgorithm) -> Signature;
    verify(payload: &[u8], signature: &[u8], algorithm: SignatureAlgorithm, version: Option<u32>) -> SignatureCheck;
    generate_data_key(bytes: usize, context: &Context) -> DataKey;
    generate_data_key_without_plaintext(bytes: usize, context: &Context) -> DataKey;
    encrypt_stream(context: &Context) -> StreamEncryptor;
}

#[cfg(feature = "import")]
impl Session {
    /// See [`crate::Session::import_mini_kms`].
    pub fn import_mini_kms(&self, from: &ImportSource, job: &ImportJob) -> Result<ImportReport> {
        self.engine.run(self.session.import_mini_kms(from, job))
    }
}

impl Session {
    /// Encrypts everything from `input` to `output`; see [`crate::Session::encrypt_reader`].
    pub fn encrypt_reader(
        &self,
        key: impl Into<KeyRef>,
        context: &Context,
        input: &mut dyn Read,
        output: &mut dyn Write,
    ) -> Result<StreamSummary> {
        session::pump_encryption(self.encrypt_stream(key, context)?, input, output)
    }
    /// Decrypts everything from `input` to `output`; see [`crate::Session::decrypt_reader`].
    pub fn decrypt_reader(
        &self,
        context: &Context,
        input: &mut dyn Read,
        output: &mut dyn Write,
    ) -> Result<StreamSummary> {
        session::pump_decryption(|beginning| self.decrypt_stream(beginning, context), input, output)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::actor::Role;

    #[test]
    fn refuses_to_block_a_runtime() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("kms.db").display());
        let config = Config::new(url).root_key_bytes([1; 32]);
        let kms = Kms::open(config.clone()).unwrap();
        let session = kms.session(Actor::new("alice", Role::Admin).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            assert_eq!(session.metrics().unwrap_err().code(), ErrorCode::BlockingInAsync);
            assert_eq!(Kms::open(config).unwrap_err().code(), ErrorCode::BlockingInAsync);
        });
        session.metrics().unwrap();
        kms.close().unwrap();
        assert_eq!(session.create_key(NewKey::aes("late")).unwrap_err().code(), ErrorCode::Closed);
    }

    #[test]
    fn refuses_to_work_in_a_forked_child() {
        let mut engine = Engine::new().unwrap();
        engine.process += 1;
        let error = engine.run(async { Ok(()) }).unwrap_err();
        assert_eq!(error.code(), ErrorCode::UsedAfterFork);
    }
}
