//! Importing the log of the source: its rows are stored unchanged, in the order of their links, page by page. Each page
//! is committed together with a record that seals all rows so far, so that no row is ever unsealed, and a run that was
//! interrupted is continued after the last page.

use std::collections::HashMap;
use std::sync::Arc;

use super::report::ImportStage;
use super::row_lengths::check_length;
use super::run::Run;
use super::source::{AuditRow, RECORD_BYTES};
use crate::audit::canonical::canonical;
use crate::audit::legacy::{
    Chain, Doubt, Entry, LegacyLog, LegacyRow, SealedIds, SealedLog, Search, StoredRow, findings, leaf, sealed_log,
};
use crate::audit::tree::Frontier;
use crate::ledger::Details;
use crate::lifecycle::{Command, LegacyPage};
use crate::storage::Connection;
use crate::storage::tables::{audit, legacy};
use crate::types::audit::{Action, hex};
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::limits::PAGE_LIMIT;
use crate::verification::KeptVerification;
use crate::workers::Length;

/// The size in bytes of rows after which a page ends.
const PAGE_BYTES: usize = 512 * 1024;
/// The size in bytes of stored rows that are reread at once.
const FETCH_BYTES: usize = 8 * 1024 * 1024;

/// The part of the log that is already imported.
struct Here {
    chain: Chain,
    /// The last record that sealed these rows.
    last: Option<SealedLog>,
    /// The findings of the last complete run.
    found: Option<LegacyLog>,
}

