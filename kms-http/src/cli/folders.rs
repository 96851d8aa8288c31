//! Creates the folders that a store needs.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::exit::Failure;
use crate::settings::Settings;

/// Creates the folders of the store and of the high-water file.
pub fn make_folders(settings: &Settings) -> Result<(), Failure> {
    settings.kms.store_file().map_or(Ok(()), |path| make_parent(&path))?;
    make_high_water_folder(settings)
}

/// Creates the folder of the high-water file. Each user who runs commands has a high-water file of their own.
pub fn make_high_water_folder(settings: &Settings) -> Result<(), Failure> {
    settings.kms.high_water_file().map_or(Ok(()), |path| make_parent(&path))
}

/// Creates the folder of a file, mode 0700.
pub fn make_parent(path: &Path) -> Result<(), Failure> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(parent);
    made.map_err(|e| Failure::new(3, format!("cannot create the folder {}: {e}", parent.display())))
}
