//! `POST /v1/crypto/encrypt`.

use std::borrow::Cow;

use kms_lib::limits::{AES_GCM_IV_BYTES, AES_GCM_TAG_BYTES};
use kms_lib::{Ciphertext, Context, EncryptItem, Encrypted, KeyId, KeyType, Session};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::codec::{Base64, Encoding, Secret, Text, json_bytes};
use super::many::{self, Done};
use crate::api::ApiError;
use crate::openapi::schemas;

/// Approximate size of a response without the ciphertext, in bytes.
const BESIDE: usize = 288;

/// A plaintext to encrypt.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = Encrypt)]
pub(super) struct Item<'a> {
    /// Id or name of the key.
    #[serde(borrow)]
    key_id: Cow<'a, str>,
    /// Plaintext as UTF-8, or in base64 if `encoding` is `base64`.
    #[serde(borrow)]
    #[schema(value_type = String)]
    plaintext: Text<'a>,
    /// Context that is bound to the ciphertext: decryption needs the same. Not secret.
    #[serde(default)]
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    aad: Option<Context>,
    encoding: Option<Encoding>,
}

/// An encrypted plaintext.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Encrypted)]
pub(super) struct Answer {
    /// Id of the key.
    #[schema(value_type = String, format = "uuid")]
    key_id: KeyId,
    /// Version that encrypted it.
    version: u32,
    #[schema(value_type = schemas::KeyType)]
    key_type: KeyType,
    /// Ciphertext in base64. It contains the key and the version, and for AES also `iv` and `authTag`.
    #[schema(value_type = String)]
    ciphertext: Base64<Vec<u8>>,
    /// Nonce in base64, for AES; a copy of that in `ciphertext`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    iv: Option<Base64<[u8; AES_GCM_IV_BYTES]>>,
    /// Authentication tag in base64, for AES; a copy of that in `ciphertext`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    auth_tag: Option<Base64<[u8; AES_GCM_TAG_BYTES]>>,
}

impl From<Encrypted> for Answer {
    fn from(encrypted: Encrypted) -> Self {
        let (iv, auth_tag) = match (encrypted.key_type, Ciphertext::parse(&encrypted.ciphertext)) {
            (KeyType::Aes256Gcm, Ok(blob)) => {
                (blob.iv().first_chunk().copied().map(Base64), blob.auth_tag().first_chunk().copied().map(Base64))
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

impl many::Item for Item<'static> {
    type Sent<'a> = Item<'a>;
    type Input<'i> = (&'i Item<'i>, Secret<'i>);
    type Output = Encrypted;
    type Answer = Answer;

    fn read<'i, 'a: 'i>(sent: &'i Item<'a>, default: Encoding) -> Result<Self::Input<'i>, ApiError> {
        Ok((sent, sent.encoding.unwrap_or(default).decode("plaintext", &sent.plaintext)?))
    }
    fn most((_, plaintext): &Self::Input<'_>) -> usize {
        Answer::most(plaintext.len())
    }
    async fn work(session: &Session, inputs: &[&Self::Input<'_>]) -> Done<Encrypted> {
        let items = inputs
            .iter()
            .map(|(item, plaintext)| EncryptItem::new(&*item.key_id, plaintext, item.aad.clone().unwrap_or_default()));
        session.encrypt_batch(&items.collect::<Vec<_>>()).await
    }
    fn answer(_: &Self::Input<'_>, encrypted: Encrypted) -> Result<(Answer, usize), ApiError> {
        Ok(Answer::sized(encrypted))
    }
}

impl Answer {
    /// Maximum size of the response, in bytes, for a plaintext of at most `plaintext` bytes.
    pub fn most(plaintext: usize) -> usize {
        json_bytes(Ciphertext::max_len(plaintext)) + BESIDE
    }

    /// The response, and its approximate size in bytes.
    pub fn sized(encrypted: Encrypted) -> (Self, usize) {
        let answer = Self::from(encrypted);
        let about = answer.ciphertext.json_bytes() + BESIDE;
        (answer, about)
    }
}
