//! What is known of a golden store: the file `facts.json` beside it.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kms_lib::{Context, ErrorCode, KeyId, Role, SignatureAlgorithm, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// Everything that a later version must find in a store.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Facts {
    /// The root keys of the store. Each of them alone opens everything in it.
    pub root_keys: Vec<RootKey>,
    /// The time of the service's clock when the store was closed.
    pub closed_at: Timestamp,
    /// The verifier keys of the log, oldest first.
    pub verifier_keys: Vec<String>,
    /// The number of records of the log.
    pub size: u64,
    /// The checkpoint of the whole log.
    pub checkpoint: String,
    /// The lists of keys (with versions), grants, credentials and quarantined rows, as the service described them.
    pub described: Value,
    /// Ciphertexts of messages and data keys.
    pub ciphertexts: Vec<Ciphertext>,
    /// Encrypted streams, and the lengths of their plaintexts.
    pub streams: Vec<Stream>,
    /// Signatures that must be valid.
    pub signatures: Vec<Signed>,
    /// Access tokens, and whether each still authenticates its principal.
    pub tokens: Vec<Token>,
    /// Decisions about encryptions by principals that are not admins.
    pub decisions: Vec<Decision>,
    /// A statement that undoes the attack on a store with a quarantined row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<String>,
    /// A request to create a key that was sent with an idempotency key, and the id of the key that it created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotent: Option<Idempotent>,
    /// Ciphertexts of the system from which keys were imported.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imported: Vec<Imported>,
}

/// A root key of the tests, which protects nothing else.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "provider")]
pub enum RootKey {
    /// A local root key.
    Local {
        /// The generation in the store.
        generation: u32,
        /// The root key in a form that `KMS_MASTER_KEY` accepts.
        key: String,
    },
    /// A key that a private server (moto) creates with this id and material.
    AwsKms {
        /// The generation in the store.
        generation: u32,
        /// The id of the key.
        id: String,
        /// Its material, 32 bytes in hex.
        material: String,
    },
}

/// A message or data key and its ciphertext.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ciphertext {
    pub key: KeyId,
    pub version: u32,
    pub context: Context,
    pub plaintext: Bytes,
    pub ciphertext: Bytes,
    /// The error with which decryption is refused, as the state of the version demands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<ErrorCode>,
}

/// A stream. Byte `n` of its plaintext is `n` modulo 251.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stream {
    pub key: KeyId,
    pub version: u32,
    pub context: Context,
    pub length: usize,
    pub ciphertext: Bytes,
}

/// A signature of a message.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Signed {
    pub key: KeyId,
    pub version: u32,
    pub algorithm: SignatureAlgorithm,
    pub message: Bytes,
    pub signature: Bytes,
}

/// An access token.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Token {
    pub token: String,
    pub principal: String,
    pub role: Role,
    /// Whether it still authenticates its principal.
    pub valid: bool,
}

/// Whether a principal may encrypt.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Decision {
    pub principal: String,
    pub source_ip: String,
    pub key: String,
    pub context: Context,
    pub allowed: bool,
}

/// A request to create an AES key that was sent with an idempotency key.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Idempotent {
    pub idempotency_key: String,
    pub name: String,
    pub id: KeyId,
}

/// A ciphertext of Mini KMS on Node.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Imported {
    pub key: KeyId,
    pub version: u32,
    pub aad: Option<String>,
    pub iv: Option<Bytes>,
    pub auth_tag: Option<Bytes>,
    pub plaintext: Bytes,
    pub ciphertext: Bytes,
    /// The error with which decryption is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<ErrorCode>,
}

/// Bytes that are base64 in JSON.
#[derive(Clone, Debug)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map(Self).map_err(serde::de::Error::custom)
    }
}

/// The plaintext of a stream of this length.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..=250).cycle().take(length).collect()
}

/// The folder with all golden stores.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

/// The folder of each golden store, of every version of the formats.
pub fn golden() -> Vec<PathBuf> {
    let folders = |path: &Path| {
        let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    let mut stores: Vec<_> = folders(&folder()).iter().flat_map(|version| folders(version)).collect();
    stores.sort();
    assert!(stores.len() >= 5, "{stores:?}");
    stores
}

/// The facts of the store in a folder.
pub fn of(folder: &Path) -> Facts {
    serde_json::from_slice(&std::fs::read(folder.join("facts.json")).unwrap()).unwrap()
}
