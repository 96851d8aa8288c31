//! Importing the data of Mini KMS on Node: keys with their material, grants and the log.
//!
//! The source is only read, in one snapshot. Every row is written through the ledger with its record, so an import can
//! be killed at any time and run again: each run imports what is missing or differs. Until the import is finalized, the
//! source determines the state of the keys that came from it.

mod finish;
mod grants;
mod keys;
mod log;
mod mapping;
mod material;
mod missing;
mod part;
mod planned;
mod reach;
mod report;
mod restrict;
mod row_lengths;
mod run;
mod shown;
mod source;

pub use report::{
    ImportCounts, ImportFinding, ImportFindingKind, ImportJob, ImportProgress, ImportReport, ImportStage,
};
pub use source::ImportSource;
