//! Ciphertexts of Mini KMS on Node, whose nonce and tag are kept apart and whose additional data is JSON as JavaScript
//! prints it.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::items::DecryptItem;
use crate::audit::legacy::ecma_json::{Object, Value};
use crate::crypto::provider::{Aead, NONCE, TAG};
use crate::types::context::Context;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::key::MaterialId;
use crate::types::limits::IMPORTED_AAD_BYTES;

/// A ciphertext of the original, with what decrypting it with AES needs.
#[derive(Debug)]
pub(super) struct ImportedCiphertext {
    nonce: [u8; NONCE],
    /// Ciphertext and tag.
    body: Vec<u8>,
    /// The additional data that its caller sent.
    aad: Value,
    /// The same as a context, if it is one: conditions of grants look at it.
    context: Option<Arc<Context>>,
}

impl ImportedCiphertext {
    /// Of what a caller passed. `InvalidCiphertext` if a part has the wrong length, `InvalidArgument` if the additional
    /// data is not JSON.
    pub fn of(item: &DecryptItem<'_>) -> Result<Self> {
        let part = |what: &str| Error::new(ErrorCode::InvalidCiphertext, format!("the {what} has the wrong length"));
        let nonce = item.iv.unwrap_or_default().try_into().map_err(|_| part("iv"))?;
        let tag: [u8; TAG] = item.auth_tag.unwrap_or_default().try_into().map_err(|_| part("authTag"))?;
        let aad = read_aad(item.imported_aad)?;
        let context = item.imported_aad.and_then(|text| serde_json::from_str::<Context>(text).ok());
        let context = if item.imported_aad.is_none() { Some(Context::new()) } else { context };
        let context = context.filter(|context| context.check().is_ok()).map(Arc::new);
        Ok(Self { nonce, body: [item.ciphertext, &tag].concat(), aad, context })
    }

    /// The encryption context, if the additional data is one.
    pub fn context(&self) -> Option<&Arc<Context>> {
        self.context.as_ref()
    }
    /// Bytes of ciphertext and tag.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }
    /// The ciphertext alone, as it was made with an RSA key, which binds no additional data.
    pub fn ciphertext(&self) -> &[u8] {
        &self.body[..self.body.len() - TAG]
    }
    /// Decrypts; `DecryptionFailed` if it does not authenticate.
    pub fn open(&self, aead: &dyn Aead, id: &MaterialId) -> Result<Zeroizing<Vec<u8>>> {
        aead.open(&self.nonce, &additional_data(id, &self.aad), &self.body)
    }
}

fn read_aad(text: Option<&str>) -> Result<Value> {
    match text {
        None => Ok(Value::Null),
        Some(text) if text.len() > IMPORTED_AAD_BYTES => {
            Err(Error::invalid(format!("the additional data has at most {IMPORTED_AAD_BYTES} bytes")))
        }
        Some(text) => Value::parse(text),
    }
}

/// `JSON.stringify({ keyId, version, ...aad })`.
fn additional_data(id: &MaterialId, aad: &Value) -> Vec<u8> {
    let mut all = Object::new();
    all.set("keyId", Value::text(&id.key.to_string()));
    all.set("version", Value::number(id.version.into()));
    aad.spread_into(&mut all);
    Value::Object(all).stringify().into_bytes()
}
