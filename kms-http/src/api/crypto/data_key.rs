//! `POST /v1/crypto/generate-data-key`.

use std::borrow::Cow;

use axum::http::StatusCode;
use kms_lib::{Context, ErrorCode, KeyId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::codec::{Base64, Encoding, Plaintext};
use crate::api::reply::{self, Reply};
use crate::api::{ApiError, Call, strict_json};

/// Default length of a data key, in bytes.
const BYTES: u32 = 32;

/// Parameters of a new data key.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = GenerateDataKey)]
pub(super) struct Request<'a> {
    /// Id or name of the key that encrypts it.
    #[serde(borrow)]
    key_id: Cow<'a, str>,
    /// Context that is bound to its ciphertext.
    #[serde(default)]
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    aad: Option<Context>,
    /// Length in bytes; 32 by default.
    #[serde(default, deserialize_with = "strict_json::whole")]
    #[schema(minimum = 1, maximum = 1024)]
    bytes: Option<u32>,
    /// Return only the ciphertext.
    #[serde(default)]
    #[schema(required = false)]
    without_plaintext: bool,
}

/// A new data key.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DataKey)]
pub(super) struct Answer {
    /// Id of the key that encrypted it.
    #[schema(value_type = String, format = "uuid")]
    key_id: KeyId,
    /// Data key in base64; absent with `withoutPlaintext`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    plaintext: Option<Plaintext>,
    /// Encrypted data key in base64, to be decrypted with `decrypt`.
    #[schema(value_type = String)]
    ciphertext: Base64<Vec<u8>>,
    /// Version that encrypted it.
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
        // The request is valid, but the type of the key does not allow it.
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
