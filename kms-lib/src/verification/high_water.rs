//! The high-water file: the last signed head, stored outside the database, which shows a new process that the database
//! was rolled back to an older state.

use std::cmp::Ordering;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::audit::checkpoint;
use crate::audit::tree::Frontier;
use crate::ledger::Signer;
use crate::storage::tables::audit;
use crate::storage::{Connection, Store};
use crate::types::audit::Head;
use crate::types::error::{Error, ErrorCode, Result};

/// The prefix of the names of high-water files.
const NAME: &str = "high-water";
/// The maximum size of the file, in bytes.
const BYTES: u64 = 16 * 1024;
/// The number of records that are read at once.
const CHUNK: u64 = 8_192;

/// A rollback of the store, as the high-water file shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lost {
    /// The number of records when the high-water file was written.
    pub noted: u64,
    /// The number of records that the store has now.
    pub present: u64,
}

impl Lost {
    /// The error for the rollback, unless the restore is acknowledged.
    pub(crate) fn error(&self) -> Error {
        let what = if self.present < self.noted {
            format!(
                "the store has {} records, but had {}: it was rolled back to an older state",
                self.present, self.noted
            )
        } else {
            format!(
                "the store no longer has all of the {} records it had: it was rolled back and used since",
                self.noted
            )
        };
        let text = format!(
            "{what}. Keys, grants and tokens that were revoked or withdrawn since are usable again; acknowledge the \
             restore to continue"
        );
        Error::new(ErrorCode::RestoreDetected, text)
    }
}

/// Refuses to create a new store where a high-water file shows an earlier one.
pub(crate) fn check_is_new(mark: &Path) -> Result<()> {
    let Some(noted) = read(mark)?.and_then(|note| checkpoint::claimed(&note)) else { return Ok(()) };
    let text = format!(
        "the store is missing: according to the high-water file {} it had {} records. Restore the store or a backup; a \
         new store is only created without that file",
        mark.display(),
        noted.size
    );
    Err(Error::new(ErrorCode::StoreUnavailable, text))
}

fn bad(path: &Path, why: &str) -> Error {
    let text = format!("the high-water file {} {why}; find out why before removing it", path.display());
    Error::new(ErrorCode::IntegrityFailure, text)
}

/// The text of the file, if it exists. It must be read before the head it is compared with: a busy service changes
/// both.
pub(crate) fn read(path: &Path) -> Result<Option<String>> {
    let unreadable = |e: std::io::Error| {
        let text = format!("the high-water file {} cannot be read: {e}", path.display());
        Error::new(ErrorCode::InputOutput, text).with_source(e)
    };
    match fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(unreadable(e)),
        // Reading a FIFO would wait for its other end.
        Ok(metadata) if !metadata.is_file() => Err(bad(path, "is not a regular file")),
        Ok(metadata) if metadata.len() > BYTES => Err(bad(path, "is too large to be one")),
        Ok(_) => match fs::read_to_string(path) {
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => Err(bad(path, "is not text")),
            read => read.map(Some).map_err(unreadable),
        },
    }
}

/// The other high-water files in the same folder, with their text. They are for a store that has no file of its own
/// yet, such as one that was restored to a new place.
pub(crate) fn others(path: &Path) -> Vec<(PathBuf, String)> {
    let is_mark = |name: &std::ffi::OsStr| {
        let name = name.to_string_lossy();
        name.starts_with(NAME) && !name.ends_with(".new")
    };
    if !path.file_name().is_some_and(is_mark) {
        return Vec::new();
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let marks = entries.flatten().map(|entry| entry.path()).filter(|other| other.file_name().is_some_and(is_mark));
    // A file that cannot be read is ignored.
    marks.filter_map(|other| read(&other).ok().flatten().map(|note| (other, note))).collect()
}

/// Whether a file is about this log.
pub(crate) fn is_of(note: &str, signer: &Signer) -> bool {
    checkpoint::claimed(note).is_some_and(|claimed| claimed.origin == signer.keys().public().origin())
}

/// Compares the head with the text of the file; returns the rollback, if there was one. `IntegrityFailure` if the file
/// is not a checkpoint signed by this log's key.
pub(crate) async fn compare(
    path: &Path,
    note: &str,
    head: &Head,
    signer: &Signer,
    store: &Arc<dyn Store>,
) -> Result<Option<Lost>> {
    let (noted, is_signed) = match signer.open(note) {
        Ok(noted) => (noted, true),
        // The store may have been rolled back to a state before its signing key was replaced, and then does not know
        // the key.
        Err(_) => match checkpoint::claimed(note) {
            Some(claimed) if claimed.origin == signer.keys().public().origin() => (claimed, false),
            Some(_) => return Err(bad(path, "belongs to another log")),
            None => return Err(bad(path, "is not a checkpoint")),
        },
    };
    let goes_on = match head.seq.cmp(&noted.size) {
        Ordering::Less => false,
        Ordering::Equal => noted.root == root_of(head)?,
        Ordering::Greater => {
            let mut reader = store.long_reader().await?;
            let goes_on = goes_on(reader.as_mut(), noted.size, noted.root, head).await;
            reader.close().await?;
            goes_on?
        }
    };
    match (goes_on, is_signed) {
        (true, true) => Ok(None),
        (true, false) => Err(bad(path, "is not a checkpoint signed by this log's key")),
        (false, _) => Ok(Some(Lost { present: head.seq, noted: noted.size })),
    }
}

fn root_of(head: &Head) -> Result<[u8; 32]> {
    Ok(Frontier::from_parts(head.seq, head.frontier.clone())?.root())
}

/// Whether the log had this root at `noted` records; if not, it was rolled back and continued from there. Hashes the
/// records from the last stored checkpoint up to the signed head, which proves that the checkpoint is this log's.
async fn goes_on(connection: &mut dyn Connection, noted: u64, root: [u8; 32], head: &Head) -> Result<bool> {
    let kept = audit::checkpoints(connection, 0).await?.into_iter().rfind(|kept| kept.size <= noted);
    // A damaged checkpoint proves nothing; a verification reports it.
    let Ok(mut tree) = kept.map_or_else(|| Ok(Frontier::new()), |kept| Frontier::from_parts(kept.size, kept.frontier))
    else {
        return Ok(false);
    };
    let mut had_root = tree.size() == noted && tree.root() == root;
    while tree.size() < head.seq {
        // Short statements, regardless of the length of the log.
        let (first, last) = (tree.size() + 1, head.seq.min(tree.size() + CHUNK));
        audit::hashes(connection, first, last, &mut |hash| {
            tree.push(hash);
            had_root |= tree.size() == noted && tree.root() == root;
        })
        .await?;
        if tree.size() != last {
            return Ok(false);
        }
    }
    Ok(had_root && tree.root() == root_of(head)?)
}

/// Writes the checkpoint to a new file in the same folder, syncs it, and renames it to `path`.
pub(crate) fn write(path: &Path, checkpoint: &str) -> Result<()> {
    let failed = |e: std::io::Error| {
        let text = format!("the high-water file {} cannot be written: {e}", path.display());
        Error::new(ErrorCode::InputOutput, text).with_source(e)
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new: PathBuf = path.with_file_name(name);
    let written = fs::File::create(&new)
        .and_then(|mut file| file.write_all(checkpoint.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written.map_err(failed)
}
