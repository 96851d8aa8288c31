//! Encodings of bytes as text.

use std::borrow::Cow;
use std::ops::Deref;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::ser::Error as _;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use zeroize::{Zeroize, Zeroizing};

use crate::api::ApiError;

/// The encoding of plaintexts and payloads in JSON.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Encoding {
    /// The text itself, as UTF-8.
    #[default]
    Utf8,
    /// Base64 (RFC 4648, with padding).
    Base64,
}

impl Encoding {
    /// Decodes a plaintext or payload. Bytes decoded from base64 are a copy that is wiped when dropped.
    pub fn decode<'t>(self, field: &str, text: &'t Text<'_>) -> Result<Secret<'t>, ApiError> {
        if self == Self::Utf8 {
            return Ok(Secret::Borrowed(text.0.as_bytes()));
        }
        // Allocate the maximum at once: growing the buffer would leave copies of the secret in memory.
        let mut bytes = Zeroizing::new(Vec::with_capacity(text.0.len() / 4 * 3 + 3));
        match STANDARD.decode_vec(&*text.0, &mut bytes) {
            Ok(()) => Ok(Secret::Owned(bytes)),
            Err(e) => Err(not_base64(field, &e)),
        }
    }
}

/// Bytes that may be secret. A copy is wiped when dropped.
pub(super) enum Secret<'a> {
    /// Borrowed from the body.
    Borrowed(&'a [u8]),
    /// A copy decoded from base64.
    Owned(Zeroizing<Vec<u8>>),
}

impl Deref for Secret<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// Text that may be secret: borrowed from the body, or a copy with its escapes resolved, which is wiped when dropped.
#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Drop for Text<'_> {
    fn drop(&mut self) {
        if let Cow::Owned(text) = &mut self.0 {
            text.zeroize();
        }
    }
}

/// A plaintext for a response, wiped when dropped.
pub(super) struct Plaintext {
    bytes: Zeroizing<Vec<u8>>,
    encoding: Encoding,
}

impl Plaintext {
    /// `InvalidArgument` if the encoding is UTF-8 and the plaintext is not.
    pub fn new(bytes: Zeroizing<Vec<u8>>, encoding: Encoding) -> Result<Self, ApiError> {
        if encoding == Encoding::Utf8 && std::str::from_utf8(&bytes).is_err() {
            return Err(ApiError::invalid("the plaintext is not UTF-8; request it with \"encoding\": \"base64\""));
        }
        Ok(Self { bytes, encoding })
    }

    /// Maximum size of a plaintext of `bytes` bytes as a JSON string, in bytes. A control character takes six.
    pub fn most(bytes: usize, encoding: Encoding) -> usize {
        match encoding {
            Encoding::Utf8 => 6 * bytes + 2,
            Encoding::Base64 => json_bytes(bytes),
        }
    }

    /// Size as a JSON string, in bytes.
    pub fn json_bytes(&self) -> usize {
        let escaped = |byte: &u8| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
            ..0x20 => 6,
            _ => 1,
        };
        match self.encoding {
            Encoding::Utf8 => self.bytes.iter().map(escaped).sum::<usize>() + 2,
            Encoding::Base64 => json_bytes(self.bytes.len()),
        }
    }
}

impl serde::Serialize for Plaintext {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.encoding {
            Encoding::Utf8 => serializer.serialize_str(std::str::from_utf8(&self.bytes).map_err(S::Error::custom)?),
            Encoding::Base64 => serializer.serialize_str(&secret_base64(&self.bytes)),
        }
    }
}

/// Encodes bytes in base64. The text is wiped when dropped.
fn secret_base64(bytes: &[u8]) -> Zeroizing<String> {
    // Allocate the maximum at once: growing the buffer would leave copies of the secret in memory.
    let mut text = Zeroizing::new(String::with_capacity(bytes.len().div_ceil(3) * 4));
    STANDARD.encode_string(bytes, &mut text);
    text
}

/// Bytes that are not secret and are serialized in base64.
pub(super) struct Base64<B>(pub B);

impl<B: AsRef<[u8]>> Base64<B> {
    /// Size as a JSON string, in bytes.
    pub fn json_bytes(&self) -> usize {
        json_bytes(self.0.as_ref().len())
    }
}

/// Size of `bytes` bytes in base64 as a JSON string, in bytes.
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
        // Raw, because base64 needs no escapes and serde_json would search for them byte by byte.
        RawValue::from_string(json).map_err(S::Error::custom)?.serialize(serializer)
    }
}

/// Decodes a field in base64.
pub(super) fn from_base64(field: &str, text: &str) -> Result<Vec<u8>, ApiError> {
    STANDARD.decode(text).map_err(|e| not_base64(field, &e))
}

fn not_base64(field: &str, error: &base64::DecodeError) -> ApiError {
    ApiError::invalid(format!("{field}: not valid base64: {error}"))
}
