//! Mini KMS as a library.

pub mod types;

pub use types::actor::{Actor, Role};
pub use types::context::Context;
pub use types::error::{Error, ErrorCode, Result};
pub use types::time::Timestamp;
