//! The folders that a store needs.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::exit::Failure;
use crate::settings::Settings;

/// The folders of the store and of the high-water file.
pub fn make_folders(settings: &Settings) -> Result<(), Failure> {
    settings.kms.store_file().map_or(Ok(()), |path| make_parent(&path))?;
    make_high_water_folder(settings)
}

/// The folder of the high-water file, of which every user who runs a command has one.
pub fn make_high_water_folder(settings: &Settings) -> Result<(), Failure> {
    settings.kms.high_water_file().map_or(Ok(()), |path| make_parent(&path))
}

/// The folder that a file is in, for its owner only.
pub fn make_parent(path: &Path) -> Result<(), Failure> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(parent);
    made.map_err(|e| Failure::new(3, format!("the folder {} cannot be made: {e}", parent.display())))
}
