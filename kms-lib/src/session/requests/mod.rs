//! Requests of callers: keys, grants and tokens to create, edits, filters, and pages of lists.

mod grants;
mod keys;
mod paging;
mod tokens;

pub(super) use grants::GrantTarget;
pub use grants::{GrantFilter, NewGrant};
pub use keys::{KeyFilter, KeyUpdate, NewKey};
pub use paging::{Page, Paging};
pub use tokens::NewToken;
