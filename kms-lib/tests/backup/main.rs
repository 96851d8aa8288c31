//! Backups made under load, their restoration at other places, and the changes that a restore undoes.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;
mod copies;
mod restores;
mod rollback;

use common::Place;
use kms_lib::Config;

fn at(place: &Place, name: &str) -> Config {
    Config::new(format!("sqlite:{}", place.folder.path().join(name).display())).root_key_bytes([7; 32])
}

/// Removes a store and the files that belong to it.
fn remove_store(place: &Place) {
    for ending in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{ending}", place.file().display()));
    }
}
