//! The order of rows according to their links, and the faults of these links.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, hash_map as map};

use sha2::{Digest, Sha256};

use super::hash::{Doubt, digest_of};
use super::report::{LISTED_BRANCHES, LISTED_FORKS, LegacyFork, LegacyLog, LegacyVerdict, RowSample};
use super::row::{StoredRow, leaf, time};
use crate::audit::tree::Frontier;
use crate::types::audit::hex;

/// The link of the first row.
const GENESIS: &str = "GENESIS";
/// The index that represents no row.
const NONE: u32 = u32::MAX;

/// The part of a row that ordering and findings need: about 200 bytes, whatever its details.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The row's identifier.
    pub id: Box<str>,
    /// The leaf of the stored row in the Merkle tree.
    pub leaf: [u8; 32],
    /// The format under which the hash reproduced; none if the row was altered.
    pub format: Option<u8>,
    /// The length of the stored row in bytes.
    pub bytes: u32,
    /// The value that other rows link to.
    hash: [u8; 32],
    /// The value that this row links to.
    prev: [u8; 32],
    /// The time in microseconds since 1970.
    time: i64,
}

impl Entry {
    /// Creates the entry of a row.
    pub fn new(stored: &StoredRow) -> Self {
        let StoredRow { row, format } = stored;
        let body = stored.body();
        Self {
            id: row.id.as_str().into(),
            leaf: leaf(&body),
            format: *format,
            bytes: u32::try_from(body.len()).unwrap_or(u32::MAX),
            hash: link(&row.hash),
            prev: link(&row.prev_hash),
            // Rows without a valid time come first; their hash does not reproduce.
            time: time(&row.timestamp).map_or(i64::MIN, |time| time.micros()),
        }
    }
}

/// A link as a map key: the hash itself, or the SHA-256 of a text that is not a hash.
fn link(text: &str) -> [u8; 32] {
    digest_of(text).unwrap_or_else(|| Sha256::digest(text).into())
}

/// All rows of a log: the sealed ones first, in their order.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    entries: Vec<Entry>,
    /// The number of sealed rows.
    sealed: usize,
    /// Sealed rows that the source now holds in another form.
    changed: Vec<u32>,
    gone: Vec<u32>,
    /// Faults of the source's rows other than faults of their links.
    pub source: SourceFindings,
}

/// Faults of a source's rows other than faults of their links.
#[derive(Debug, Default)]
pub(crate) struct SourceFindings {
    /// Rows that are too long to be read.
    pub oversized: RowSample,
    /// Altered rows whose search was cut short.
    pub unsearched: RowSample,
    /// Altered rows that may have been written with their names in another order.
    pub order_lost: RowSample,
    /// The number of rows that are counted but were not read.
    pub unread: u64,
}

impl SourceFindings {
    /// Adds an altered row that may be unaltered.
    pub fn note_doubt(&mut self, doubt: Option<Doubt>, id: &str) {
        match doubt {
            Some(Doubt::Unsearched) => self.unsearched.add(id),
            Some(Doubt::OrderLost) => self.order_lost.add(id),
            None => {}
        }
    }
}

impl Chain {
    /// A chain that begins with the sealed rows.
    pub fn new(sealed: Vec<Entry>) -> Self {
        Self { sealed: sealed.len(), entries: sealed, ..Self::default() }
    }

    /// Indexes the sealed rows by their id: the first row, and all rows of an id that occurs several times.
    pub fn sealed_by_id(&self) -> SealedIds {
        let mut ids = SealedIds::default();
        for (at, entry) in (0..).zip(&self.entries[..self.sealed]) {
            match ids.first.entry(entry.id.clone()) {
                map::Entry::Vacant(place) => drop(place.insert(at)),
                map::Entry::Occupied(place) => ids.more.entry(entry.id.clone()).or_insert(vec![*place.get()]).push(at),
            }
        }
        ids
    }

    /// The entry of the row at this index.
    pub fn entry(&self, at: u32) -> &Entry {
        &self.entries[at as usize]
    }

