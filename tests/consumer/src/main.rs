//! A program that embeds the service with nothing but its public API.

use std::error::Error;

use kms_lib::{Actor, AuditQuery, Config, Context, Kms, NewGrant, NewKey, Paging, Permission, Role};
use kms_lib::{ErrorCode, KeyUpdate};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: kms-consumer FOLDER")?;
    let config = Config::new(format!("sqlite:{folder}/kms.db")).root_key_bytes([7; 32]);
    let kms = Kms::open(config.clone()).await?;
    let admin = kms.session(Actor::new("alice", Role::Admin)?);
    let key = admin.create_key(NewKey::aes("users")).await?;
    admin.put_grant(NewGrant::new("shop", Role::App).on_key("users").allow([Permission::Encrypt])).await?;

    let shop = kms.session(Actor::new("shop", Role::App)?);
    let row = Context::from([("row", "1")]);
    let sealed = shop.encrypt("users", b"a secret", &row).await?;
    assert_eq!(shop.decrypt(&sealed.ciphertext, &row).await.map_err(|e| e.code()).err(), Some(ErrorCode::AccessDenied));
    assert_eq!(admin.decrypt(&sealed.ciphertext, &row).await?.plaintext.as_slice(), b"a secret");

    let update = || KeyUpdate::new().rotation_period_days(90).expected_revision(key.revision);
    admin.update_key("users", update()).await?;
    assert_eq!(admin.update_key("users", update()).await.map_err(|e| e.code()).err(), Some(ErrorCode::Conflict));

    admin.backup(format!("{folder}/backup.db")).await?;
    let records = admin.list_audit(&AuditQuery::new().oldest_first(), &Paging::new(3)).await?;
    assert!(records.items.len() == 3 && records.next_cursor.is_some());
    assert!(admin.verify_audit().await?.ok);
    kms.close().await?;

    // Servers are not compiled in, and the error says so.
    let server = Kms::open(Config::new("postgres://u:p@localhost/x").root_key_bytes([7; 32])).await;
    assert_eq!(server.map(drop).map_err(|e| e.code()), Err(ErrorCode::InvalidConfiguration));

    // The same without a runtime of one's own.
    std::thread::spawn(move || {
        let kms = kms_lib::blocking::Kms::open(config)?;
        let opened = kms.session(Actor::new("alice", Role::Admin)?).decrypt(&sealed.ciphertext, &row)?;
        assert_eq!(opened.plaintext.as_slice(), b"a secret");
        kms.close()
    })
    .join()
    .map_err(|_| "the thread panicked")??;
    println!("works");
    Ok(())
}
