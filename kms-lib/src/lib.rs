//! Mini KMS as a library: keys with a lifecycle, envelope encryption, grants and a tamper-evident audit log, in a
//! SQLite file or on a MySQL, MariaDB or PostgreSQL server.
//!
//! Open a store, start a session for an actor, and use keys by name:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), kms_lib::Error> {
//! # let folder = tempfile::tempdir().map_err(|e| kms_lib::Error::invalid(e.to_string()))?;
//! # let url = format!("sqlite:{}", folder.path().join("kms.db").display());
//! use kms_lib::SignatureAlgorithm::RsaPssSha256;
//! use kms_lib::{Actor, Config, Context, Kms, NewGrant, NewKey, Permission, Role};
//!
//! // The root key wraps all other keys and is not in the store.
//! let kms = Kms::open(Config::new(url).root_key("passphrase:correct horse battery staple")?).await?;
//!
//! let admin = kms.session(Actor::new("alice", Role::Admin)?);
//! admin.create_key(NewKey::aes("users").rotation_period_days(90)).await?;
//! admin.create_key(NewKey::rsa_signing("invoices")).await?;
//! admin.put_grant(NewGrant::new("shop", Role::App).on_key("users").allow([Permission::Encrypt])).await?;
//!
//! // An application can do what its grants allow. The context binds a ciphertext to the row that it belongs to.
//! let shop = kms.session(Actor::new("shop", Role::App)?);
//! let row = Context::from([("table", "users"), ("row", "4711")]);
//! let card = shop.encrypt("users", b"4111 1111 1111 1111", &row).await?;
//! assert!(shop.decrypt(&card.ciphertext, &row).await.is_err());
//! assert_eq!(admin.decrypt(&card.ciphertext, &row).await?.plaintext.as_slice(), b"4111 1111 1111 1111");
//!
//! // After a rotation, old ciphertexts can still be decrypted; after a revocation, they cannot.
//! admin.rotate_key("users", None).await?;
//! admin.revoke_version("users", 1).await?;
//! assert!(admin.decrypt(&card.ciphertext, &row).await.is_err());
//!
//! let signed = admin.sign("invoices", b"total: 42.00 EUR", RsaPssSha256).await?;
//! assert!(admin.verify("invoices", b"total: 42.00 EUR", &signed.signature, RsaPssSha256, None).await?.valid);
//!
//! // The operations and refusals above are in the audit log, whose integrity can be verified.
//! assert!(admin.verify_audit().await?.ok);
//! kms.close().await
//! # }
//! ```
//!
//! | to | see |
//! | --- | --- |
//! | configure the service | [`Config`], [`RootKeySource`] |
//! | use and manage keys, make grants, read the log | [`Session`] |
//! | encrypt files | [`Session::encrypt_reader`], [`Session::encrypt_stream`] |
//! | work without an async runtime | [`blocking`] |
//! | rotate keys automatically | [`SchedulerConfig`] |
//! | back up and restore | [`Session::backup`], [`Kms::restore`] |
//! | verify a log outside of the service | [`audit`] |
//! | handle errors | [`ErrorCode`] |
//!
//! Standards: AES-GCM (NIST SP 800-38D), RSA (RFC 8017), Ed25519 (RFC 8032), HKDF (RFC 5869), Argon2id (RFC 9106),
//! canonical JSON (RFC 8785), Merkle trees (RFC 6962), signed notes and checkpoints (C2SP), key states (NIST SP
//! 800-57).

#![forbid(unsafe_code)]

#[cfg(not(any(feature = "mysql", feature = "postgres", feature = "sqlite")))]
compile_error!("kms-lib needs a store: enable at least one of the features `sqlite`, `mysql` and `postgres`");

pub mod audit;
pub mod blocking;
mod catalog;
mod config;
mod crypto;
mod envelope;
mod fair;
mod grants;
#[cfg(feature = "import")]
mod import;
pub mod json;
mod kms;
mod ledger;
mod lifecycle;
mod ops;
mod outage;
mod policy;
mod scheduler;
mod session;
mod storage;
mod types;
#[cfg(test)]
mod vectors;
mod verification;
mod workers;

