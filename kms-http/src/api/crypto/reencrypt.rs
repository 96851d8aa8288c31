//! `POST /v1/crypto/reencrypt`.

use std::borrow::Cow;

use kms_lib::Context;
use kms_lib::session::ReencryptItem;
use serde::Deserialize;
use utoipa::ToSchema;

use super::codec::{from_base64, json_bytes};
use super::encrypt::{Answer, BESIDE};
use super::many::{BatchItem, Sent, Side, merge};
use crate::api::reply::{self, Reply};
use crate::api::{ApiError, Call};

/// A ciphertext to be encrypted anew.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = Reencrypt)]
pub(super) struct Item<'a> {
    /// In base64. Names its key.
    #[serde(borrow)]
    ciphertext: Cow<'a, str>,
    /// The context it was encrypted with.
    #[serde(default)]
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    aad: Option<Context>,
    /// Under which key anew, by id or name; the same one without.
    #[serde(borrow, default)]
    destination_key_id: Option<Cow<'a, str>>,
    /// The new context; the same one without.
    #[serde(default)]
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    destination_aad: Option<Context>,
}

impl BatchItem for Item<'_> {}
impl Side for Item<'_> {
    const ARRAY: &'static str = "items";
    const STRICT: bool = true;
}

impl Item<'_> {
    fn ciphertext(&self) -> Result<Vec<u8>, ApiError> {
        from_base64("ciphertext", &self.ciphertext)
    }

    fn with<'a>(&self, ciphertext: &'a [u8]) -> ReencryptItem<'a> {
        ReencryptItem {
            ciphertext,
            context: self.aad.clone().unwrap_or_default(),
            destination: self.destination_key_id.as_deref().map(Into::into),
            destination_context: self.destination_aad.clone(),
        }
    }
}

/// Encrypts one or many anew.
pub(super) async fn reencrypt(call: Call) -> Reply {
    match call.one_or_many::<Item<'_>>()? {
        Sent::One(item) => {
            let ciphertext = item.ciphertext()?;
            let done = call.session.reencrypt(item.with(&ciphertext)).await?;
            reply::ok(&Answer::from(done.encrypted))
        }
        Sent::Many(items, _) => {
            let mut ciphertexts = Vec::with_capacity(items.len());
            let mut understood = Vec::with_capacity(items.len());
            for item in &items {
                let decoded = item.as_ref().map_err(Clone::clone).and_then(|item| Ok((item, item.ciphertext()?)));
                understood.push(decoded.map(|good| ciphertexts.push(good)));
            }
            let batch: Vec<ReencryptItem<'_>> =
                ciphertexts.iter().map(|(item, ciphertext)| item.with(ciphertext)).collect();
            let done = if batch.is_empty() { Vec::new() } else { call.session.reencrypt_batch(&batch).await? };
            let about = ciphertexts.iter().map(|(_, ciphertext)| json_bytes(ciphertext.len()) + BESIDE).sum();
            reply::large(&merge(understood, done, |_, done| Ok(Answer::from(done.encrypted))), about)
        }
    }
}
