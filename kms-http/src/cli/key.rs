//! The commands `kms-http key`.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use kms_lib::limits::PAGE_LIMIT;
use kms_lib::{KeyDescription, KeyFilter, KeyPurpose, KeyType, NewKey, Paging, Session, VersionDescription};

use super::exit::Failure;
use super::output;
use super::store::with_store;
use crate::settings::Settings;

/// The subcommands of `kms-http key`.
#[derive(Subcommand)]
pub enum Key {
    /// List the keys
    List,
    /// Create a key
    Create {
        /// Name of the key, which can never be reused
        name: String,
        /// Algorithm and purpose of the key
        #[arg(long, value_enum, default_value = "aes")]
        kind: Kind,
        /// Days between automatic rotations by the scheduler
        #[arg(long)]
        rotation_days: Option<u32>,
        /// Days for which a former version still decrypts and verifies after a rotation
        #[arg(long)]
        grace_days: Option<u32>,
    },
    /// Rotate a key: create a new current version
    Rotate {
        /// Id or name of the key
        key: String,
        /// Fail unless this is the current version
        #[arg(long)]
        expected: Option<u32>,
    },
    /// Erase the key material of former versions that are revoked or past their grace window
    Trim {
        /// Id or name of the key
        key: String,
    },
    /// Enable a disabled key, or its disabled current version
    Enable(Target),
    /// Disable a key or a version: a disabled key cannot be used at all; a disabled version still decrypts and verifies
    Disable(Target),
    /// Permanently revoke a version or a whole key; its ciphertexts can no longer be decrypted
    Revoke {
        /// Id or name of the key
        key: String,
        /// Version to revoke
        #[arg(long, required_unless_present = "whole_key", conflicts_with = "whole_key")]
        version: Option<u32>,
        /// Revoke the key with all its versions
        #[arg(long)]
        whole_key: bool,
    },
    /// List the versions of a key, oldest first
    Versions {
        /// Id or name of the key
        key: String,
    },
    /// Schedule the deletion of a key; its key material is erased after the waiting period
    ScheduleDeletion {
        /// Id or name of the key
        key: String,
        /// Waiting period in days, during which the deletion can be cancelled [default: deletion.wait_days]
        #[arg(long)]
        days: Option<u32>,
    },
    /// Cancel a scheduled deletion
    CancelDeletion {
        /// Id or name of the key
        key: String,
    },
}

/// A key or one of its versions.
#[derive(Args)]
pub struct Target {
    /// Id or name of the key
    key: String,
    /// Only this version of the key
    #[arg(long)]
    version: Option<u32>,
}

/// Algorithm and purpose of a key.
#[derive(Clone, Copy, ValueEnum)]
pub enum Kind {
    /// AES-256-GCM, for encryption
    Aes,
    /// RSA-2048, for encryption
    RsaEncryption,
    /// RSA-2048, for signatures
    RsaSigning,
}

/// Opens the store and runs the command.
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
            Key::Enable(Target { key, version: None }) => session.enable_key(key).await?,
            Key::Enable(Target { key, version: Some(version) }) => session.enable_version(key, version).await?,
            Key::Disable(Target { key, version: None }) => session.disable_key(key).await?,
            Key::Disable(Target { key, version: Some(version) }) => session.disable_version(key, version).await?,
            Key::Revoke { key, version: None, .. } => session.revoke_key(key).await?,
            Key::Revoke { key, version: Some(version), .. } => session.revoke_version(key, version).await?,
            Key::ScheduleDeletion { key, days } => session.schedule_deletion(key, days).await?,
            Key::CancelDeletion { key } => session.cancel_deletion(key).await?,
            Key::Versions { key } => {
                let versions = all_versions(&session, &key).await?;
                return output::show(as_json, &versions, versions.iter().map(version_line));
            }
        };
        output::show(as_json, &key, [line(&key)])
    })
}

fn line(key: &KeyDescription) -> String {
    let KeyDescription { id, state, key_type, purpose, current_version, name, .. } = key;
    let (state, key_type, purpose) = (state.as_str(), key_type.as_str(), purpose.as_str());
    format!("{id}  {state:<16} {key_type:<10} {purpose:<10} v{current_version:<4} {name}")
}

fn version_line(version: &VersionDescription) -> String {
    let VersionDescription { version, state, created_at, not_after, last_used_at, .. } = version;
    let end = not_after.map(|end| format!("  until {end}")).unwrap_or_default();
    let used = last_used_at.map(|used| format!("  used {used}")).unwrap_or_default();
    format!("v{version:<6} {:<10} {created_at}{end}{used}", state.as_str())
}

async fn all_versions(session: &Session, key: &str) -> Result<Vec<VersionDescription>, Failure> {
    let (mut versions, mut paging) = (Vec::new(), Paging::new(PAGE_LIMIT));
    loop {
        let page = session.list_versions(key, &paging).await?;
        versions.extend(page.items);
        paging.cursor = page.next_cursor;
        if paging.cursor.is_none() {
            return Ok(versions);
        }
    }
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
