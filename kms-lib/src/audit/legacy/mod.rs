//! The audit log of Mini KMS on Node: formats 0 and 1 of its rows, and their order according to their links.
//!
//! All functions are pure. That service hashed the output of `JSON.stringify`, so this module prints JSON as ECMAScript
//! does (`ecma_json`) and sorts names as its `localeCompare` did (`collation`).

#[cfg(feature = "import")]
mod collation;
pub(crate) mod ecma_json;
#[cfg(feature = "import")]
mod hash;
#[cfg(feature = "import")]
mod links;
#[cfg(feature = "import")]
mod mysql_json;
mod report;
mod row;
mod sealed;

#[cfg(all(test, feature = "import"))]
pub(crate) use hash::reproduce;
#[cfg(feature = "import")]
pub(crate) use hash::{Doubt, Search};
#[cfg(feature = "import")]
pub(crate) use links::{Chain, Entry, SealedIds};
pub use report::{LegacyFork, LegacyForks, LegacyLog, LegacyVerdict, RowSample};
pub use row::LegacyRow;
pub(crate) use row::{StoredRow, leaf};
pub(crate) use sealed::{SealedLog, findings, sealed_log};
