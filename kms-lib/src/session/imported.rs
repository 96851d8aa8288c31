//! Ciphertexts of Mini KMS on Node. Their nonce and tag are separate values, and their additional data is JSON as
//! JavaScript prints it.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::items::DecryptItem;
use crate::audit::legacy::ecma_json::{Object, Value};
use crate::crypto::provider::{Aead, NONCE, TAG};
use crate::types::context::Context;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::key::MaterialId;
use crate::types::limits::IMPORTED_AAD_BYTES;

/// A ciphertext of Mini KMS on Node, with the values that AES needs to decrypt it.
#[derive(Debug)]
pub(super) struct ImportedCiphertext {
    nonce: [u8; NONCE],
    /// The ciphertext followed by the tag.
    body: Vec<u8>,
    /// The additional data that the caller sent when encrypting.
    aad: Value,
    /// The additional data as a context, if it is one, for the conditions of grants.
    context: Option<Arc<Context>>,
}

impl ImportedCiphertext {
    /// Builds it from the values that a caller passed. `InvalidCiphertext` if a part has the wrong length,
    /// `InvalidArgument` if the additional data is not JSON.
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
    /// The length of ciphertext and tag in bytes.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }
    /// Decrypts it; `DecryptionFailed` if it does not authenticate.
    pub fn open(&self, aead: &dyn Aead, id: &MaterialId) -> Result<Zeroizing<Vec<u8>>> {
        aead.open(&self.nonce, &additional_data(id, &self.aad), &self.body)
    }
}

fn read_aad(text: Option<&str>) -> Result<Value> {
    match text {
        None => Ok(Value::Null),
        Some(text) if text.len() > IMPORTED_AAD_BYTES => {
            let (length, most) = (text.len(), IMPORTED_AAD_BYTES);
            Err(Error::invalid(format!("the additional data has {length} bytes; at most {most} are allowed")))
        }
        Some(text) => Value::parse(text),
    }
}

/// Returns `JSON.stringify({ keyId, version, ...aad })`.
fn additional_data(id: &MaterialId, aad: &Value) -> Vec<u8> {
    let mut all = Object::new();
    all.set("keyId", Value::text(&id.key.to_string()));
    all.set("version", Value::number(id.version.into()));
    aad.spread_into(&mut all);
    Value::Object(all).stringify().into_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::ids::KeyId;

    /// The output of Node 20 for `JSON.stringify({ keyId, version: 3, ...JSON.parse(aad) })`.
    #[test]
    fn additional_data_is_what_node_makes_of_it() {
        let key: KeyId = "0a1b2c3d-0000-4000-8000-000000000001".parse().unwrap();
        let id = MaterialId { key, version: 3, fingerprint: [0; 32] };
        let begins = |rest: &str| format!("{{\"keyId\":\"{key}\",\"version\":3{rest}}}");
        for (aad, expected) in [
            (r#"{"b":"1","a":"2"}"#, begins(r#","b":"1","a":"2""#)),
            (
                r#"{"b":1,"2":1e21,"1":-0,"01":0.1}"#,
                format!("{{\"1\":0,\"2\":1e+21,\"keyId\":\"{key}\",\"version\":3,\"b\":1,\"01\":0.1}}"),
            ),
            (
                r#"{"version":"x","keyId":null,"z":{"b":[1,{"3":1,"a":2}],"1":"\u00e9\u2028"}}"#,
                "{\"keyId\":null,\"version\":\"x\",\"z\":{\"1\":\"\u{e9}\u{2028}\",\"b\":[1,{\"3\":1,\"a\":2}]}}"
                    .to_owned(),
            ),
            (
                "\"ab\u{1f600}\"",
                format!(r#"{{"0":"a","1":"b","2":"\ud83d","3":"\ude00","keyId":"{key}","version":3}}"#),
            ),
            (r#"["x",{"y":1}]"#, format!(r#"{{"0":"x","1":{{"y":1}},"keyId":"{key}","version":3}}"#)),
            ("null", begins("")),
            ("17", begins("")),
            ("true", begins("")),
            (r#"{"__proto__":1,"a":1,"a":2}"#, begins(r#","__proto__":1,"a":2"#)),
            (r#"{"\ud800":"\udc00"}"#, begins(r#","\ud800":"\udc00""#)),
        ] {
            let made = additional_data(&id, &read_aad(Some(aad)).unwrap());
            assert_eq!(String::from_utf8(made).unwrap(), expected, "{aad}");
        }
        assert_eq!(additional_data(&id, &read_aad(None).unwrap()), begins("").into_bytes());
        let long = format!("\"{}\"", "x".repeat(IMPORTED_AAD_BYTES));
        for malformed in ["{", "undefined", "{\"a\":01}", long.as_str()] {
            assert!(read_aad(Some(malformed)).is_err());
        }
    }
}