impl Run<'_> {
    /// Imports the rows that are not stored here yet, and reports on all rows.
    pub(super) async fn import_log(&mut self) -> Result<LegacyLog> {
        let Here { chain, last, found } = self.read_sealed().await?;
        let chain = self.read_source(chain).await?;
        let name = self.job.name.clone();
        let arrange = move || {
            let mut chain = chain;
            chain.arrange();
            let log = chain.findings(&name);
            Ok((chain, log))
        };
        let (chain, log) = self.compute(arrange).await?;
        let is_sealed = last.as_ref().is_some_and(|last| last.findings_at == Some(last.seq) && last.size == log.rows);
        if self.job.dry_run || (is_sealed && found.as_ref() == Some(&log)) {
            return Ok(log);
        }
        self.write(&chain, &log, last.and_then(|last| last.findings_at)).await?;
        Ok(log)
    }

    /// Reads the rows that are stored here. `IntegrityFailure` if they are not those that were sealed.
    async fn read_sealed(&self) -> Result<Here> {
        let mut connection = self.session.shared().store.long_reader().await?;
        // Read in one snapshot: another run may commit a page in the meantime.
        connection.begin_read().await?;
        let here = self.read_sealed_with(connection.as_mut()).await;
        connection.rollback().await?;
        here
    }

    async fn read_sealed_with(&self, connection: &mut dyn Connection) -> Result<Here> {
        let source = &self.job.name;
        // Rows that were verified before must still be here: otherwise an earlier state would be sealed again as the
        // newest.
        let kept = KeptVerification::read(connection, &self.session.shared().catalog.seals()).await?;
        let verified = kept.and_then(|kept| kept.imported.into_iter().find(|log| log.source == *source));
        let pointer = legacy::logs(connection).await?.into_iter().find(|(name, _)| name == source);
        let (mut last, mut found) = (None, None);
        if verified.is_some_and(|log| pointer.as_ref().is_none_or(|(_, seq)| *seq < log.seq)) {
            return Err(altered());
        }
        if let Some((_, seq)) = pointer {
            let mut read = |record| {
                last = sealed_log(&record).filter(|last| last.source == *source);
                Ok(())
            };
            audit::range(connection, seq, seq, &mut read).await?;
        }
        if let Some(at) = last.as_ref().and_then(|last| last.findings_at) {
            let mut read = |record| {
                found = findings(&record);
                Ok(())
            };
            audit::range(connection, at, at, &mut read).await?;
        }
        let (mut entries, mut tree) = (Vec::new(), Frontier::new());
        loop {
            let page = legacy::page(connection, source, tree.size(), PAGE_LIMIT).await?.rows;
            if page.is_empty() {
                break;
            }
            for (position, body) in page {
                let stored = StoredRow::read(&body).filter(|_| position == tree.size() + 1).ok_or_else(altered)?;
                let entry = Entry::new(&stored);
                tree.push(entry.leaf);
                entries.push(entry);
            }
        }
        let is_sealed = match &last {
            Some(last) => last.size == tree.size() && last.root == hex(&tree.root()),
            None => tree.size() == 0,
        };
        if is_sealed { Ok(Here { chain: Chain::new(entries), last, found }) } else { Err(altered()) }
    }

    /// Reads all rows of the source: adds those that are not stored here, and compares the others with the stored ones.
    async fn read_source(&mut self, mut chain: Chain) -> Result<Chain> {
        let total = self.source.counts().await?.records;
        let here = Arc::new(chain.sealed_by_id());
        let mut is_there = vec![false; chain.sealed()];
        let (mut after, mut done, mut search): (Option<String>, u64, Search) = (None, 0, Search::default());
        loop {
            let page = self.source.audit_rows(after.as_deref(), PAGE_LIMIT).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.row.id.clone());
            done += page.len() as u64;
            let compared = page.into_iter().filter_map(|row| compare(&mut chain, &here, row, &mut is_there));
            let to_search: Vec<ToSearch> = compared.collect();
            let check = move || {
                let checked = to_search.into_iter().map(|row| row.check(&mut search)).collect::<Vec<Checked>>();
                Ok((checked, search))
            };
            let checked: Vec<Checked>;
            (checked, search) = self.compute(check).await?;
            for row in checked {
                match row {
                    Checked::Row(entry, doubt) => {
                        chain.source.note_doubt(doubt, &entry.id);
                        chain.add(entry);
                    }
                    Checked::Here(id, doubt) => chain.source.note_doubt(doubt, &id),
                    Checked::Oversized(id) => chain.source.oversized.add(&id),
                }
            }
            self.job.tell(ImportStage::Log, done, total.max(done));
        }
        chain.source.unread = self.unread("audit_logs", total, done);
        for (at, _) in (0..).zip(is_there).filter(|(_, is_there)| !is_there) {
            chain.note_gone(at);
        }
        Ok(chain)
    }

    /// Writes the rows that are not sealed yet, and seals them. The last record has the findings.
    async fn write(&mut self, chain: &Chain, log: &LegacyLog, findings_at: Option<u64>) -> Result<()> {
        let (sealed, new) = chain.entries().split_at(chain.sealed());
        // Rows that came since the first look.
        if let Some(limit) = self.message_limit().await? {
            let check =
                |entry: &Entry| check_length(&entry.id, entry.bytes.into(), limit, "no new row of it was written");
            new.iter().try_for_each(check)?;
        }
        let mut tree = Frontier::new();
        sealed.iter().for_each(|entry| tree.push(entry.leaf));
        let mut pages = pages_of(new).into_iter().peekable();
        if pages.peek().is_none() {
            return self.seal(&tree, Vec::new(), Some(log), findings_at).await;
        }
        while let Some(entries) = pages.next() {
            let mut rows = self.fetch(entries).await?.into_iter().peekable();
            while rows.peek().is_some() {
                let (mut page, mut bytes) = (Vec::new(), 0);
                while let Some((leaf, body)) = rows.next_if(|(_, body)| page_has_room(bytes, body)) {
                    bytes += body.len();
                    tree.push(leaf);
                    page.push(body);
                }
                let is_last = pages.peek().is_none() && rows.peek().is_none();
                self.seal(&tree, page, is_last.then_some(log), findings_at).await?;
            }
            self.job.tell(ImportStage::Log, tree.size(), log.rows);
        }
        Ok(())
    }

    /// The rows of these entries in their stored form, in the order of the entries.
    async fn fetch(&mut self, entries: &[Entry]) -> Result<Vec<([u8; 32], String)>> {
        let ids: Vec<String> = entries.iter().map(|entry| entry.id.to_string()).collect();
        let mut by_id: HashMap<String, Vec<LegacyRow>> = HashMap::new();
        for row in self.source.audit_rows_by_id(&ids).await? {
            by_id.entry(row.row.id.clone()).or_default().push(row.row);
        }
        let mut rows = Vec::with_capacity(entries.len());
        for entry in entries {
            // Files may have several rows with one id: the hash identifies the one that was read before.
            let candidates = by_id.get(&*entry.id).map_or(&[][..], Vec::as_slice);
            let bodies = candidates.iter().map(|row| StoredRow { row: row.clone(), format: entry.format }.body());
            let body = bodies.map(|body| (leaf(&body), body)).find(|(leaf, _)| *leaf == entry.leaf);
            rows.push(body.ok_or_else(|| {
                let text = format!(
                    "row {} of the log changed in the source while it was read; run the import again",
                    entry.id
                );
                Error::new(ErrorCode::Conflict, text)
            })?);
        }
        Ok(rows)
    }

    /// Commits the last rows of `tree` with the record that seals all its rows.
    async fn seal(
        &self,
        tree: &Frontier,
        bodies: Vec<String>,
        log: Option<&LegacyLog>,
        findings_at: Option<u64>,
    ) -> Result<()> {
        let mut details = Details::default();
        details.number("size", tree.size()).text("root", &hex(&tree.root()));
        match (log, findings_at) {
            (Some(log), _) => {
                let log = serde_json::to_value(log).map_err(|error| {
                    Error::new(ErrorCode::Internal, "findings cannot be written as JSON").with_source(error)
                })?;
                details.raw("log", canonical(&log)?);
            }
            (None, Some(seq)) => {
                details.number("findingsAt", seq);
            }
            (None, None) => {}
        }
        let page =
            LegacyPage { run: self.run.clone(), sealed: tree.size() - bodies.len() as u64, bodies: bodies.into() };
        let intent = self.intent(Action::LegacyImport, details);
        self.session.change(intent, Command::ImportRows(page)).await.map(drop)
    }

    /// Runs a computation on the threads for long computations.
    async fn compute<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let principal = self.session.actor().principal();
        self.session.shared().workers.run(principal, Length::Long, work).await
    }
}

