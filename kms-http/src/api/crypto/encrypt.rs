//! `POST /v1/crypto/encrypt`.

use std::borrow::Cow;

use kms_lib::limits::{AES_GCM_IV_BYTES, AES_GCM_TAG_BYTES};
use kms_lib::{Ciphertext, Context, EncryptItem, Encrypted, KeyId, KeyType, Session};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::codec::{Base64, Encoding, Secret, Text};
use super::many::{self, Done};
use crate::api::ApiError;
use crate::openapi::schemas;

/// Bytes that an answer takes beside the ciphertext, about.
const BESIDE: usize = 288;

/// What is to be encrypted.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = Encrypt)]
pub(super) struct Item<'a> {
    /// The key, by id or name.
    #[serde(borrow)]
    key_id: Cow<'a, str>,
    /// UTF-8, or base64 if `encoding` says so.
    #[serde(borrow)]
    #[schema(value_type = String)]
    plaintext: Text<'a>,
    /// Bound to the ciphertext: decrypting needs the same. Not secret.
    #[serde(default)]
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    aad: Option<Context>,
    encoding: Option<Encoding>,
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
    #[schema(value_type = schemas::KeyType)]
    key_type: KeyType,
    /// Self-describing, in base64: names key and version. For AES it holds what `iv` and `authTag` repeat.
    #[schema(value_type = String)]
    ciphertext: Base64<Vec<u8>>,
    /// A copy, for AES.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    iv: Option<Base64<[u8; AES_GCM_IV_BYTES]>>,
    /// A copy, for AES.
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
    /// An answer, and about how many bytes it takes.
    pub fn sized(encrypted: Encrypted) -> (Self, usize) {
        let answer = Self::from(encrypted);
        let about = answer.ciphertext.json_bytes() + BESIDE;
        (answer, about)
    }
}