    /// All entries: the sealed ones, then, after [`arrange`](Self::arrange), the new ones in the order of their links.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Adds a row that is not sealed yet.
    pub fn add(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// Notes that the source holds a sealed row in another form.
    pub fn note_changed(&mut self, at: u32) {
        self.changed.push(at);
    }

    /// Notes that the source no longer holds a sealed row.
    pub fn note_gone(&mut self, at: u32) {
        self.gone.push(at);
    }

    /// The number of sealed rows.
    pub fn sealed(&self) -> usize {
        self.sealed
    }

    /// Orders the new rows by their links: each after the row it links to, and otherwise by time.
    pub fn arrange(&mut self) {
        let parents = self.parents();
        let new = u32::try_from(self.sealed).unwrap_or(NONE);
        let mut children = Children::new(&parents);
        let mut ready = BinaryHeap::new();
        let key = |at: u32, entries: &[Entry]| Reverse((entries[at as usize].time, at));
        for at in new..count(&self.entries) {
            // A row that links to a sealed row, or to none, is ready at once.
            let parent = parents[at as usize];
            if parent == NONE || parent < new {
                ready.push(key(at, &self.entries));
            }
        }
        let mut order: Vec<u32> = (0..new).collect();
        let mut is_placed = vec![false; self.entries.len()];
        while let Some(Reverse((_, at))) = ready.pop() {
            order.push(at);
            is_placed[at as usize] = true;
            for child in children.take(at) {
                if child >= new {
                    ready.push(key(child, &self.entries));
                }
            }
        }
        let mut circular: Vec<u32> = (new..count(&self.entries)).filter(|at| !is_placed[*at as usize]).collect();
        circular.sort_by_key(|at| (self.entries[*at as usize].time, *at));
        order.extend(circular);
        let mut entries: Vec<Option<Entry>> = std::mem::take(&mut self.entries).into_iter().map(Some).collect();
        self.entries = order.into_iter().filter_map(|at| entries[at as usize].take()).collect();
    }

    /// The row that each row links to. Of several with the same hash, one whose hash reproduces is chosen, otherwise
    /// the first. `GENESIS` has no parent, whatever an altered row has as its hash.
    fn parents(&self) -> Vec<u32> {
        let genesis = link(GENESIS);
        let mut by_hash: HashMap<[u8; 32], u32> = HashMap::with_capacity(self.entries.len());
        for (at, entry) in (0..).zip(&self.entries) {
            let known = by_hash.entry(entry.hash).or_insert(at);
            if self.entry(*known).format.is_none() && entry.format.is_some() {
                *known = at;
            }
        }
        by_hash.remove(&genesis);
        self.entries.iter().map(|entry| by_hash.get(&entry.prev).copied().unwrap_or(NONE)).collect()
    }

    /// The findings on the log in its order.
    pub fn findings(&self, source: &str) -> LegacyLog {
        let rows = self.entries.len() as u64;
        let mut log = LegacyLog { source: source.to_owned(), rows, complete: true, ..LegacyLog::default() };
        let mut tree = Frontier::new();
        for entry in &self.entries {
            tree.push(entry.leaf);
            match entry.format {
                Some(1) => log.current_format += 1,
                Some(_) => log.older_format += 1,
                None => log.altered.add(&entry.id),
            }
            if entry.format != Some(1) {
                log.legacy.add(&entry.id);
            }
        }
        log.root = hex(&tree.root());
        self.changed.iter().for_each(|at| log.changed.add(&self.entry(*at).id));
        self.gone.iter().for_each(|at| log.gone.add(&self.entry(*at).id));
        log.oversized = self.source.oversized.clone();
        log.unsearched = self.source.unsearched.clone();
        log.order_lost = self.source.order_lost.clone();
        log.unread = self.source.unread;
        self.find_broken_links(&mut log);
        self.find_forks(&mut log);
        log.verdict = self.verdict();
        log
    }

    fn find_broken_links(&self, log: &mut LegacyLog) {
        let parents = self.parents();
        let genesis = link(GENESIS);
        let mut has_child = vec![false; self.entries.len()];
        let mut seen = HashMap::with_capacity(self.entries.len());
        for (at, (entry, parent)) in (0..).zip(self.entries.iter().zip(&parents)) {
            if seen.insert(entry.hash, at).is_some() {
                log.repeated.add(&entry.id);
            }
            if *parent == NONE {
                if entry.prev != genesis {
                    log.unlinked.add(&entry.id);
                }
                continue;
            }
            has_child[*parent as usize] = true;
            // The time of an altered row is not reliable.
            let parent = self.entry(*parent);
            if entry.format.is_some() && parent.format.is_some() && entry.time < parent.time {
                log.backwards.add(&entry.id);
            }
        }
        let mut reaches = vec![false; self.entries.len()];
        let mut children = Children::new(&parents);
        let mut begun: Vec<u32> = (0..count(&self.entries)).filter(|at| parents[*at as usize] == NONE).collect();
        while let Some(at) = begun.pop() {
            reaches[at as usize] = true;
            begun.extend(children.take(at));
        }
        for (at, entry) in self.entries.iter().enumerate() {
            if !reaches[at] {
                log.circular.add(&entry.id);
            }
            if !has_child[at] {
                log.heads.add(&entry.id);
            }
        }
    }

    fn find_forks(&self, log: &mut LegacyLog) {
        // The first row that links to a hash, and the number of such rows.
        let mut branches: HashMap<[u8; 32], (u32, RowSample)> = HashMap::new();
        let mut rows: HashMap<[u8; 32], u32> = HashMap::with_capacity(self.entries.len());
        for entry in &self.entries {
            *rows.entry(entry.prev).or_default() += 1;
        }
        for (at, entry) in (0..).zip(&self.entries) {
            if rows[&entry.prev] > 1 {
                let (_, sample) = branches.entry(entry.prev).or_insert_with(|| (at, RowSample::default()));
                sample.count += 1;
                if sample.ids.len() < LISTED_BRANCHES {
                    sample.ids.push(entry.id.to_string());
                }
            }
        }
        let mut branches: Vec<([u8; 32], u32, RowSample)> =
            branches.into_iter().map(|(prev, (first, sample))| (prev, first, sample)).collect();
        branches.sort_by_key(|(_, first, _)| *first);
        let genesis = link(GENESIS);
        log.forks.count = branches.len() as u64;
        log.forks.surplus_rows = branches.iter().map(|(.., sample)| sample.count - 1).sum();
        log.forks.listed = branches
            .into_iter()
            .take(LISTED_FORKS)
            .map(|(prev, _, RowSample { count, ids })| LegacyFork {
                prev_hash: if prev == genesis { GENESIS.to_owned() } else { hex(&prev) },
                rows: count,
                ids,
            })
            .collect();
    }

    /// The verdict of the original service, which compared each row's link with the previous row by time.
    fn verdict(&self) -> LegacyVerdict {
        let mut by_time: Vec<&Entry> = self.entries.iter().collect();
        by_time.sort_by(|left, right| (left.time, &left.id).cmp(&(right.time, &right.id)));
        let mut prev = link(GENESIS);
        for entry in by_time {
            if entry.prev != prev {
                return LegacyVerdict { ok: false, broken_at: Some(entry.id.to_string()) };
            }
            prev = entry.hash;
        }
        LegacyVerdict { ok: true, broken_at: None }
    }
}

/// The indexes of sealed rows by their ids.
#[derive(Debug, Default)]
pub(crate) struct SealedIds {
    first: HashMap<Box<str>, u32>,
    /// The indexes for ids that several rows have.
    more: HashMap<Box<str>, Vec<u32>>,
}

impl SealedIds {
    /// The indexes of the rows with this id, in order.
    pub fn get(&self, id: &str) -> &[u32] {
        match (self.more.get(id), self.first.get(id)) {
            (Some(places), _) => places,
            (None, Some(place)) => std::slice::from_ref(place),
            (None, None) => &[],
        }
    }
}

fn count(entries: &[Entry]) -> u32 {
    u32::try_from(entries.len()).unwrap_or(NONE)
}

/// The rows that link to each row.
struct Children {
    first: Vec<u32>,
    next: Vec<u32>,
}

impl Children {
    fn new(parents: &[u32]) -> Self {
        let mut children = Self { first: vec![NONE; parents.len()], next: vec![NONE; parents.len()] };
        for (at, parent) in parents.iter().enumerate().rev() {
            if *parent != NONE {
                children.next[at] = children.first[*parent as usize];
                children.first[*parent as usize] = u32::try_from(at).unwrap_or(NONE);
            }
        }
        children
    }

    /// Takes the rows that link to a row. A second call returns none, so that a cycle ends.
    fn take(&mut self, at: u32) -> Vec<u32> {
        let mut child = std::mem::replace(&mut self.first[at as usize], NONE);
        let mut children = Vec::new();
        while child != NONE {
            children.push(child);
            child = self.next[child as usize];
        }
        children
    }
}

#[cfg(test)]
mod tests;
