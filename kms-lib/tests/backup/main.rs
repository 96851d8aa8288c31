//! Backups made under load, their restoration at other places, and the changes that a restore undoes.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;
mod copies;
mod restores;
mod rollback;

use std::path::PathBuf;

use common::{Place, admin};
use kms_lib::{Config, Kms, NewKey};

fn at(place: &Place, name: &str) -> Config {
    Config::new(format!("sqlite:{}", place.folder.path().join(name).display())).root_key_bytes([7; 32])
}

/// Makes a backup in the folder of the store, and returns its path.
async fn backup(place: &Place, kms: &Kms) -> PathBuf {
    let to = place.folder.path().join("backup.db");
    admin(kms).backup(&to).await.unwrap();
    to
}

/// Opens a new store, creates the key `a` and makes a backup.
async fn backed_up(place: &Place, config: &Config) -> (Kms, PathBuf) {
    let kms = Kms::open(config.clone()).await.unwrap();
    admin(&kms).create_key(NewKey::aes("a")).await.unwrap();
    let to = backup(place, &kms).await;
    (kms, to)
}

/// Removes a store and the files that belong to it.
fn remove_store(place: &Place) {
    for ending in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{ending}", place.file().display()));
    }
}
