//! Mini KMS as a library: keys with a lifecycle, envelope encryption, grants and a tamper-evident audit log.
//!
//! Under construction: the foundations are here, the service on top of them is not yet.

#![forbid(unsafe_code)]

pub mod audit;
pub mod blocking;
pub mod catalog;
pub mod config;
pub mod crypto;
pub mod envelope;
pub mod grants;
pub mod keys;
pub mod kms;
pub mod ledger;
pub mod ops;
pub mod policy;
pub mod scheduler;
pub mod session;
pub mod storage;
pub mod types;
pub mod verification;

pub use config::Config;
pub use kms::Kms;
pub use ledger::AuditAck;
pub use session::{CreateKey, KeyFilter, KeyRef, Session, UpdateKey};
pub use types::actor::{Actor, Role};
pub use types::context::Context;
pub use types::error::{Error, ErrorCode, Result};
pub use types::grant::{Conditions, GrantScope, Permission};
pub use types::ids::{GrantId, KeyId};
pub use types::key::{KeyPurpose, KeyState, KeyType, VersionState};
pub use types::time::{Clock, Timestamp};
