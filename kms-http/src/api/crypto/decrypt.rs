//! `POST /v1/crypto/decrypt`.

use std::borrow::Cow;

use kms_lib::crypto::ciphertext::Blob;
use kms_lib::crypto::provider::RSA_BYTES;
use kms_lib::{Context, DecryptItem, Decrypted, Session};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::codec::{Encoding, Plaintext, from_base64};
use super::many::{self, Done};
use crate::api::{ApiError, strict};

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
    #[serde(default, deserialize_with = "strict::whole")]
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

/// How a ciphertext is to be decrypted.
pub(super) enum Way {
    /// It names its key and version.
    Blob,
    /// Raw OAEP, with this version.
    Oaep(u32),
}

/// A ciphertext, what was sent beside it, and how it is to be decrypted.
pub(super) struct Plan<'i> {
    item: &'i Item<'i>,
    ciphertext: Vec<u8>,
    iv: Option<Vec<u8>>,
    auth_tag: Option<Vec<u8>>,
    way: Way,
}

impl<'i> Plan<'i> {
    fn of(item: &'i Item<'i>) -> Result<Self, ApiError> {
        let ciphertext = from_base64("ciphertext", &item.ciphertext)?;
        let way = way(item, &ciphertext)?;
        let copy =
            |field, sent: &Option<Cow<'_, str>>| sent.as_deref().map(|sent| from_base64(field, sent)).transpose();
        Ok(Self { item, ciphertext, iv: copy("iv", &item.iv)?, auth_tag: copy("authTag", &item.auth_tag)?, way })
    }

    /// The library checks the caller's rights, and then holds against the ciphertext what was sent beside it.
    fn item(&self) -> DecryptItem<'_> {
        let context = self.item.aad.clone().unwrap_or_default();
        let mut item = DecryptItem::new(&self.ciphertext, context).key(&*self.item.key_id);
        item.version = self.item.version;
        item.iv = self.iv.as_deref();
        item.auth_tag = self.auth_tag.as_deref();
        item.oaep_version = match self.way {
            Way::Oaep(version) => Some(version),
            Way::Blob => None,
        };
        item
    }
}

/// A blob is recognised first. What has the size of a raw ciphertext and is no blob was made with the public key.
fn way(item: &Item<'_>, ciphertext: &[u8]) -> Result<Way, ApiError> {
    let is_raw_size = ciphertext.len() == RSA_BYTES && item.iv.is_none() && item.auth_tag.is_none();
    match (Blob::parse(ciphertext), item.version) {
        // One raw ciphertext in 65,536 begins like a blob; it does not name the version too.
        (Ok(blob), Some(version)) if is_raw_size && blob.version != version => Ok(Way::Oaep(version)),
        (Err(_), Some(version)) if is_raw_size => {
            if item.aad.as_ref().is_some_and(|context| !context.is_empty()) {
                return Err(ApiError::invalid("aad: raw RSA-OAEP binds no context"));
            }
            Ok(Way::Oaep(version))
        }
        (Err(_), None) if is_raw_size => {
            Err(ApiError::invalid("version: raw RSA-OAEP does not name the version whose public key was used"))
        }
        // The library says what is wrong with it, and records the attempt.
        _ => Ok(Way::Blob),
    }
}

impl many::Item for Item<'static> {
    const SECRET: bool = true;
    type Sent<'a> = Item<'a>;
    type Input<'i> = Plan<'i>;
    type Output = Decrypted;
    type Answer = Answer;

    fn default_encoding(sent: &mut Item<'_>, encoding: Encoding) {
        sent.encoding.get_or_insert(encoding);
    }
    fn read<'i, 'a: 'i>(sent: &'i Item<'a>) -> Result<Self::Input<'i>, ApiError> {
        Plan::of(sent)
    }
    async fn work(session: &Session, inputs: &[&Self::Input<'_>]) -> Done<Decrypted> {
        let items: Vec<DecryptItem<'_>> = inputs.iter().map(|plan| plan.item()).collect();
        session.decrypt_batch(&items).await
    }
    fn answer(plan: &Self::Input<'_>, done: Decrypted) -> Result<(Answer, usize), ApiError> {
        let plaintext = Plaintext::new(done.plaintext, plan.item.encoding.unwrap_or_default())?;
        let about = plaintext.json_bytes() + 64;
        Ok((Answer { plaintext, version: done.version }, about))
    }
}
