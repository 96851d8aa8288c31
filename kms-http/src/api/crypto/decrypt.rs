//! `POST /v1/crypto/decrypt`.

use std::borrow::Cow;

use kms_lib::crypto::ciphertext::Blob;
use kms_lib::crypto::provider::RSA_BYTES;
use kms_lib::session::{DecryptItem, Decrypted};
use kms_lib::{Context, Error, ErrorCode, Session};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::codec::{Encoding, Text, from_base64};
use super::many::{Answered, Answers, BatchItem, Sent, Side};
use crate::api::reply::{self, Reply};
use crate::api::{ApiError, Call, strict};

/// What is to be decrypted.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
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

impl BatchItem for Item<'_> {
    fn default_encoding(&mut self, encoding: Encoding) {
        self.encoding.get_or_insert(encoding);
    }
}

/// A plaintext.
#[derive(Serialize, ToSchema)]
#[schema(as = Decrypted)]
pub(super) struct Answer<'a> {
    /// UTF-8, or base64 if `encoding` said so.
    #[schema(value_type = String)]
    plaintext: Text<'a>,
    /// The version it was encrypted with.
    version: u32,
}

impl Side for Item<'_> {
    const ARRAY: &'static str = "items";
}
impl Side for Answer<'_> {
    const ARRAY: &'static str = "results";
}

/// How a ciphertext is to be decrypted.
enum Way {
    /// It names its key and version.
    Blob,
    /// Raw OAEP, with this version.
    Oaep(u32),
}

/// A ciphertext, what was sent beside it, and how it is to be decrypted.
struct Plan<'i, 'a> {
    item: &'i Item<'a>,
    ciphertext: Vec<u8>,
    iv: Option<Vec<u8>>,
    auth_tag: Option<Vec<u8>>,
    way: Way,
}

impl<'i, 'a> Plan<'i, 'a> {
    fn of(item: &'i Item<'a>) -> Result<Self, ApiError> {
        let ciphertext = from_base64("ciphertext", &item.ciphertext)?;
        let way = way(item, &ciphertext)?;
        let copy =
            |field, sent: &Option<Cow<'_, str>>| sent.as_deref().map(|sent| from_base64(field, sent)).transpose();
        Ok(Self { item, ciphertext, iv: copy("iv", &item.iv)?, auth_tag: copy("authTag", &item.auth_tag)?, way })
    }

    async fn alone(&self, session: &Session) -> Result<Decrypted, Error> {
        match self.way {
            Way::Oaep(version) => session.decrypt_oaep(&*self.item.key_id, version, &self.ciphertext).await,
            Way::Blob => session.decrypt_item(self.with_what_must_agree()).await,
        }
    }

    /// The library holds against the ciphertext what was sent beside it, after it has looked at the caller's rights.
    fn with_what_must_agree(&self) -> DecryptItem<'_> {
        DecryptItem {
            ciphertext: &self.ciphertext,
            context: self.item.aad.clone().unwrap_or_default(),
            key: Some((&*self.item.key_id).into()),
            version: self.item.version,
            iv: self.iv.as_deref(),
            auth_tag: self.auth_tag.as_deref(),
        }
    }

    fn answer<'d>(&self, decrypted: &'d Decrypted) -> Result<Answer<'d>, ApiError> {
        let plaintext = self.item.encoding.unwrap_or_default().encode(&decrypted.plaintext)?;
        Ok(Answer { plaintext, version: decrypted.version })
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

/// Decrypts one or many.
pub(super) async fn decrypt(call: Call) -> Reply {
    match call.one_or_many::<Item<'_>>()? {
        Sent::One(item) => {
            let plan = Plan::of(&item)?;
            let decrypted = plan.alone(&call.session).await?;
            let answer = plan.answer(&decrypted)?;
            reply::secret(&answer, answer.plaintext.json_bytes() + 64)
        }
        Sent::Many(items, _) => {
            let items: Vec<Result<&Item<'_>, ApiError>> =
                items.iter().map(|item| item.as_ref().map_err(Clone::clone)).collect();
            let plans: Vec<Result<Plan<'_, '_>, ApiError>> =
                items.into_iter().map(|item| item.and_then(Plan::of)).collect();
            let done = decrypt_many(&call.session, &plans).await?;
            let results: Vec<Answered<Answer<'_>>> = plans
                .iter()
                .zip(&done)
                .map(|(plan, done)| match (plan, done) {
                    (Ok(plan), Ok(decrypted)) => plan.answer(decrypted).map_or_else(Answered::failed, Answered::Good),
                    (Err(error), _) => Answered::failed(error.clone()),
                    (_, Err(error)) => Answered::failed(error.clone()),
                })
                .collect();
            let about = results.iter().map(|result| match result {
                Answered::Good(answer) => answer.plaintext.json_bytes() + 64,
                Answered::Bad { error, .. } => 6 * error.len() + 64,
            });
            let about = about.sum::<usize>() + 64;
            reply::secret(&Answers { results }, about)
        }
    }
}

/// Decrypts what is understood: blobs in one call, raw ciphertexts, which are rare, one by one. In the order of the plans.
async fn decrypt_many(
    session: &Session,
    plans: &[Result<Plan<'_, '_>, ApiError>],
) -> Result<Vec<Result<Decrypted, ApiError>>, ApiError> {
    let blobs: Vec<DecryptItem<'_>> =
        plans.iter().flatten().filter(|plan| matches!(plan.way, Way::Blob)).map(Plan::with_what_must_agree).collect();
    let mut done = if blobs.is_empty() { Vec::new() } else { session.decrypt_batch(&blobs).await? }.into_iter();
    let mut results = Vec::with_capacity(plans.len());
    for plan in plans {
        results.push(match plan {
            Err(error) => Err(error.clone()),
            Ok(plan) => match plan.way {
                Way::Oaep(_) => plan.alone(session).await.map_err(ApiError::from),
                Way::Blob => match done.next() {
                    Some(decrypted) => decrypted.map_err(ApiError::from),
                    None => Err(Error::new(ErrorCode::Internal, "an item without a result").into()),
                },
            },
        });
    }
    Ok(results)
}
