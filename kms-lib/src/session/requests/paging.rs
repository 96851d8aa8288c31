//! Paging, in the same form for all lists.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::types::error::{Error, Result};
use crate::types::limits::PAGE_LIMIT;

/// The default number of entries of a page.
const DEFAULT_LIMIT: usize = 100;

/// The part of a list to return: at most `limit` entries, from the beginning or after a cursor.
///
/// ```
/// # async fn names(session: &kms_lib::Session) -> kms_lib::Result<Vec<String>> {
/// use kms_lib::{KeyFilter, Paging};
/// let (mut paging, mut names) = (Paging::new(1_000), Vec::new());
/// loop {
///     let page = session.list_keys(&KeyFilter::new(), &paging).await?;
///     names.extend(page.items.into_iter().map(|key| key.name));
///     paging.cursor = page.next_cursor;
///     if paging.cursor.is_none() {
///         return Ok(names);
///     }
/// }
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Paging {
    /// The maximum number of entries in the page: 1 to 1,000.
    pub limit: usize,
    /// The `next_cursor` of the previous page; without it, the list starts at the beginning. A cursor is valid only for
    /// the list that returned it, with the same filter.
    pub cursor: Option<String>,
}

impl Paging {
    /// The first page of a list, with at most `limit` entries.
    pub fn new(limit: usize) -> Self {
        Self { limit, cursor: None }
    }
    /// Continues the list after this cursor.
    #[must_use]
    pub fn after(mut self, cursor: impl Into<String>) -> Self {
        self.cursor = Some(cursor.into());
        self
    }

    /// Refuses a limit outside 1 to 1,000.
    pub(in crate::session) fn check(&self) -> Result<()> {
        if self.limit == 0 || self.limit > PAGE_LIMIT {
            return Err(Error::invalid(format!("a page has 1 to {PAGE_LIMIT} entries, not {}", self.limit)));
        }
        Ok(())
    }

    /// Parses the cursor of a list whose cursors have this type.
    pub(in crate::session) fn cursor_as<T: FromStr>(&self) -> Result<Option<T>> {
        let Some(cursor) = &self.cursor else { return Ok(None) };
        cursor.parse().map(Some).map_err(|_| Error::invalid("the cursor is not one that this list returned"))
    }
}

/// The first page, with at most 100 entries.
impl Default for Paging {
    fn default() -> Self {
        Self::new(DEFAULT_LIMIT)
    }
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Page<T> {
    /// The entries, in the order of the list. A page may have fewer entries than the limit and still have a successor,
    /// since the work for one page is bounded.
    pub items: Vec<T>,
    /// The cursor of the next page, for [`Paging::after`]; none on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// A page of up to `limit` of the entries found, of which there may be more. `cursor` names an entry.
    pub(in crate::session) fn of<C: fmt::Display>(mut found: Vec<T>, limit: usize, cursor: impl Fn(&T) -> C) -> Self {
        let has_more = found.len() > limit;
        found.truncate(limit);
        let next_cursor = found.last().filter(|_| has_more).map(|last| cursor(last).to_string());
        Self { items: found, next_cursor }
    }
}
