//! The life of two keys, on a store that this program makes: `cargo run --release -p quickstart`.

#![allow(clippy::print_stdout, reason = "it shows what it does")]

use std::error::Error;
use std::path::Path;

use kms_lib::SignatureAlgorithm::RsaPssSha256;
use kms_lib::{Actor, Clock, Config, Context, Kms, NewGrant, NewKey, Permission, Role, Timestamp};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("mini-kms-quickstart-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let done = tour(&folder.join("kms.db")).await;
    std::fs::remove_dir_all(&folder)?;
    done
}

async fn tour(file: &Path) -> Result<(), Box<dyn Error>> {
    // The root key wraps all others and stays outside of the store. Here a passphrase; see RootKeySource for files.
    let config =
        Config::new(format!("sqlite:{}", file.display())).root_key("passphrase:correct horse battery staple")?;
    let kms = Kms::open(config.clone()).await?;
    println!("opened      {}", file.display());

    // Everybody acts in a session. Who it is, the embedding application says.
    let admin = kms.session(Actor::new("alice", Role::Admin)?);
    let users = admin.create_key(NewKey::aes("users").rotation_period_days(90)).await?;
    let invoices = admin.create_key(NewKey::rsa_signing("invoices")).await?;
    println!("created     {} ({}) and {} ({})", users.name, users.key_type, invoices.name, invoices.key_type);

    // A short field, bound to where it belongs; and a whole file.
    let context = Context::from([("table", "users"), ("column", "card"), ("row", "4711")]);
    let card = admin.encrypt("users", b"4111 1111 1111 1111", &context).await?;
    let source = include_bytes!("main.rs");
    let archive = admin.encrypt("users", source, &Context::new()).await?;
    println!("encrypted   a field with version {}, and {} bytes of source", card.version, source.len());

    // A rotation brings a new version; what the old one encrypted stays readable.
    let rotated = admin.rotate_key("users", None).await?;
    let opened = admin.decrypt(&card.ciphertext, &context).await?;
    assert_eq!(opened.plaintext.as_slice(), b"4111 1111 1111 1111");
    assert_eq!(admin.decrypt(&archive.ciphertext, &Context::new()).await?.plaintext.as_slice(), source);
    println!("rotated     to version {}; version {} still decrypts", rotated.current_version, opened.version);

    // The same ciphertext in another row does not decrypt.
    let elsewhere = Context::from([("table", "users"), ("column", "card"), ("row", "1")]);
    let refused = admin.decrypt(&card.ciphertext, &elsewhere).await.expect_err("another context");
    println!("refused     {refused}");

    let signed = admin.sign("invoices", b"total: 42.00 EUR", RsaPssSha256).await?;
    let genuine = admin.verify("invoices", b"total: 42.00 EUR", &signed.signature, RsaPssSha256, None).await?;
    let forged = admin.verify("invoices", b"total: 99.00 EUR", &signed.signature, RsaPssSha256, None).await?;
    println!("signed      genuine: {}, forged: {}", genuine.valid, forged.valid);

    // An application may do what its grants allow, and nothing else.
    let shop = kms.session(Actor::new("shop", Role::App)?);
    let denied = shop.decrypt(&card.ciphertext, &context).await.expect_err("no grant yet");
    println!("denied      {denied}");
    let permissions = [Permission::Encrypt, Permission::Decrypt];
    admin.put_grant(NewGrant::new("shop", Role::App).on_key(users.id).allow(permissions)).await?;
    println!("granted     shop reads {} bytes", shop.decrypt(&card.ciphertext, &context).await?.plaintext.len());

    // Revoking is for ever, and at once.
    admin.revoke_version("users", 1).await?;
    let revoked = shop.decrypt(&card.ciphertext, &context).await.expect_err("revoked");
    println!("revoked     {revoked}");

    // The scheduler rotates what is due. Nothing is yet, so here it wakes up three months later.
    kms.close().await?;
    let later = config.clone().clock(Clock::new(|| Timestamp::now().plus_days(91)));
    let kms = Kms::open(later.clone()).await?;
    let admin = kms.session(Actor::new("alice", Role::Admin)?);
    let jobs = kms.run_scheduler().await?;
    let current = admin.get_key("users").await?.current_version;
    println!("scheduler   rotated {} key(s); users is at version {current}", jobs.rotated.len());

    let metrics = admin.metrics().await?;
    println!("metrics     {}", serde_json::to_string(&metrics)?);
    let report = admin.verify_audit().await?;
    println!("verified    {} records, ok: {}", report.size, report.ok);
    kms.close().await?;

    // Somebody edits the log behind our back...
    let url = format!("sqlite:{}", file.display());
    let mut database = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await?;
    sqlx::query("UPDATE audit_logs SET actor = 'nobody' WHERE seq = 5").execute(&mut database).await?;
    sqlx::Connection::close(database).await?;

    // ...and it is found, with its place.
    let kms = Kms::open(later).await?;
    let report = kms.session(Actor::new("alice", Role::Admin)?).verify_audit().await?;
    for fault in &report.faults {
        println!("tampered    {fault}");
    }
    assert_eq!(report.broken_at, Some(5));
    kms.close().await?;
    Ok(())
}
