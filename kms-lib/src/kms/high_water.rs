//! The high-water file: the last signed head, kept outside of the database, by which a fresh process notices that the
//! database was put back to an older state.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::audit::checkpoint;
use crate::audit::tree::Frontier;
use crate::ledger::Signer;
use crate::types::audit::Head;
use crate::types::error::{Error, ErrorCode, Result};

/// Largest file that is looked at, in bytes.
const BYTES: u64 = 16 * 1024;

/// A store that is older than what was seen before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Records the store has.
    pub present: u64,
    /// Records it had when the high-water file was written.
    pub noted: u64,
}

/// Holds the head against the file. None if there is no file yet, or the head is not below it; `IntegrityFailure` if the
/// file is not a checkpoint of this log, or notes another log of the same size.
pub(super) fn compare(path: &Path, head: &Head, signer: &Signer) -> Result<Option<Lost>> {
    let bad = |why: &str| {
        let text = format!("the high-water file {} {why}; look into it before removing it", path.display());
        Error::new(ErrorCode::IntegrityFailure, text)
    };
    let note = match fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(bad(&format!("cannot be read: {e}"))),
        Ok(metadata) if metadata.len() > BYTES => return Err(bad("is too large to be one")),
        Ok(_) => fs::read_to_string(path).map_err(|e| bad(&format!("cannot be read: {e}")))?,
    };
    let noted = match signer.open(&note) {
        Ok(noted) => noted,
        // The store may have been put back to a state from before its signing key was replaced: it does not know the key.
        Err(_) => match checkpoint::claimed(&note) {
            Some(claimed) if claimed.origin == signer.keys().public().origin() && claimed.size > head.seq => claimed,
            Some(claimed) if claimed.origin != signer.keys().public().origin() => {
                return Err(bad("is that of another log"));
            }
            _ => return Err(bad("is not a checkpoint signed by this log's key")),
        },
    };
    if noted.size == head.seq && noted.root != Frontier::from_parts(head.seq, head.frontier.clone())?.root() {
        return Err(bad("notes another log of the same size: the log was forked"));
    }
    Ok((head.seq < noted.size).then_some(Lost { present: head.seq, noted: noted.size }))
}

/// Writes the head to the file: to a new one beside it, synced, then put in its place.
pub(super) fn write(path: &Path, checkpoint: &str) -> Result<()> {
    let failed = |e: std::io::Error| {
        Error::new(ErrorCode::InputOutput, format!("the high-water file {} cannot be written: {e}", path.display()))
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new: PathBuf = path.with_file_name(name);
    let mut file = fs::File::create(&new).map_err(failed)?;
    file.write_all(checkpoint.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&new, path).map_err(failed)
}
