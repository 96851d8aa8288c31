//! The same service for callers without an async runtime.
//!
//! ```
//! # fn main() -> Result<(), kms_lib::Error> {
//! # let folder = tempfile::tempdir().map_err(|e| kms_lib::Error::invalid(e.to_string()))?;
//! # let file = folder.path().join("kms.db");
//! use kms_lib::{Actor, Config, Context, CreateKey, Role, blocking::Kms};
//!
//! let kms = Kms::open(Config::new(format!("sqlite:{}", file.display())).root_key_bytes([7; 32]))?;
//! let alice = kms.session(Actor::new("alice", Role::Admin)?);
//! alice.create_key(CreateKey::aes("users"))?;
//! let sealed = alice.encrypt("users", b"secret", &Context::new())?;
//! assert_eq!(alice.decrypt(&sealed.ciphertext, &Context::new())?.plaintext.as_slice(), b"secret");
//! kms.close()
//! # }
//! ```

use std::future::Future;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::{Handle, Runtime};

use crate::config::Config;
use crate::crypto::provider::SignatureAlgorithm;
use crate::ops::Metrics;
use crate::scheduler::JobReport;
use crate::session::{
    self, AuditKey, AuditPage, AuditQuery, CreateKey, CredentialDescription, DataKey, DecryptItem, Decrypted,
    EncryptItem, Encrypted, GrantDescription, KeyDescription, KeyFilter, KeyPage, KeyRef, NewToken, QuarantinedRow,
    ReencryptItem, Reencrypted, SignItem, Signature, StreamDecryptor, StreamEncryptor, StreamSummary, UpdateKey,
    Verification, VerifyItem, VersionDescription, VersionPage,
};
use crate::types::actor::{Actor, Role};
use crate::types::context::Context;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::grant::{Conditions, GrantScope, Permission};
use crate::types::ids::{CredentialId, GrantId, KeyId};
use crate::types::time::Timestamp;
use crate::verification::{Report, VerifyOptions};

/// The runtime that does the work, and the process it was made in.
struct Engine {
    runtime: Mutex<Option<Runtime>>,
    handle: Handle,
    process: u32,
}

impl Engine {
    fn new() -> Result<Self> {
        check_thread()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("mini-kms")
            // Connections to database servers need I/O.
            .enable_all()
            .build()
            .map_err(|e| Error::new(ErrorCode::Internal, format!("the runtime cannot be started: {e}")))?;
        let handle = runtime.handle().clone();
        Ok(Self { runtime: Mutex::new(Some(runtime)), handle, process: std::process::id() })
    }

    /// Runs a future to its end on this thread, the service's own tasks on theirs.
    fn run<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        // The threads of the runtime did not come along into a forked child: waiting for them would last for ever.
        if std::process::id() != self.process {
            return Err(Error::new(
                ErrorCode::UsedAfterFork,
                "this process was forked after the service was opened; open it anew in the child",
            ));
        }
        check_thread()?;
        self.handle.block_on(work)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let runtime = self.runtime.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            if std::process::id() == self.process {
                // Not waited for: dropping may happen within another runtime, where waiting is not allowed.
                runtime.shutdown_background();
            } else {
                // Its threads are not in this process; what would join them must not run.
                std::mem::forget(runtime);
            }
        }
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

