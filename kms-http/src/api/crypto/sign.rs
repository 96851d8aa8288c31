//! `POST /v1/crypto/sign` and `POST /v1/crypto/verify`.

use std::borrow::Cow;

use kms_lib::{Session, Signature, SignatureAlgorithm, SignatureCheck};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::codec::{Base64, Encoding, Secret, Text, from_base64, json_bytes};
use super::many::{Done, Item};
use crate::api::{ApiError, strict_json};
use crate::openapi::schemas;

/// The signature algorithm of requests that name none.
const DEFAULT: SignatureAlgorithm = SignatureAlgorithm::RsaPkcs1Sha256;
/// Maximum length of a signature, in bytes.
const SIGNATURE: usize = kms_lib::limits::RSA_2048_BYTES;
/// Size of a response without the signature, in bytes.
const BESIDE: usize = 64;

/// A payload to sign.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = Sign)]
pub(super) struct SignItem<'a> {
    /// Id or name of the key.
    #[serde(borrow)]
    key_id: Cow<'a, str>,
    /// Payload as UTF-8, or in base64 if `encoding` is `base64`.
    #[serde(borrow)]
    #[schema(value_type = String)]
    payload: Text<'a>,
    /// Fail unless this is the current version.
    #[serde(default, deserialize_with = "strict_json::whole")]
    #[schema(minimum = 1)]
    version: Option<u32>,
    #[serde(default)]
    #[schema(value_type = Option<schemas::SigningAlgorithm>)]
    signing_algorithm: Option<SignatureAlgorithm>,
    encoding: Option<Encoding>,
}

/// A new signature.
#[derive(Serialize, ToSchema)]
#[schema(as = Signature)]
pub(super) struct SignAnswer {
    /// Signature in base64.
    #[schema(value_type = String)]
    signature: Base64<Vec<u8>>,
    /// Version that made the signature.
    version: u32,
}

/// A signature to verify.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = Verify)]
pub(super) struct VerifyItem<'a> {
    /// Id or name of the key.
    #[serde(borrow)]
    key_id: Cow<'a, str>,
    /// Payload as UTF-8, or in base64 if `encoding` is `base64`.
    #[serde(borrow)]
    #[schema(value_type = String)]
    payload: Text<'a>,
    /// Signature in base64.
    #[serde(borrow)]
    signature: Cow<'a, str>,
    /// Version that made the signature; by default every usable version is tried.
    #[serde(default, deserialize_with = "strict_json::whole")]
    #[schema(minimum = 1)]
    version: Option<u32>,
    #[serde(default)]
    #[schema(value_type = Option<schemas::SigningAlgorithm>)]
    signing_algorithm: Option<SignatureAlgorithm>,
    encoding: Option<Encoding>,
}

/// The result of a signature verification.
#[derive(Serialize, ToSchema)]
#[schema(as = Verified)]
pub(super) struct VerifyAnswer {
    /// Whether the signature is valid.
    valid: bool,
    /// Version that made the signature; if the signature is not valid, the newest version that was tried.
    version: u32,
}

impl Item for SignItem<'static> {
    type Sent<'a> = SignItem<'a>;
    type Input<'i> = (&'i SignItem<'i>, Secret<'i>);
    type Output = Signature;
    type Answer = SignAnswer;

    fn read<'i, 'a: 'i>(sent: &'i SignItem<'a>, default: Encoding) -> Result<Self::Input<'i>, ApiError> {
        Ok((sent, sent.encoding.unwrap_or(default).decode("payload", &sent.payload)?))
    }
    fn most(_: &Self::Input<'_>) -> usize {
        json_bytes(SIGNATURE) + BESIDE
    }
    async fn work(session: &Session, inputs: &[&Self::Input<'_>]) -> Done<Signature> {
        let items = inputs.iter().map(|(sent, payload)| {
            let algorithm = sent.signing_algorithm.unwrap_or(DEFAULT);
            let item = kms_lib::SignItem::new(&*sent.key_id, payload, algorithm);
            sent.version.into_iter().fold(item, kms_lib::SignItem::version)
        });
        session.sign_batch(&items.collect::<Vec<_>>()).await
    }
    fn answer(_: &Self::Input<'_>, done: Signature) -> Result<(SignAnswer, usize), ApiError> {
        let answer = SignAnswer { signature: Base64(done.signature), version: done.version };
        let about = answer.signature.json_bytes() + BESIDE;
        Ok((answer, about))
    }
}

impl Item for VerifyItem<'static> {
    const RETURNED: bool = true;
    type Sent<'a> = VerifyItem<'a>;
    type Input<'i> = (&'i VerifyItem<'i>, Secret<'i>, Vec<u8>);
    type Output = SignatureCheck;
    type Answer = VerifyAnswer;

    fn read<'i, 'a: 'i>(sent: &'i VerifyItem<'a>, default: Encoding) -> Result<Self::Input<'i>, ApiError> {
        let payload = sent.encoding.unwrap_or(default).decode("payload", &sent.payload)?;
        Ok((sent, payload, from_base64("signature", &sent.signature)?))
    }
    fn most(_: &Self::Input<'_>) -> usize {
        BESIDE
    }
    async fn work(session: &Session, inputs: &[&Self::Input<'_>]) -> Done<SignatureCheck> {
        let items = inputs.iter().map(|(sent, payload, signature)| {
            let algorithm = sent.signing_algorithm.unwrap_or(DEFAULT);
            let item = kms_lib::VerifyItem::new(&*sent.key_id, payload, signature, algorithm);
            sent.version.into_iter().fold(item, kms_lib::VerifyItem::version)
        });
        session.verify_batch(&items.collect::<Vec<_>>()).await
    }
    fn answer(_: &Self::Input<'_>, done: SignatureCheck) -> Result<(VerifyAnswer, usize), ApiError> {
        Ok((VerifyAnswer { valid: done.valid, version: done.version }, BESIDE))
    }
}
