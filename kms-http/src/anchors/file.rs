//! An anchor file: JSON lines in an append-only file.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use kms_lib::internals::run_blocking;

use super::{Line, Problem, parse};

/// Maximum number of bytes to read; of a longer file, the end is read.
const READ: u64 = 64 * 1024 * 1024;

pub(super) struct AnchorFile {
    path: PathBuf,
    /// The offset up to which the file was read.
    read_to: u64,
}

impl AnchorFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, read_to: 0 }
    }

    pub(super) fn name(&self) -> String {
        format!("the file {}", self.path.display())
    }

    pub(super) async fn append(&self, node: &str, note: &str) -> Result<(), Problem> {
        let mut line = serde_json::to_string(&Line { node, checkpoint: note.into() }).map_err(|e| e.to_string())?;
        line.push('\n');
        let path = self.path.clone();
        blocking(move || append(&path, line.as_bytes())).await
    }

    pub(super) async fn read(&mut self) -> Result<Vec<String>, Problem> {
        let (path, from) = (self.path.clone(), self.read_to);
        let (text, end) = blocking(move || read_from(&path, from)).await?;
        self.read_to = end;
        Ok(parse(&text))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T, Problem> {
    let done = run_blocking(move || Ok(work())).await.map_err(|e| e.to_string())?;
    done.map_err(|e| e.to_string())
}

fn append(path: &Path, line: &[u8]) -> std::io::Result<()> {
    let is_new = !path.exists();
    let mut file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    if is_new {
        protect(&file, path);
    }
    // Write the line in one call, because other nodes may append too. First end a line that was left incomplete.
    if !is_new && !ends_with_line(path)? {
        file.write_all(b"\n")?;
    }
    file.write_all(line)?;
    file.sync_all()
}

/// Sets the append-only attribute, if the file system supports it and the process is allowed to.
#[cfg(target_os = "linux")]
fn protect(file: &File, path: &Path) {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let set = ioctl_getflags(file).and_then(|flags| ioctl_setflags(file, flags | IFlags::APPEND));
    if let Err(error) = set {
        tracing::info!(file = %path.display(), %error, "cannot make the anchor file append-only (chattr +a)");
    }
}

#[cfg(not(target_os = "linux"))]
fn protect(_: &File, _: &Path) {}

fn ends_with_line(path: &Path) -> std::io::Result<bool> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// The complete lines after an offset, and the offset after them. A missing file is read as empty.
fn read_from(path: &Path, from: u64) -> std::io::Result<(String, u64)> {
    let mut file = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((String::new(), 0)),
        file => file?,
    };
    let length = file.metadata()?.len();
    // If the file became shorter, read it from the beginning.
    let from = if from > length { 0 } else { from };
    let from = from.max(length.saturating_sub(READ));
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(READ).read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let text = String::from_utf8_lossy(&bytes[..whole]).into_owned();
    Ok((text, from + whole as u64))
}
