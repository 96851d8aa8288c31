//! Mini KMS as a library: keys with a lifecycle, envelope encryption, grants and a tamper-evident audit log, in one
//! SQLite file.
//!
//! Open a store, say who acts, and use keys by name:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), kms_lib::Error> {
//! # let folder = tempfile::tempdir().map_err(|e| kms_lib::Error::invalid(e.to_string()))?;
//! # let url = format!("sqlite:{}", folder.path().join("kms.db").display());
//! use kms_lib::SignatureAlgorithm::RsaPssSha256;
//! use kms_lib::{Actor, Config, Context, Kms, NewGrant, NewKey, Permission, Role};
//!
//! // The root key wraps all others, and is not in the store.
//! let kms = Kms::open(Config::new(url).root_key("passphrase:correct horse battery staple")?).await?;
//!
//! let admin = kms.session(Actor::new("alice", Role::Admin)?);
//! admin.create_key(NewKey::aes("users").rotation_period_days(90)).await?;
//! admin.create_key(NewKey::rsa_signing("invoices")).await?;
//! admin.put_grant(NewGrant::new("shop", Role::App).on_key("users").allow([Permission::Encrypt])).await?;
//!
//! // An application does what its grants allow. What it encrypts is bound to where it belongs.
//! let shop = kms.session(Actor::new("shop", Role::App)?);
//! let row = Context::from([("table", "users"), ("row", "4711")]);
//! let card = shop.encrypt("users", b"4111 1111 1111 1111", &row).await?;
//! assert!(shop.decrypt(&card.ciphertext, &row).await.is_err());
//! assert_eq!(admin.decrypt(&card.ciphertext, &row).await?.plaintext.as_slice(), b"4111 1111 1111 1111");
//!
//! // Rotation keeps what was encrypted readable; revocation does not.
//! admin.rotate_key("users", None).await?;
//! admin.revoke_version("users", 1).await?;
//! assert!(admin.decrypt(&card.ciphertext, &row).await.is_err());
//!
//! let signed = admin.sign("invoices", b"total: 42.00 EUR", RsaPssSha256).await?;
//! assert!(admin.verify("invoices", b"total: 42.00 EUR", &signed.signature, RsaPssSha256, None).await?.valid);
//!
//! // All of it is in the log, the refusals too, and the log proves itself.
//! assert!(admin.verify_audit().await?.ok);
//! kms.close().await
//! # }
//! ```
//!
//! | to | see |
//! | --- | --- |
//! | set it up | [`Config`], [`RootKeySource`] |
//! | use keys, manage them, grant, read the log | [`Session`] |
//! | encrypt files | [`Session::encrypt_reader`], [`Session::encrypt_stream`] |
//! | do without an async runtime | [`blocking`] |
//! | rotate by itself | [`SchedulerConfig`] |
//! | back up and restore | [`Session::backup`], [`Kms::restore`] |
//! | check a log elsewhere | [`audit`] |
//! | react to errors | [`ErrorCode`] |
//!
//! Standards: AES-GCM (NIST SP 800-38D), RSA (RFC 8017), Ed25519 (RFC 8032), HKDF (RFC 5869), Argon2id (RFC 9106),
//! canonical JSON (RFC 8785), Merkle trees (RFC 6962), signed notes and checkpoints (C2SP), key states (NIST SP
//! 800-57).

#![forbid(unsafe_code)]

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

/// What [`Metrics`] and [`Telemetry`] are made of.
pub mod metrics {
    pub use crate::ops::{
        AuditMetrics, BATCH_BOUNDS, COMMIT_BOUNDS, CacheUse, CommitMetrics, EncryptionAlert, KeyMetrics,
        LastVerification, Metrics, RotationAlert, StorageMetrics, Telemetry, UsageMetrics, WindowAlert,
    };
}

/// Parts of the crate that its own integration tests, fuzz targets and `kms-http` need. No promise of any kind covers
/// them.
#[doc(hidden)]
pub mod internals {
    pub use crate::crypto::ciphertext::HEADER as CIPHERTEXT_HEADER;
    pub use crate::crypto::provider;
    pub use crate::crypto::provider::Provider;
    pub use crate::crypto::rust_crypto::RustCrypto;
    pub use crate::crypto::stream::{CHUNK, Decryptor, Header};
    pub use crate::envelope::Derivation;
    pub use crate::outage::Outage;
    pub use crate::scheduler::Schedule;
    pub use crate::types::audit::hex;
    pub use crate::types::grant::StoredConditions;
}

/// The programs of the two READMEs, compiled as tests of the documentation.
#[cfg(doctest)]
mod readme {
    #[doc = include_str!("../../README.md")]
    struct Workspace;
    #[doc = include_str!("../README.md")]
    struct Crate;
}
