//! Paging through lists in memory. They are read in slices, so that the snapshot is locked only briefly, and the work
//! for one page is bounded: a page that reaches the bound has fewer entries than its limit, and continues after the
//! last entry that was examined.

use super::Session;
use super::requests::Page;
use crate::ledger::{Admission, Lane};
use crate::types::error::Result;
use std::sync::Arc;

/// The number of entries that are examined while the snapshot is locked.
const SLICE: usize = 256;
/// The number of entries that are examined for one page.
const PAGE_WORK: usize = 10_000;

/// A slice of a list.
pub(super) struct Slice<T> {
    /// The examined entries that match.
    pub items: Vec<T>,
    /// The number of entries that were examined.
    pub looked_at: usize,
    /// The cursor of the last examined entry, if there are more after it.
    pub last: Option<String>,
}

impl<T> Slice<T> {
    /// Examines entries until `room` of them match. `see` returns an entry as it is to be listed, or none if it does
    /// not match; `cursor` names an entry.
    pub(super) fn of<E>(
        entries: impl Iterator<Item = E>,
        room: usize,
        mut see: impl FnMut(&E) -> Option<T>,
        cursor: impl Fn(&E) -> String,
    ) -> Self {
        let mut slice = Self { items: Vec::new(), looked_at: 0, last: None };
        let mut last = None;
        for entry in entries {
            if slice.items.len() >= room || slice.looked_at >= SLICE {
                slice.last = last.as_ref().map(cursor);
                return slice;
            }
            slice.items.extend(see(&entry));
            slice.looked_at += 1;
            last = Some(entry);
        }
        slice
    }
}

/// Builds a page of up to `limit` entries. `look` is called with the number of entries still wanted and with the cursor
/// of the entry examined last, if any; `cursor` names an entry of the page.
pub(super) async fn page<T>(
    limit: usize,
    cursor: impl Fn(&T) -> String,
    mut look: impl FnMut(usize, Option<&str>) -> Result<Slice<T>>,
) -> Result<Page<T>> {
    // One entry more than the limit shows whether there is another page.
    let (mut items, mut looked_at, mut last) = (Vec::new(), 0, None);
    loop {
        let slice = look(limit + 1 - items.len(), last.as_deref())?;
        items.extend(slice.items);
        looked_at += slice.looked_at;
        last = slice.last;
        if items.len() > limit || last.is_none() || looked_at >= PAGE_WORK {
            break;
        }
        tokio::task::yield_now().await;
    }
    if items.len() > limit {
        return Ok(Page::of(items, limit, cursor));
    }
    Ok(Page { items, next_cursor: last })
}

impl Session {
    /// Admits a list like an operation.
    pub(super) fn admit_list(&self) -> Result<Arc<Admission>> {
        self.shared.ledger.admit(Lane::Use, self.actor.principal(), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages through the multiples of `divisor` up to `count`; returns them and the number of pages.
    async fn through(count: u32, divisor: u32, limit: usize) -> (Vec<u32>, usize) {
        let (mut found, mut pages, mut after) = (Vec::new(), 0, None::<String>);
        loop {
            let wanted = |n: &u32| n.is_multiple_of(divisor).then_some(*n);
            let begin = after.clone();
            let page = page(limit, u32::to_string, |room, last| {
                let from = last.or(begin.as_deref()).map_or(1, |last| last.parse::<u32>().unwrap_or(0) + 1);
                Ok(Slice::of(from..=count, room, wanted, u32::to_string))
            });
            let page = page.await.unwrap_or(Page { items: Vec::new(), next_cursor: None });
            assert!(page.items.len() <= limit);
            found.extend(page.items);
            pages += 1;
            after = page.next_cursor;
            if after.is_none() {
                return (found, pages);
            }
        }
    }

    #[tokio::test]
    async fn pages_have_every_entry_once_and_bounded_work() {
        for (count, divisor, limit, pages) in
            [(0, 1, 5, 1), (5, 1, 5, 1), (6, 1, 5, 2), (1_000, 1, 100, 10), (25_000, 30_000, 10, 3), (600, 300, 1, 2)]
        {
            let expected: Vec<u32> = (1..=count).filter(|n| n % divisor == 0).collect();
            assert_eq!(through(count, divisor, limit).await, (expected, pages), "{count} {divisor} {limit}");
        }
    }
}
