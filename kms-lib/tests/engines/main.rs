//! Tests that run on every engine: SQLite, and with `KMS_TEST_ENGINE` MariaDB or PostgreSQL, which `tests/run` starts.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod agreement;
mod blocking;
mod clock;
mod counters;
mod credentials;
mod cryptography;
mod damaged_schema;
mod floods;
mod grants;
mod idempotency;
mod integrity_key;
mod lifecycle;
mod log_indexes;
mod model;
mod quarantine;
mod records;
mod root_key_refusals;
mod root_keys;
mod rotation;
mod scheduler;
mod schema;
mod two_root_keys;
mod updates;
