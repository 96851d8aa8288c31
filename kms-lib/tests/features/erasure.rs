//! Tests that erased key material is not left in any file of the store, including the write-ahead log.

use std::time::Duration;

use crate::common::{Place, admin};
use kms_lib::{Context, KeyState, Kms, NewKey};
use sqlx::{Connection, Row, SqliteConnection};

/// Maximum number of checks of the files until the material must be gone.
const LOOKS: u32 = 600;

async fn blobs(place: &Place, sql: &'static str) -> Vec<Vec<u8>> {
    let mut raw = SqliteConnection::connect(&place.url()).await.unwrap();
    let rows = sqlx::query(sql).fetch_all(&mut raw).await.unwrap();
    raw.close().await.unwrap();
    rows.iter().map(|row| row.get::<Vec<u8>, _>(0)).collect()
}

/// The number of these blobs that the store's files contain.
fn found(place: &Place, material: &[Vec<u8>]) -> usize {
    let read = |ending: &str| std::fs::read(format!("{}{ending}", place.file().display())).unwrap_or_default();
    let files = [read(""), read("-wal")];
    let is_there = |bytes: &&Vec<u8>| {
        // Large blobs are spread over pages, so only the first bytes are compared.
        let part = &bytes[..bytes.len().min(100)];
        files.iter().any(|file| file.windows(part.len()).any(|window| window == part))
    };
    material.iter().filter(is_there).count()
}

async fn wait_until_gone(place: &Place, material: &[Vec<u8>]) {
    for _ in 0..LOOKS {
        if found(place, material) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("erased material is still in the store's files");
}

/// Schedules an AES and an RSA key with several versions for deletion, and returns their wrapped material.
async fn doomed(place: &Place, kms: &Kms) -> Vec<Vec<u8>> {
    let session = admin(kms);
    session.create_key(NewKey::aes("kept")).await.unwrap();
    for new in [NewKey::aes("doomed-aes"), NewKey::rsa_signing("doomed-rsa")] {
        let key = session.create_key(new).await.unwrap();
        session.rotate_key(key.id, None).await.unwrap();
        session.schedule_deletion(key.id, Some(1)).await.unwrap();
    }
    session.encrypt("kept", b"x", &Context::new()).await.unwrap();
    let sql = "SELECT wrapped FROM wrappings w JOIN key_versions v ON v.id = w.subject JOIN keys k ON k.id = v.key_id
               WHERE k.name LIKE 'doomed%'";
    let material = blobs(place, sql).await;
    assert_eq!(material.len(), 4);
    assert_eq!(found(place, &material), 4);
    place.pass_days(2);
    material
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destroyed_material_is_in_no_file() {
    let place = Place::in_a_file();
    let kms = Kms::open(place.config().deletion_wait(1, 1)).await.unwrap();
    let material = doomed(&place, &kms).await;
    assert_eq!(kms.run_scheduler().await.unwrap().destroyed.len(), 2);
    assert_eq!(admin(&kms).get_key("doomed-aes").await.unwrap().state, KeyState::Destroyed);
    wait_until_gone(&place, &material).await;
    assert!(admin(&kms).verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
}

/// A reader holds a snapshot that contains the material: it is erased when the reader is done, without any other
/// commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_only_delays_it() {
    let place = Place::in_a_file();
    let kms = Kms::open(place.config().deletion_wait(1, 1)).await.unwrap();
    let material = doomed(&place, &kms).await;
    let mut reader = SqliteConnection::connect(&place.url()).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT COUNT(*) FROM key_versions").execute(&mut reader).await.unwrap();
    assert_eq!(kms.run_scheduler().await.unwrap().destroyed.len(), 2);
    assert_ne!(found(&place, &material), 0, "the reader did not hold it back");
    sqlx::raw_sql("COMMIT").execute(&mut reader).await.unwrap();
    reader.close().await.unwrap();
    wait_until_gone(&place, &material).await;
    kms.close().await.unwrap();
}

/// Material that a process could not erase before its end is erased with the first commit of the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_process_completes_it() {
    let place = Place::in_a_file();
    let kms = Kms::open(place.config().deletion_wait(1, 1)).await.unwrap();
    let material = doomed(&place, &kms).await;
    let mut reader = SqliteConnection::connect(&place.url()).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT COUNT(*) FROM key_versions").execute(&mut reader).await.unwrap();
    assert_eq!(kms.run_scheduler().await.unwrap().destroyed.len(), 2);
    // The reader prevents the truncation of the write-ahead log while the service closes.
    kms.close().await.unwrap();
    assert_ne!(found(&place, &material), 0);
    let kms = Kms::open(place.config()).await.unwrap();
    drop(reader);
    admin(&kms).encrypt("kept", b"x", &Context::new()).await.unwrap();
    wait_until_gone(&place, &material).await;
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_signing_key_is_in_no_file() {
    let place = Place::in_a_file();
    let kms = Kms::open(place.config()).await.unwrap();
    let former =
        blobs(&place, "SELECT wrapped FROM wrappings JOIN service_keys ON id = subject WHERE kind = 'signing'").await;
    assert_eq!(found(&place, &former), 1);
    admin(&kms).replace_signing_key().await.unwrap();
    wait_until_gone(&place, &former).await;
    kms.close().await.unwrap();
}

/// The process that destroyed the key ends while a reader is active; another process, open all the time, completes the
/// erasure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_open_all_along_completes_it() {
    let place = Place::in_a_file();
    let kms = Kms::open(place.config().deletion_wait(1, 1)).await.unwrap();
    let other = Kms::open(place.config()).await.unwrap();
    let material = doomed(&place, &kms).await;
    admin(&other).encrypt("kept", b"x", &Context::new()).await.unwrap();
    // By then, the other process has completed what it found when it started.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut reader = SqliteConnection::connect(&place.url()).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT COUNT(*) FROM key_versions").execute(&mut reader).await.unwrap();
    assert_eq!(kms.run_scheduler().await.unwrap().destroyed.len(), 2);
    kms.close().await.unwrap();
    sqlx::raw_sql("COMMIT").execute(&mut reader).await.unwrap();
    reader.close().await.unwrap();
    assert_ne!(found(&place, &material), 0);
    admin(&other).encrypt("kept", b"x", &Context::new()).await.unwrap();
    wait_until_gone(&place, &material).await;
    other.close().await.unwrap();
}
