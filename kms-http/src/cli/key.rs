//! `kms-http key`.

use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use kms_lib::limits::PAGE_LIMIT;
use kms_lib::{KeyDescription, KeyFilter, KeyPurpose, KeyType, NewKey, Paging, Session};

use super::exit::Failure;
use super::output;
use super::store::with_store;
use crate::settings::Settings;

/// What to do with keys.
#[derive(Subcommand)]
pub enum Key {
    /// List the keys
    List,
    /// Create a key
    Create {
        /// Its name, unique for ever
        name: String,
        /// Its kind and use
        #[arg(long, value_enum, default_value = "aes")]
        kind: Kind,
        /// Days between rotations by the scheduler
        #[arg(long)]
        rotation_days: Option<u32>,
        /// Days a former version stays usable
        #[arg(long)]
        grace_days: Option<u32>,
    },
    /// Make a new current version
    Rotate {
        /// The key, by id or name
        key: String,
        /// The version that must be current
        #[arg(long)]
        expected: Option<u32>,
    },
    /// Erase the material of former versions that are revoked or past their window
    Trim {
        /// The key, by id or name
        key: String,
    },
}

/// Kind and use of a key.
#[derive(Clone, Copy, ValueEnum)]
pub enum Kind {
    /// AES-256-GCM, for encryption
    Aes,
    /// RSA-2048, for encryption
    RsaEncryption,
    /// RSA-2048, for signatures
    RsaSigning,
}

/// Does it.
pub fn run(command: Key, settings: Settings, as_json: bool) -> Result<ExitCode, Failure> {
    with_store(settings, |_, session| async move {
        let key = match command {
            Key::List => {
                let keys = all(&session).await?;
                return output::show(as_json, &keys, keys.iter().map(line));
            }
            Key::Create { name, kind, rotation_days, grace_days } => {
                let (key_type, purpose) = match kind {
                    Kind::Aes => (KeyType::Aes256Gcm, KeyPurpose::Encryption),
                    Kind::RsaEncryption => (KeyType::Rsa2048, KeyPurpose::Encryption),
                    Kind::RsaSigning => (KeyType::Rsa2048, KeyPurpose::Signing),
                };
                let mut new = NewKey::new(name, key_type, purpose);
                (new.rotation_period_days, new.grace_period_days) = (rotation_days, grace_days);
                session.create_key(new).await?
            }
            Key::Rotate { key, expected } => session.rotate_key(key, expected).await?,
            Key::Trim { key } => session.trim_key(key).await?,
        };
        output::show(as_json, &key, [line(&key)])
    })
}

fn line(key: &KeyDescription) -> String {
    let KeyDescription { id, state, key_type, purpose, current_version, name, .. } = key;
    let (state, key_type, purpose) = (state.as_str(), key_type.as_str(), purpose.as_str());
    format!("{id}  {state:<16} {key_type:<10} {purpose:<10} v{current_version:<4} {name}")
}

async fn all(session: &Session) -> Result<Vec<KeyDescription>, Failure> {
    let (mut keys, mut paging) = (Vec::new(), Paging::new(PAGE_LIMIT));
    loop {
        let page = session.list_keys(&KeyFilter::new(), &paging).await?;
        keys.extend(page.items);
        paging.cursor = page.next_cursor;
        if paging.cursor.is_none() {
            return Ok(keys);
        }
    }
}