/// [`crate::Kms`] for callers without an async runtime. Cheap to clone, to be shared between threads.
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
    /// What this actor may do.
    pub fn session(&self, actor: Actor) -> Session {
        Session { engine: Arc::clone(&self.engine), session: self.kms.session(actor) }
    }
    /// Who shows this token; see [`crate::Kms::authenticate`].
    pub fn authenticate(&self, token: &str) -> Result<Actor> {
        self.engine.run(self.kms.authenticate(token))
    }
    /// Does the scheduler's jobs now.
    pub fn run_scheduler(&self) -> Result<JobReport> {
        self.engine.run(self.kms.run_scheduler())
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

/// Mirrors methods of the async session, each with the documentation of the original.
macro_rules! mirror {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $answer:ty;)+) => {
        impl Session {
            /// See [`crate::Session::with_idempotency_key`].
            pub fn with_idempotency_key(&self, key: &str) -> Result<Self> {
                let session = self.session.with_idempotency_key(key)?;
                Ok(Self { engine: Arc::clone(&self.engine), session })
            }
            /// Who acts.
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

mirror! {
    create_key(new: CreateKey) -> KeyDescription;
    get_key(key: impl Into<KeyRef>) -> KeyDescription;
    list_keys(filter: &KeyFilter, limit: usize, cursor: Option<&str>) -> KeyPage;
    public_key(key: impl Into<KeyRef>, version: u32) -> String;
    list_versions(key: impl Into<KeyRef>, limit: usize, cursor: Option<u32>) -> VersionPage;
    get_version(key: impl Into<KeyRef>, version: u32) -> VersionDescription;
    rotate_key(key: impl Into<KeyRef>, expected_current: Option<u32>) -> KeyDescription;
    enable_key(key: impl Into<KeyRef>) -> KeyDescription;
    disable_key(key: impl Into<KeyRef>) -> KeyDescription;
    revoke_key(key: impl Into<KeyRef>) -> KeyDescription;
    enable_version(key: impl Into<KeyRef>, version: u32) -> KeyDescription;
    disable_version(key: impl Into<KeyRef>, version: u32) -> KeyDescription;
    revoke_version(key: impl Into<KeyRef>, version: u32) -> KeyDescription;
    set_window(key: impl Into<KeyRef>, version: u32, not_after: Option<Timestamp>) -> KeyDescription;
    update_key(key: impl Into<KeyRef>, update: UpdateKey) -> KeyDescription;
    schedule_deletion(key: impl Into<KeyRef>, waiting_days: Option<u32>) -> KeyDescription;
    cancel_deletion(key: impl Into<KeyRef>) -> KeyDescription;
    encrypt(key: impl Into<KeyRef>, plaintext: &[u8], context: &Context) -> Encrypted;
    decrypt(ciphertext: &[u8], context: &Context) -> Decrypted;
    decrypt_with(key: impl Into<KeyRef>, ciphertext: &[u8], context: &Context) -> Decrypted;
    decrypt_item(item: DecryptItem<'_>) -> Decrypted;
    decrypt_oaep(key: impl Into<KeyRef>, version: u32, ciphertext: &[u8]) -> Decrypted;
    sign(key: impl Into<KeyRef>, payload: &[u8], algorithm: SignatureAlgorithm) -> Signature;
    sign_with_version(
        key: impl Into<KeyRef>, version: u32, payload: &[u8], algorithm: SignatureAlgorithm
    ) -> Signature;
    verify(
        key: impl Into<KeyRef>, payload: &[u8], signature: &[u8], algorithm: SignatureAlgorithm, version: Option<u32>
    ) -> Verification;
    generate_data_key(key: impl Into<KeyRef>, bytes: usize, context: &Context) -> DataKey;
    generate_data_key_without_plaintext(key: impl Into<KeyRef>, bytes: usize, context: &Context) -> DataKey;
    reencrypt(item: ReencryptItem<'_>) -> Reencrypted;
    encrypt_batch(items: &[EncryptItem<'_>]) -> Vec<Result<Encrypted>>;
    decrypt_batch(items: &[DecryptItem<'_>]) -> Vec<Result<Decrypted>>;
    sign_batch(items: &[SignItem<'_>]) -> Vec<Result<Signature>>;
    verify_batch(items: &[VerifyItem<'_>]) -> Vec<Result<Verification>>;
    reencrypt_batch(items: &[ReencryptItem<'_>]) -> Vec<Result<Reencrypted>>;
    put_grant(
        principal: &str, role: Role, scope: GrantScope, permissions: &[Permission], conditions: Conditions
    ) -> GrantDescription;
    find_key_to_grant(key: impl Into<KeyRef>) -> KeyId;
    withdraw_grant(id: GrantId) -> ();
    withdraw_grant_cascading(id: GrantId) -> ();
    list_grants(principal: Option<&str>, limit: usize, cursor: Option<GrantId>) -> Vec<GrantDescription>;
    list_grants_on(
        scope: Option<GrantScope>, principal: Option<&str>, limit: usize, cursor: Option<GrantId>
    ) -> Vec<GrantDescription>;
    create_token(principal: &str, role: Role, label: Option<&str>, expires_at: Option<Timestamp>) -> NewToken;
    create_first_token(principal: &str, label: Option<&str>, expires_at: Option<Timestamp>) -> NewToken;
    withdraw_credential(id: CredentialId) -> ();
    list_credentials(limit: usize, cursor: Option<CredentialId>) -> Vec<CredentialDescription>;
    list_quarantine() -> Vec<QuarantinedRow>;
    release_quarantine() -> Vec<QuarantinedRow>;
    list_audit(query: &AuditQuery) -> AuditPage;
    checkpoint() -> String;
    audit_public_key() -> String;
    audit_public_keys() -> Vec<AuditKey>;
    replace_signing_key() -> String;
    verify_audit() -> Report;
    verify_audit_incrementally() -> Report;
    verify_audit_with(options: &VerifyOptions) -> Report;
    metrics() -> Metrics;
    encrypt_stream(key: impl Into<KeyRef>, context: &Context) -> StreamEncryptor;
    decrypt_stream(beginning: &[u8], context: &Context) -> Option<(StreamDecryptor, usize)>;
}

impl Session {
    /// Encrypts all that `input` gives to `output`; see [`crate::Session::encrypt_reader`].
    pub fn encrypt_reader(
        &self,
        key: impl Into<KeyRef>,
        context: &Context,
        input: &mut dyn Read,
        output: &mut dyn Write,
    ) -> Result<StreamSummary> {
        session::pump_encryption(self.encrypt_stream(key, context)?, input, output)
    }
    /// Decrypts all that `input` gives to `output`; see [`crate::Session::decrypt_reader`].
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
        assert_eq!(session.create_key(CreateKey::aes("late")).unwrap_err().code(), ErrorCode::Closed);
    }

    #[test]
    fn refuses_to_work_in_a_forked_child() {
        let mut engine = Engine::new().unwrap();
        engine.process += 1;
        let error = engine.run(async { Ok(()) }).unwrap_err();
        assert_eq!(error.code(), ErrorCode::UsedAfterFork);
    }
}
