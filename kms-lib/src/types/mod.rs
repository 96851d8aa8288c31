//! Plain data shared by every layer: identifiers, entities, attempts, audit records and errors.
//!
//! The types have no behavior beyond parsing, checking and formatting. Every other module depends on them.

pub mod actor;
pub mod attempt;
pub mod audit;
pub mod change;
pub mod context;
pub mod credential;
pub mod error;
pub mod grant;
pub mod ids;
pub mod key;
pub mod limits;
pub(crate) mod named;
pub mod quarantine;
pub mod root_key;
pub(crate) mod secret;
pub(crate) mod tallies;
pub mod text;
pub mod time;
pub mod view;
