//! `POST /v1/crypto/reencrypt`.

use std::borrow::Cow;

use kms_lib::{Ciphertext, Context, ReencryptItem, Reencrypted, Session};
use serde::Deserialize;
use utoipa::ToSchema;

use super::codec::{Encoding, from_base64};
use super::encrypt::Answer;
use super::many::{self, Done};
use crate::api::ApiError;

/// A ciphertext to re-encrypt.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = Reencrypt)]
pub(super) struct Item<'a> {
    /// Ciphertext in base64, which contains its key.
    #[serde(borrow)]
    ciphertext: Cow<'a, str>,
    /// Context that it was encrypted with.
    #[serde(default)]
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    aad: Option<Context>,
    /// Id or name of the new key; by default the same key.
    #[serde(borrow, default)]
    destination_key_id: Option<Cow<'a, str>>,
    /// New context; by default the same context.
    #[serde(default)]
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    destination_aad: Option<Context>,
}

impl many::Item for Item<'static> {
    const ENCODED: bool = false;
    const RETURNED: bool = true;
    type Sent<'a> = Item<'a>;
    type Input<'i> = (&'i Item<'i>, Vec<u8>);
    type Output = Reencrypted;
    type Answer = Answer;

    fn read<'i, 'a: 'i>(sent: &'i Item<'a>, _: Encoding) -> Result<Self::Input<'i>, ApiError> {
        Ok((sent, from_base64("ciphertext", &sent.ciphertext)?))
    }
    fn most((_, ciphertext): &Self::Input<'_>) -> usize {
        Answer::most(Ciphertext::max_plaintext_len(ciphertext).unwrap_or(ciphertext.len()))
    }
    async fn work(session: &Session, inputs: &[&Self::Input<'_>]) -> Done<Reencrypted> {
        let items = inputs.iter().map(|(sent, ciphertext)| {
            let mut item = ReencryptItem::new(ciphertext, sent.aad.clone().unwrap_or_default());
            item.destination = sent.destination_key_id.as_deref().map(Into::into);
            item.destination_context = sent.destination_aad.clone();
            item
        });
        session.reencrypt_batch(&items.collect::<Vec<_>>()).await
    }
    fn answer(_: &Self::Input<'_>, done: Reencrypted) -> Result<(Answer, usize), ApiError> {
        Ok(Answer::sized(done.encrypted))
    }
}
