//! Bytes as text.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kms_lib::crypto::provider::SignatureAlgorithm;
use serde::Deserialize;
use serde::ser::Error as _;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::api::ApiError;

/// How plaintexts and payloads stand in JSON.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Encoding {
    /// As they are: UTF-8.
    #[default]
    Utf8,
    /// In base64 (RFC 4648, with padding).
    Base64,
}

impl Encoding {
    /// The bytes of a plaintext or payload.
    pub fn decode<'a>(self, field: &str, text: &'a str) -> Result<Cow<'a, [u8]>, ApiError> {
        match self {
            Self::Utf8 => Ok(Cow::Borrowed(text.as_bytes())),
            Self::Base64 => from_base64(field, text).map(Cow::Owned),
        }
    }

    /// A plaintext as text. It is wiped when dropped, if it was copied.
    pub fn encode(self, bytes: &[u8]) -> Result<Text<'_>, ApiError> {
        match self {
            Self::Utf8 => std::str::from_utf8(bytes)
                .map(Text::Borrowed)
                .map_err(|_| ApiError::invalid("the plaintext is not UTF-8: ask for it with \"encoding\": \"base64\"")),
            Self::Base64 => Ok(Text::Owned(secret_base64(bytes))),
        }
    }
}

/// Text that may be secret.
pub(super) enum Text<'a> {
    /// Where it was.
    Borrowed(&'a str),
    /// Wiped when dropped.
    Owned(Zeroizing<String>),
}

impl Text<'_> {
    /// Most bytes it takes as a JSON string.
    pub fn json_bytes(&self) -> usize {
        match self {
            Self::Borrowed(text) => text.bytes().map(|byte| if byte < 0x20 { 6 } else { 2 }).sum::<usize>() + 2,
            Self::Owned(text) => text.len() + 2,
        }
    }
}

impl serde::Serialize for Text<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Borrowed(text) => serializer.serialize_str(text),
            Self::Owned(text) => serializer.serialize_str(text),
        }
    }
}

/// Bytes in base64, wiped when dropped.
pub(super) fn secret_base64(bytes: &[u8]) -> Zeroizing<String> {
    // With room for all: growing would leave a copy of what was there.
    let mut text = Zeroizing::new(String::with_capacity(bytes.len().div_ceil(3) * 4));
    STANDARD.encode_string(bytes, &mut text);
    text
}

/// Bytes that stand in JSON in base64, and are no secret.
pub(super) struct Base64<B>(pub B);

impl<B: AsRef<[u8]>> Base64<B> {
    /// Bytes it takes as a JSON string.
    pub fn json_bytes(&self) -> usize {
        json_bytes(self.0.as_ref().len())
    }
}

/// Bytes that so many take in base64 as a JSON string.
pub(super) fn json_bytes(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4 + 2
}

impl<B: AsRef<[u8]>> serde::Serialize for Base64<B> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = self.0.as_ref();
        let mut json = vec![b'"'; json_bytes(bytes.len())];
        let between = json.len() - 1;
        STANDARD.encode_slice(bytes, &mut json[1..between]).map_err(S::Error::custom)?;
        let json = String::from_utf8(json).map_err(S::Error::custom)?;
        // As it is: nothing in it can need an escape, which serde_json would look for byte by byte.
        RawValue::from_string(json).map_err(S::Error::custom)?.serialize(serializer)
    }
}

/// The bytes of a field in base64.
pub(super) fn from_base64(field: &str, text: &str) -> Result<Vec<u8>, ApiError> {
    STANDARD.decode(text).map_err(|e| ApiError::invalid(format!("{field}: not valid base64: {e}")))
}

/// How a signature is made.
#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
pub(super) enum SigningAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[default]
    #[serde(rename = "RSASSA_PKCS1_V1_5_SHA_256")]
    Pkcs1,
    /// RSASSA-PSS with SHA-256.
    #[serde(rename = "RSASSA_PSS_SHA_256")]
    Pss,
}

impl From<SigningAlgorithm> for SignatureAlgorithm {
    fn from(algorithm: SigningAlgorithm) -> Self {
        match algorithm {
            SigningAlgorithm::Pkcs1 => Self::RsaPkcs1Sha256,
            SigningAlgorithm::Pss => Self::RsaPssSha256,
        }
    }
}
