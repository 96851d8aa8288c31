//! `POST /v1/crypto/sign` and `POST /v1/crypto/verify`.

use std::borrow::Cow;

use kms_lib::session;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::codec::{Base64, Encoding, SigningAlgorithm, from_base64};
use super::many::{BatchItem, Sent, Side, merge};
use crate::api::reply::{self, Reply};
use crate::api::{ApiError, Call, strict};

/// What is to be signed.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Sign)]
pub(super) struct SignItem<'a> {
    /// The key, by id or name.
    #[serde(borrow)]
    key_id: Cow<'a, str>,
    /// UTF-8, or base64 if `encoding` says so.
    #[serde(borrow)]
    payload: Cow<'a, str>,
    /// Must be the current one.
    #[serde(default, deserialize_with = "strict::whole")]
    #[schema(minimum = 1)]
    version: Option<u32>,
    #[serde(default)]
    #[schema(value_type = Option<SigningAlgorithm>)]
    signing_algorithm: Option<SigningAlgorithm>,
    encoding: Option<Encoding>,
}

/// A signature.
#[derive(Serialize, ToSchema)]
#[schema(as = Signature)]
pub(super) struct SignAnswer {
    /// In base64.
    #[schema(value_type = String)]
    signature: Base64<Vec<u8>>,
    /// The version that made it.
    version: u32,
}

/// A signature to be verified.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Verify)]
pub(super) struct VerifyItem<'a> {
    /// The key, by id or name.
    #[serde(borrow)]
    key_id: Cow<'a, str>,
    /// UTF-8, or base64 if `encoding` says so.
    #[serde(borrow)]
    payload: Cow<'a, str>,
    /// In base64.
    #[serde(borrow)]
    signature: Cow<'a, str>,
    /// The version that made it; any usable one without.
    #[serde(default, deserialize_with = "strict::whole")]
    #[schema(minimum = 1)]
    version: Option<u32>,
    #[serde(default)]
    #[schema(value_type = Option<SigningAlgorithm>)]
    signing_algorithm: Option<SigningAlgorithm>,
    encoding: Option<Encoding>,
}

/// Whether a signature is good.
#[derive(Serialize, ToSchema)]
#[schema(as = Verified)]
pub(super) struct VerifyAnswer {
    /// Whether it is.
    valid: bool,
    /// The version whose signature it is; if it is not valid, the newest that was tried.
    version: u32,
}

impl BatchItem for SignItem<'_> {
    fn default_encoding(&mut self, encoding: Encoding) {
        self.encoding.get_or_insert(encoding);
    }
}
impl BatchItem for VerifyItem<'_> {
    fn default_encoding(&mut self, encoding: Encoding) {
        self.encoding.get_or_insert(encoding);
    }
}
impl Side for SignItem<'_> {
    const ARRAY: &'static str = "items";
}
impl Side for SignAnswer {
    const ARRAY: &'static str = "results";
}
impl Side for VerifyItem<'_> {
    const ARRAY: &'static str = "items";
}
impl Side for VerifyAnswer {
    const ARRAY: &'static str = "results";
}

/// An item with its payload and signature as bytes.
type Decoded<'a, T> = (&'a T, Cow<'a, [u8]>, Vec<u8>);

impl SignItem<'_> {
    fn payload(&self) -> Result<Cow<'_, [u8]>, ApiError> {
        self.encoding.unwrap_or_default().decode("payload", &self.payload)
    }
}

impl VerifyItem<'_> {
    fn decoded(&self) -> Result<Decoded<'_, Self>, ApiError> {
        let payload = self.encoding.unwrap_or_default().decode("payload", &self.payload)?;
        Ok((self, payload, from_base64("signature", &self.signature)?))
    }
}

fn signed(signature: session::Signature) -> SignAnswer {
    SignAnswer { signature: Base64(signature.signature), version: signature.version }
}

fn verified(verification: session::Verification) -> VerifyAnswer {
    VerifyAnswer { valid: verification.valid, version: verification.version }
}

/// Signs one or many.
pub(super) async fn sign(call: Call) -> Reply {
    match call.one_or_many::<SignItem<'_>>()? {
        Sent::One(item) => {
            let payload = item.payload()?;
            let algorithm = item.signing_algorithm.unwrap_or_default().into();
            let key = &*item.key_id;
            let signature = match item.version {
                Some(version) => call.session.sign_with_version(key, version, &payload, algorithm).await?,
                None => call.session.sign(key, &payload, algorithm).await?,
            };
            reply::ok(&signed(signature))
        }
        Sent::Many(items, _) => {
            let mut payloads = Vec::with_capacity(items.len());
            let mut understood = Vec::with_capacity(items.len());
            for item in &items {
                let decoded = item.as_ref().map_err(Clone::clone).and_then(|item| Ok((item, item.payload()?)));
                understood.push(decoded.map(|good| payloads.push(good)));
            }
            let batch: Vec<session::SignItem<'_>> = payloads
                .iter()
                .map(|(item, payload)| session::SignItem {
                    key: (&*item.key_id).into(),
                    payload,
                    algorithm: item.signing_algorithm.unwrap_or_default().into(),
                    version: item.version,
                })
                .collect();
            let done = if batch.is_empty() { Vec::new() } else { call.session.sign_batch(&batch).await? };
            reply::ok(&merge(understood, done, |_, signature| Ok(signed(signature))))
        }
    }
}

/// Verifies one or many.
pub(super) async fn verify(call: Call) -> Reply {
    match call.one_or_many::<VerifyItem<'_>>()? {
        Sent::One(item) => {
            let (_, payload, signature) = item.decoded()?;
            let algorithm = item.signing_algorithm.unwrap_or_default().into();
            let verification =
                call.session.verify(&*item.key_id, &payload, &signature, algorithm, item.version).await?;
            reply::ok(&verified(verification))
        }
        Sent::Many(items, _) => {
            let mut decoded = Vec::with_capacity(items.len());
            let mut understood = Vec::with_capacity(items.len());
            for item in &items {
                let good = item.as_ref().map_err(Clone::clone).and_then(VerifyItem::decoded);
                understood.push(good.map(|good| decoded.push(good)));
            }
            let batch: Vec<session::VerifyItem<'_>> = decoded
                .iter()
                .map(|(item, payload, signature)| session::VerifyItem {
                    key: (&*item.key_id).into(),
                    payload,
                    signature,
                    algorithm: item.signing_algorithm.unwrap_or_default().into(),
                    version: item.version,
                })
                .collect();
            let done = if batch.is_empty() { Vec::new() } else { call.session.verify_batch(&batch).await? };
            reply::ok(&merge(understood, done, |_, verification| Ok(verified(verification))))
        }
    }
}
