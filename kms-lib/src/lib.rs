//! Mini KMS as a library: keys with a lifecycle, envelope encryption, grants and a tamper-evident audit log.
//!
//! Under construction: the foundations are here, the service on top of them is not yet.

#![forbid(unsafe_code)]

pub mod audit;
pub mod catalog;
pub mod crypto;
pub mod envelope;
pub mod grants;
pub mod keys;
pub mod ledger;
pub mod policy;
pub mod session;
pub mod storage;
pub mod types;
pub mod verification;

pub use session::{CreateKey, KeyFilter, KeyRef, Session, UpdateKey};
pub use types::actor::{Actor, Role};
pub use types::context::Context;
pub use types::error::{Error, ErrorCode, Result};
pub use types::time::Timestamp;
