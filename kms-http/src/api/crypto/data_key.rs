//! `POST /v1/crypto/generate-data-key`.

use std::borrow::Cow;

use axum::http::StatusCode;
use kms_lib::{Context, ErrorCode, KeyId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::codec::{Base64, Encoding, Plaintext};
use crate::api::reply::{self, Reply};
use crate::api::{ApiError, Call, strict_json};

/// Bytes of a data key unless the caller says otherwise.
const BYTES: u32 = 32;

/// A data key that is wanted.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = GenerateDataKey)]
pub(super) struct Request<'a> {
    /// The key that encrypts it, by id or name.
    #[serde(borrow)]
    key_id: Cow<'a, str>,
    /// Bound to its ciphertext.
    #[serde(default)]
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    aad: Option<Context>,
    /// Its length.
    #[serde(default, deserialize_with = "strict_json::whole")]
    #[schema(minimum = 1, maximum = 1024)]
    bytes: Option<u32>,
    /// Only its ciphertext is wanted.
    #[serde(default)]
    #[schema(required = false)]
    without_plaintext: bool,
}

/// A data key.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DataKey)]
pub(super) struct Answer {
    /// The key that encrypted it.
    #[schema(value_type = String, format = "uuid")]
    key_id: KeyId,
    /// In base64; absent with `withoutPlaintext`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    plaintext: Option<Plaintext>,
    /// `decrypt` gives it back.
    #[schema(value_type = String)]
    ciphertext: Base64<Vec<u8>>,
    /// The version it was encrypted with.
    version: u32,
}

/// Generates a data key.
pub(super) async fn generate(call: Call) -> Reply {
    let sent: Request<'_> = call.json()?;
    let (key, bytes) = (&*sent.key_id, sent.bytes.unwrap_or(BYTES) as usize);
    let context = sent.aad.unwrap_or_default();
    let made = if sent.without_plaintext {
        call.session.generate_data_key_without_plaintext(key, bytes, &context).await
    } else {
        call.session.generate_data_key(key, bytes, &context).await
    };
    let made = made.map_err(|error| match error.code() {
        // The request is good; it does not go with the type of the key.
        ErrorCode::PlaintextTooLong => ApiError { status: StatusCode::CONFLICT, ..error.into() },
        _ => error.into(),
    })?;
    let answer = Answer {
        key_id: made.key,
        plaintext: made.plaintext.map(|bytes| Plaintext::new(bytes, Encoding::Base64)).transpose()?,
        ciphertext: Base64(made.ciphertext),
        version: made.version,
    };
    let about = answer.ciphertext.json_bytes() + answer.plaintext.as_ref().map_or(0, Plaintext::json_bytes) + 160;
    reply::secret(&answer, about)
}
