//! What callers ask for: keys, grants and tokens to be made, edits, filters, and the pages of lists.

mod grants;
mod keys;
mod paging;
mod tokens;

pub(super) use grants::GrantTarget;
pub use grants::{GrantFilter, NewGrant};
pub use keys::{KeyFilter, KeyUpdate, NewKey};
pub use paging::{Page, Paging};
pub use tokens::NewToken;
