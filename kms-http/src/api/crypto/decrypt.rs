//! `POST /v1/crypto/decrypt`.

use std::borrow::Cow;

use kms_lib::limits::{AES_GCM_IV_BYTES, AES_GCM_TAG_BYTES, RSA_2048_BYTES};
use kms_lib::{Ciphertext, Context, DecryptItem, Decrypted, Session};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::codec::{Encoding, Plaintext, from_base64};
use super::many::{self, Done};
use crate::api::{ApiError, strict_json};

/// Size of a response without the plaintext, in bytes.
const BESIDE: usize = 64;

/// A ciphertext to decrypt.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = Decrypt)]
pub(super) struct Item<'a> {
    /// Id or name of the key.
    #[serde(borrow)]
    key_id: Cow<'a, str>,
    /// Ciphertext in base64: one that `encrypt` returned, one that another tool made with the public key of `version`
    /// (RSA-OAEP with SHA-256, no label), or one of Mini KMS on Node under an imported key.
    #[serde(borrow)]
    ciphertext: Cow<'a, str>,
    /// Version that encrypted it. It must match the version in the ciphertext. A ciphertext of Mini KMS on Node
    /// contains none; by default the newest imported version is used.
    #[serde(default, deserialize_with = "strict_json::whole")]
    #[schema(minimum = 1)]
    version: Option<u32>,
    /// Context that it was encrypted with: an object of texts. For a ciphertext of Mini KMS on Node, the value sent
    /// there, which may be any JSON.
    #[serde(borrow, default)]
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    aad: Option<&'a RawValue>,
    /// Nonce in base64. It must match the one in the ciphertext; a ciphertext of Mini KMS on Node contains none.
    #[serde(borrow, default)]
    iv: Option<Cow<'a, str>>,
    /// Authentication tag in base64. It must match the one in the ciphertext.
    #[serde(borrow, default)]
    auth_tag: Option<Cow<'a, str>>,
    /// Encoding of the plaintext in the response.
    encoding: Option<Encoding>,
}

/// A decrypted plaintext.
#[derive(Serialize, ToSchema)]
#[schema(as = Decrypted)]
pub(super) struct Answer {
    /// Plaintext as UTF-8, or in base64 if `encoding` is `base64`.
    #[schema(value_type = String)]
    plaintext: Plaintext,
    /// Version that encrypted it.
    version: u32,
}

/// A decoded item, and how to decrypt and return it.
pub(super) struct Plan<'i> {
    item: &'i Item<'i>,
    encoding: Encoding,
    ciphertext: Vec<u8>,
    iv: Option<Vec<u8>>,
    auth_tag: Option<Vec<u8>>,
    kind: Kind,
    context: Context,
}

/// The kind of a ciphertext.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A ciphertext of this service, which contains its key and version.
    Own,
    /// Raw RSA-OAEP, made with the public key of this version.
    Oaep(u32),
    /// A ciphertext of Mini KMS on Node.
    Imported,
}

impl Plan<'_> {
    /// The item for the library, which checks the caller's permission, and then that the other fields match the
    /// ciphertext.
    fn item(&self) -> DecryptItem<'_> {
        let key = &*self.item.key_id;
        let mut item = match self.kind {
            Kind::Own => DecryptItem::new(&self.ciphertext, self.context.clone()).key(key),
            Kind::Oaep(version) => return DecryptItem::oaep(key, version, &self.ciphertext),
            Kind::Imported => DecryptItem::imported(key, &self.ciphertext, self.item.aad.map(RawValue::get)),
        };
        item.version = self.item.version;
        item.iv = self.iv.as_deref();
        item.auth_tag = self.auth_tag.as_deref();
        item
    }
}

/// Drops an empty `iv` and `authTag` of an RSA ciphertext. Some clients of Mini KMS on Node send these fields with
/// every ciphertext.
fn without_empty(
    ciphertext: &[u8],
    iv: Option<Vec<u8>>,
    auth_tag: Option<Vec<u8>>,
) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let has_none = |blob: Ciphertext| blob.iv().is_empty() && blob.auth_tag().is_empty();
    let is_rsa = ciphertext.len() == RSA_2048_BYTES || Ciphertext::parse(ciphertext).is_ok_and(has_none);
    let present = |part: Option<Vec<u8>>| part.filter(|bytes| !is_rsa || !bytes.is_empty());
    (present(iv), present(auth_tag))
}

/// Determines the kind of a ciphertext. One in this service's format contains the same nonce and tag as the other
/// fields. One with a different nonce and tag, or of the size of a raw RSA ciphertext, was not made here.
fn kind(item: &Item<'_>, ciphertext: &[u8], iv: Option<&[u8]>, auth_tag: Option<&[u8]>) -> Kind {
    let blob = Ciphertext::parse(ciphertext);
    if let (Some(iv), Some(tag)) = (iv, auth_tag)
        && iv.len() == AES_GCM_IV_BYTES
        && tag.len() == AES_GCM_TAG_BYTES
    {
        // One in 65,536 ciphertexts of Mini KMS on Node begins like one of this service, but nonce and tag differ.
        let is_own = blob.is_ok_and(|blob| blob.iv() == iv || blob.auth_tag() == tag);
        return if is_own { Kind::Own } else { Kind::Imported };
    }
    let is_raw = ciphertext.len() == RSA_2048_BYTES && iv.is_none() && auth_tag.is_none();
    let has_aad = item.aad.is_some_and(|aad| aad.get().trim() != "{}");
    match (blob, item.version) {
        // One in 65,536 raw ciphertexts begins like one of this service, but does not contain the version.
        (Ok(blob), Some(version)) if is_raw && blob.version != version => Kind::Oaep(version),
        // Mini KMS on Node accepts a context with RSA too, but does not bind it.
        (Err(_), Some(version)) if is_raw && !has_aad => Kind::Oaep(version),
        (Err(_), _) if is_raw => Kind::Imported,
        // Malformed: the library returns the error and records the attempt.
        _ => Kind::Own,
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
        let (iv, auth_tag) = (bytes("iv", &sent.iv).transpose()?, bytes("authTag", &sent.auth_tag).transpose()?);
        let (iv, auth_tag) = without_empty(&ciphertext, iv, auth_tag);
        let kind = kind(sent, &ciphertext, iv.as_deref(), auth_tag.as_deref());
        let context = match sent.aad {
            Some(aad) if kind == Kind::Own => {
                serde_json::from_str(aad.get()).map_err(|e| ApiError::invalid(format!("aad: {e}")))?
            }
            _ => Context::new(),
        };
        Ok(Plan { item: sent, encoding: sent.encoding.unwrap_or(default), ciphertext, iv, auth_tag, kind, context })
    }
    fn most(plan: &Self::Input<'_>) -> usize {
        let plaintext = Ciphertext::max_plaintext_len(&plan.ciphertext).unwrap_or(plan.ciphertext.len());
        Plaintext::most(plaintext, plan.encoding) + BESIDE
    }
    async fn work(session: &Session, inputs: &[&Self::Input<'_>]) -> Done<Decrypted> {
        let items: Vec<DecryptItem<'_>> = inputs.iter().map(|plan| plan.item()).collect();
        session.decrypt_batch(&items).await
    }
    fn answer(plan: &Self::Input<'_>, done: Decrypted) -> Result<(Answer, usize), ApiError> {
        let plaintext = Plaintext::new(done.plaintext, plan.encoding)?;
        let about = plaintext.json_bytes() + BESIDE;
        Ok((Answer { plaintext, version: done.version }, about))
    }
}