fn page_has_room(bytes: usize, body: &str) -> bool {
    bytes == 0 || bytes + body.len() <= PAGE_BYTES
}

/// Splits entries into pages that are small enough to be held in memory.
fn pages_of(entries: &[Entry]) -> Vec<&[Entry]> {
    let (mut pages, mut rest) = (Vec::new(), entries);
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take(PAGE_LIMIT).take_while(|entry| {
            bytes += entry.bytes as usize;
            bytes <= FETCH_BYTES
        });
        let (page, behind) = rest.split_at(fits.count().max(1));
        pages.push(page);
        rest = behind;
    }
    pages
}

/// A row of the source whose hashed text is searched.
enum ToSearch {
    /// It is not here yet.
    New(AuditRow),
    /// It is here, sealed as one whose hash does not reproduce; with whether it still is as it was sealed. It is
    /// searched in every run, in the same order, so that every run has the same result.
    Altered(LegacyRow, bool),
}

/// A row that was searched.
enum Checked {
    /// The row is imported; with a doubt if it counts as altered and may not be.
    Row(Entry, Option<Doubt>),
    /// It is here already, sealed as altered; with a doubt about that.
    Here(String, Option<Doubt>),
    /// It is too long.
    Oversized(String),
}

impl ToSearch {
    fn check(self, search: &mut Search) -> Checked {
        match self {
            Self::New(row) => check_row(row, search),
            Self::Altered(row, is_same) => {
                let is_found = search.reproduce(&row).is_some();
                // A row that is found now was not searched completely when it was sealed.
                let found = (is_found && is_same).then_some(Doubt::Unsearched);
                let is_of_sealed = |doubt: &Doubt| is_same || *doubt == Doubt::Unsearched;
                Checked::Here(row.id, found.or(search.doubt().filter(is_of_sealed)))
            }
        }
    }
}

/// Finds out the format of a row.
fn check_row(row: AuditRow, search: &mut Search) -> Checked {
    let AuditRow { row, bytes } = row;
    if bytes > RECORD_BYTES {
        return Checked::Oversized(row.id);
    }
    let format = search.reproduce(&row);
    let entry = Entry::new(&StoredRow { row, format });
    // In JSON it may be longer.
    if u64::from(entry.bytes) > RECORD_BYTES {
        return Checked::Oversized(entry.id.into());
    }
    Checked::Row(entry, search.doubt().filter(|_| format.is_none()))
}

/// Compares a row of the source with the one that is here: of several with its id, the identical one, or the first that
/// was not found yet. Returns the row if it is to be searched: if it is not here, because the source has more rows with
/// its id, or if its hash did not reproduce.
fn compare(chain: &mut Chain, here: &SealedIds, row: AuditRow, is_there: &mut [bool]) -> Option<ToSearch> {
    let mut places = here.get(&row.row.id).iter().copied().filter(|at| !is_there[*at as usize]).peekable();
    let first = *match places.peek() {
        Some(first) => first,
        None => return Some(ToSearch::New(row)),
    };
    let row = row.row;
    let is_same = |at: &u32| {
        let stored = StoredRow { row: row.clone(), format: chain.entry(*at).format };
        leaf(&stored.body()) == chain.entry(*at).leaf
    };
    let same = places.find(is_same);
    let at = same.unwrap_or(first);
    is_there[at as usize] = true;
    if same.is_none() {
        chain.note_changed(first);
    }
    chain.entry(at).format.is_none().then_some(ToSearch::Altered(row, same.is_some()))
}

fn altered() -> Error {
    let text = "the stored rows of the imported log are not those that were sealed; verify the log";
    Error::new(ErrorCode::IntegrityFailure, text)
}
