//! `POST /v1/crypto/encrypt`.

use std::borrow::Cow;

use kms_lib::crypto::ciphertext::Blob;
use kms_lib::crypto::provider::{NONCE, TAG};
use kms_lib::session::{EncryptItem, Encrypted};
use kms_lib::{Context, KeyId, KeyType};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::codec::{Base64, Encoding, json_bytes};
use super::many::{BatchItem, Sent, Side, merge};
use crate::api::reply::{self, Reply};
use crate::api::{Call, models};

/// Bytes that an answer takes beside the plaintext in base64, about.
pub(super) const BESIDE: usize = 288;

/// What is to be encrypted.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Encrypt)]
pub(super) struct Item<'a> {
    /// The key, by id or name.
    #[serde(borrow)]
    key_id: Cow<'a, str>,
    /// UTF-8, or base64 if `encoding` says so.
    #[serde(borrow)]
    plaintext: Cow<'a, str>,
    /// Bound to the ciphertext: decrypting needs the same. Not secret.
    #[serde(default)]
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    aad: Option<Context>,
    encoding: Option<Encoding>,
}

impl BatchItem for Item<'_> {
    fn default_encoding(&mut self, encoding: Encoding) {
        self.encoding.get_or_insert(encoding);
    }
}

/// A ciphertext.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Encrypted)]
pub(super) struct Answer {
    /// The key.
    #[schema(value_type = String, format = "uuid")]
    key_id: KeyId,
    /// The version it was encrypted with.
    version: u32,
    #[schema(value_type = models::KeyType)]
    key_type: KeyType,
    /// Self-describing, in base64: names key and version. For AES it holds what `iv` and `authTag` repeat.
    #[schema(value_type = String)]
    ciphertext: Base64<Vec<u8>>,
    /// A copy, for AES.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    iv: Option<Base64<[u8; NONCE]>>,
    /// A copy, for AES.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    auth_tag: Option<Base64<[u8; TAG]>>,
}

impl Side for Item<'_> {
    const ARRAY: &'static str = "items";
}
impl Side for Answer {
    const ARRAY: &'static str = "results";
}

impl From<Encrypted> for Answer {
    fn from(encrypted: Encrypted) -> Self {
        let (iv, auth_tag) = match (encrypted.key_type, Blob::parse(&encrypted.ciphertext)) {
            (KeyType::Aes256Gcm, Ok(blob)) => {
                (blob.body.first_chunk().copied().map(Base64), blob.body.last_chunk().copied().map(Base64))
            }
            _ => (None, None),
        };
        Self {
            key_id: encrypted.key,
            version: encrypted.version,
            key_type: encrypted.key_type,
            ciphertext: Base64(encrypted.ciphertext),
            iv,
            auth_tag,
        }
    }
}

/// Encrypts one or many.
pub(super) async fn encrypt(call: Call) -> Reply {
    match call.one_or_many::<Item<'_>>()? {
        Sent::One(item) => {
            let plaintext = item.encoding.unwrap_or_default().decode("plaintext", &item.plaintext)?;
            let context = item.aad.unwrap_or_default();
            let encrypted = call.session.encrypt(&*item.key_id, &plaintext, &context).await?;
            reply::ok(&Answer::from(encrypted))
        }
        Sent::Many(items, _) => {
            let mut plaintexts = Vec::with_capacity(items.len());
            let mut understood = Vec::with_capacity(items.len());
            for item in &items {
                let decoded = item.as_ref().map_err(Clone::clone).and_then(|item| {
                    item.encoding.unwrap_or_default().decode("plaintext", &item.plaintext).map(|bytes| (item, bytes))
                });
                understood.push(decoded.map(|good| plaintexts.push(good)));
            }
            let batch: Vec<EncryptItem<'_>> = plaintexts
                .iter()
                .map(|(item, plaintext)| EncryptItem {
                    key: (&*item.key_id).into(),
                    plaintext,
                    context: item.aad.clone().unwrap_or_default(),
                })
                .collect();
            let done = if batch.is_empty() { Vec::new() } else { call.session.encrypt_batch(&batch).await? };
            let about = plaintexts.iter().map(|(_, plaintext)| json_bytes(plaintext.len()) + BESIDE).sum();
            reply::large(&merge(understood, done, |_, encrypted| Ok(Answer::from(encrypted))), about)
        }
    }
}
