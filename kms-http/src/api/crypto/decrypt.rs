//! `POST /v1/crypto/decrypt`.

use std::borrow::Cow;

use kms_lib::limits::RSA_2048_BYTES;
use kms_lib::{Ciphertext, Context, DecryptItem, Decrypted, Session};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::codec::{Encoding, Plaintext, from_base64};
use super::many::{self, Done};
use crate::api::{ApiError, strict_json};

/// What is to be decrypted.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = Decrypt)]
pub(super) struct Item<'a> {
    /// The key, by id or name.
    #[serde(borrow)]
    key_id: Cow<'a, str>,
    /// As `encrypt` gave it. Or what another tool encrypted with the public key of `version`: RSA-OAEP with SHA-256,
    /// without a label.
    #[serde(borrow)]
    ciphertext: Cow<'a, str>,
    /// The version that encrypted it. The ciphertext names it; what is sent must agree.
    #[serde(default, deserialize_with = "strict_json::whole")]
    #[schema(minimum = 1)]
    version: Option<u32>,
    /// The context it was encrypted with.
    #[serde(default)]
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    aad: Option<Context>,
    /// A copy of what the ciphertext holds; must agree.
    #[serde(borrow, default)]
    iv: Option<Cow<'a, str>>,
    /// A copy of what the ciphertext holds; must agree.
    #[serde(borrow, default)]
    auth_tag: Option<Cow<'a, str>>,
    /// How the plaintext is to be answered.
    encoding: Option<Encoding>,
}

/// A plaintext.
#[derive(Serialize, ToSchema)]
#[schema(as = Decrypted)]
pub(super) struct Answer {
    /// UTF-8, or base64 if `encoding` said so.
    #[schema(value_type = String)]
    plaintext: Plaintext,
    /// The version it was encrypted with.
    version: u32,
}

/// A ciphertext, what was sent beside it, and how it is to be decrypted and answered.
pub(super) struct Plan<'i> {
    item: &'i Item<'i>,
    encoding: Encoding,
    ciphertext: Vec<u8>,
    iv: Option<Vec<u8>>,
    auth_tag: Option<Vec<u8>>,
    /// The version of a raw OAEP ciphertext; none for a blob, which names its key and version.
    oaep_version: Option<u32>,
}

impl Plan<'_> {
    /// The library checks the caller's rights, and then holds against the ciphertext what was sent beside it.
    fn item(&self) -> DecryptItem<'_> {
        let context = self.item.aad.clone().unwrap_or_default();
        let mut item = DecryptItem::new(&self.ciphertext, context).key(&*self.item.key_id);
        item.version = self.item.version;
        item.iv = self.iv.as_deref();
        item.auth_tag = self.auth_tag.as_deref();
        item.oaep_version = self.oaep_version;
        item
    }
}

/// A blob is recognised first. What has the size of a raw ciphertext and is no blob was made with the public key.
fn oaep_version(item: &Item<'_>, ciphertext: &[u8]) -> Result<Option<u32>, ApiError> {
    let is_raw_size = ciphertext.len() == RSA_2048_BYTES && item.iv.is_none() && item.auth_tag.is_none();
    match (Ciphertext::parse(ciphertext), item.version) {
        // One raw ciphertext in 65,536 begins like a blob; it does not name the version too.
        (Ok(blob), Some(version)) if is_raw_size && blob.version != version => Ok(Some(version)),
        (Err(_), Some(version)) if is_raw_size => {
            if item.aad.as_ref().is_some_and(|context| !context.is_empty()) {
                return Err(ApiError::invalid("aad: raw RSA-OAEP binds no context"));
            }
            Ok(Some(version))
        }
        (Err(_), None) if is_raw_size => {
            Err(ApiError::invalid("version: raw RSA-OAEP does not name the version whose public key was used"))
        }
        // The library says what is wrong with it, and records the attempt.
        _ => Ok(None),
    }
}

impl many::Item for Item<'static> {
    const RETURNED: bool = true;
    const SECRET: bool = true;
    type Sent<'a> = Item<'a>;
    type Input<'i> = Plan<'i>;
    type Output = Decrypted;
    type Answer = Answer;

    fn read<'i, 'a: 'i>(sent: &'i Item<'a>, default: Encoding) -> Result<Plan<'i>, ApiError> {
        let bytes = |field, sent: &'i Option<Cow<'a, str>>| sent.as_deref().map(|sent| from_base64(field, sent));
        let ciphertext = from_base64("ciphertext", &sent.ciphertext)?;
        Ok(Plan {
            item: sent,
            encoding: sent.encoding.unwrap_or(default),
            oaep_version: oaep_version(sent, &ciphertext)?,
            ciphertext,
            iv: bytes("iv", &sent.iv).transpose()?,
            auth_tag: bytes("authTag", &sent.auth_tag).transpose()?,
        })
    }
    async fn work(session: &Session, inputs: &[&Self::Input<'_>]) -> Done<Decrypted> {
        let items: Vec<DecryptItem<'_>> = inputs.iter().map(|plan| plan.item()).collect();
        session.decrypt_batch(&items).await
    }
    fn answer(plan: &Self::Input<'_>, done: Decrypted) -> Result<(Answer, usize), ApiError> {
        let plaintext = Plaintext::new(done.plaintext, plan.encoding)?;
        let about = plaintext.json_bytes() + 64;
        Ok((Answer { plaintext, version: done.version }, about))
    }
}