pub use audit::legacy::{LegacyFork, LegacyForks, LegacyLog, LegacyRow, LegacyVerdict, RowSample};
pub use audit::verify::{Fault, Finding};
pub use config::Config;
pub use crypto::CryptoProvider;
pub use crypto::ciphertext::{Ciphertext, EncryptionAlgorithm};
pub use crypto::provider::SignatureAlgorithm;
pub use envelope::{AwsRootKey, CALL_BOUNDS, CallMetrics, RootKeyOperation, RootKeySource};
#[cfg(feature = "import")]
pub use import::{
    ImportCounts, ImportFinding, ImportFindingKind, ImportJob, ImportProgress, ImportReport, ImportSource, ImportStage,
};
pub use ipnet::IpNet;
pub use kms::{BackupComparison, BackupOptions, BackupReport, JobReport, Kms, LostVersion};
pub use ledger::AuditAck;
pub use ops::{Metrics, Ready, RootKeyHealth, Telemetry};
pub use scheduler::SchedulerConfig;
pub use session::{
    AuditKey, AuditQuery, BackupHour, CreatedToken, CredentialDescription, DataKey, DecryptItem, Decrypted,
    EncryptItem, Encrypted, FailedMaterial, GrantDescription, GrantFilter, ImportedRow, IntegrityKeyReplacement,
    KeyDescription, KeyFilter, KeyRef, KeyUpdate, NewGrant, NewKey, NewToken, Page, Paging, QuarantinedRow,
    ReencryptItem, Reencrypted, RetireOptions, Retirement, RewrapPlan, RootKeyCalls, RootKeyDescription, RootKeyJob,
    RootKeyProgress, RootKeyReport, Session, SignItem, Signature, SignatureCheck, StreamDecryptor, StreamEncryptor,
    StreamSummary, VerifyItem, VersionDescription,
};
pub use types::actor::{Actor, Role};
pub use types::audit::{Action, AuditRecord, Receipt, Status};
pub use types::context::Context;
pub use types::error::{Error, ErrorCode, Result, UnknownErrorCode};
pub use types::grant::{Conditions, GrantScope, Permission};
pub use types::ids::{CredentialId, GrantId, KeyId, LogId, QuarantineId, RecordId, VersionId};
pub use types::key::{AuditContext, DisabledReason, KeyPurpose, KeyState, KeyType, Origin, VersionState};
pub use types::limits;
pub use types::quarantine::EntityTable;
pub use types::root_key::{RootKeyProvider, RootKeyState};
pub use types::time::{Clock, Timestamp};
pub use verification::{AnchorReport, Progress, Report, VerifyOptions};
pub use zeroize::Zeroizing;

/// The types of the fields of [`Metrics`] and [`Telemetry`].
pub mod metrics {
    pub use crate::ops::{
        AuditMetrics, BATCH_BOUNDS, COMMIT_BOUNDS, CacheUse, CommitMetrics, EncryptionAlert, KeyMetrics,
        LastVerification, Metrics, RotationAlert, StorageMetrics, Telemetry, UsageMetrics, WindowAlert,
    };
}

/// Parts of the crate that its own integration tests, fuzz targets and `kms-http` need. They may change or disappear in
/// any release.
#[doc(hidden)]
pub mod internals {
    pub use crate::crypto::ciphertext::HEADER as CIPHERTEXT_HEADER;
    pub use crate::crypto::provider;
    pub use crate::crypto::provider::Provider;
    pub use crate::crypto::rust_crypto::RustCrypto;
    pub use crate::crypto::stream::{CHUNK, Decryptor, Header};
    pub use crate::envelope::Derivation;
    pub use crate::kms::authenticate;
    pub use crate::ledger::Leader;
    pub use crate::outage::Outage;
    pub use crate::scheduler::Schedule;
    pub use crate::types::audit::hex;
    pub use crate::types::grant::StoredConditions;
    pub use crate::workers::{build_runtime, run_blocking};
}

/// The programs in the two READMEs, compiled as doctests.
#[cfg(doctest)]
mod readme {
    #[doc = include_str!("../../README.md")]
    struct Workspace;
    #[doc = include_str!("../README.md")]
    struct Crate;
}
