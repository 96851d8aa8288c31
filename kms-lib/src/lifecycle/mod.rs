//! The lifecycle of keys and versions, as pure functions: whether a state allows an operation, and which rows a
//! transition changes. The tables are those of NIST SP 800-57 part 1 in the terms of this service.

mod apply;
mod apply_import;
mod apply_rights;
mod apply_root_keys;
mod command;
mod imported;
mod new_version;
mod permits;
mod validate;

pub use apply::{Context, apply};
#[cfg(feature = "import")]
pub use apply_import::import_grantor;
pub use apply_root_keys::leaked_service_keys;
pub use command::{
    CheckedCredential, CheckedGrant, CheckedKey, CheckedWrapping, Command, ENDED_TOKEN_DAYS, KeyEdit, NewGeneration,
    NewIntegrityKey, NewQuarantined, NewSigningKey, NewWrapping, Released, ResealedRow, Resealing, RetirementCheck,
    Wrapping,
};
pub use imported::LegacyPage;
#[cfg(feature = "import")]
pub use imported::{
    ImportFinalization, ImportRotation, ImportRun, ImportedGrant, ImportedGrants, ImportedKey, ImportedMaterial,
    ImportedVersion,
};
pub use new_version::NewVersion;
pub use permits::{Refusal, is_trimmable, next_version, permits};
pub use validate::{check_metadata, check_name, check_period, check_type_and_purpose};
