//! Files that hold a secret: only their owner may read them.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use zeroize::Zeroizing;

/// Largest file with a secret, in bytes.
const FILE_BYTES: u64 = 4096;

/// Reads a file with one secret. The error says what is wrong with the file, and holds none of its content.
pub fn read_secret_file(path: &Path) -> Result<Zeroizing<String>, String> {
    let file = File::open(path).map_err(|e| format!("file {} cannot be opened: {e}", path.display()))?;
    check_secret_mode(&file, path)?;
    // With room for all: growing would leave a copy of what was there.
    let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES as usize + 32));
    match file.take(FILE_BYTES + 1).read_to_string(&mut text) {
        Ok(n) if n as u64 > FILE_BYTES => Err(format!("file {} is too large", path.display())),
        Ok(_) => Ok(text),
        Err(e) => Err(format!("file {} cannot be read: {e}", path.display())),
    }
}

/// Refuses a file that others than its owner may read.
#[cfg(unix)]
pub fn check_secret_mode(file: &File, path: &Path) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt;
    let metadata = file.metadata().map_err(|e| format!("file {}: {e}", path.display()))?;
    if !metadata.is_file() {
        return Err(format!("file {} is not a regular file", path.display()));
    }
    if metadata.mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o777;
        return Err(format!("file {} may be read by others (mode {mode:03o}): set it to 0600", path.display()));
    }
    Ok(())
}

/// Refuses nothing: there are no modes here.
#[cfg(not(unix))]
pub fn check_secret_mode(_: &File, _: &Path) -> Result<(), String> {
    Ok(())
}
