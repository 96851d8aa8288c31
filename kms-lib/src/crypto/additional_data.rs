//! The additional data that a ciphertext is bound to: canonical JSON (RFC 8785) of algorithm, context, the material's
//! fingerprint, format, key and version. Other implementations can compute it from the published format.

use std::fmt::Write;

use crate::types::audit::{write_decimal, write_hex};
use crate::types::context::Context;
use crate::types::key::MaterialId;

/// The algorithm of a ciphertext.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EncryptionAlgorithm {
    /// AES-256-GCM with a random nonce of 96 bits and a tag of 128 bits.
    Aes256Gcm,
    /// RSA-2048 with OAEP, SHA-256 and MGF1-SHA256.
    RsaOaepSha256,
}

impl EncryptionAlgorithm {
    /// The algorithm's name in the additional data.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "AES_256_GCM",
            Self::RsaOaepSha256 => "RSA_OAEP_SHA_256",
        }
    }
}

/// The additional authenticated data of an AES-GCM ciphertext, or the label of an OAEP ciphertext.
pub fn additional_data(alg: EncryptionAlgorithm, id: &MaterialId, context: &Context) -> Vec<u8> {
    // Quotes and punctuation of an entry take 6 bytes, the other members at most 204.
    let mut out = String::with_capacity(208 + context.bytes() + 6 * context.len());
    out.push_str("{\"alg\":\"");
    out.push_str(alg.as_str());
    out.push_str("\",\"context\":");
    write_context(&mut out, context);
    out.push_str(",\"fingerprint\":\"");
    write_hex(&mut out, &id.fingerprint);
    out.push_str("\",\"format\":1,\"keyId\":\"");
    id.key.write_to(&mut out);
    out.push_str("\",\"version\":");
    write_decimal(&mut out, u64::from(id.version));
    out.push('}');
    out.into_bytes()
}

/// Appends a context as a JSON object, with its members in the order of RFC 8785 (3.2.3).
pub fn write_context(out: &mut String, context: &Context) {
    out.push('{');
    // The orders of UTF-8 and UTF-16 differ only between characters from U+E000 on and those beyond U+FFFF, whose
    // surrogates sort before U+E000. 0xEE is the first byte of U+E000.
    if context.iter().all(|(name, _)| name.bytes().all(|byte| byte < 0xEE)) {
        write_entries(out, context.iter());
    } else {
        let mut entries: Vec<_> = context.iter().collect();
        entries.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
        write_entries(out, entries.into_iter());
    }
    out.push('}');
}

fn write_entries<'a>(out: &mut String, entries: impl Iterator<Item = (&'a str, &'a str)>) {
    for (index, (name, value)) in entries.enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_json_string(out, name);
        out.push(':');
        write_json_string(out, value);
    }
}

/// Appends `text` as a JSON string, escaped as in RFC 8785 (3.2.2.2).
pub fn write_json_string(out: &mut String, text: &str) {
    out.push('"');
    let mut start = 0;
    for (index, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[start..index]);
        start = index + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            0x08 => out.push_str("\\b"),
            b'\t' => out.push_str("\\t"),
            b'\n' => out.push_str("\\n"),
            0x0C => out.push_str("\\f"),
            b'\r' => out.push_str("\\r"),
            _ => {
                let _ = write!(out, "\\u{byte:04x}");
            }
        }
    }
    out.push_str(&text[start..]);
    out.push('"');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::types::ids::KeyId;

    fn json(context: &Context) -> String {
        let id = MaterialId { key: KeyId::from_bytes([0xAB; 16]), version: 7, fingerprint: [0xCD; 32] };
        String::from_utf8(additional_data(EncryptionAlgorithm::Aes256Gcm, &id, context)).unwrap()
    }

    #[test]
    fn is_the_published_text() {
        let context = Context::from([("tenant", "acme"), ("a", "\"b\"")]);
        assert_eq!(
            json(&context),
            concat!(
                r#"{"alg":"AES_256_GCM","context":{"a":"\"b\"","tenant":"acme"},"#,
                r#""fingerprint":"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd","#,
                r#""format":1,"keyId":"abababab-abab-abab-abab-abababababab","version":7}"#
            )
        );
        let id = MaterialId { key: KeyId::from_bytes([0; 16]), version: u32::MAX, fingerprint: [0; 32] };
        let rsa = additional_data(EncryptionAlgorithm::RsaOaepSha256, &id, &Context::new());
        assert_eq!(
            String::from_utf8(rsa).unwrap(),
            concat!(
                r#"{"alg":"RSA_OAEP_SHA_256","context":{},"#,
                r#""fingerprint":"0000000000000000000000000000000000000000000000000000000000000000","#,
                r#""format":1,"keyId":"00000000-0000-0000-0000-000000000000","version":4294967295}"#
            )
        );
    }

    #[test]
    fn names_are_ordered_by_utf16() {
        // The example of RFC 8785, 3.2.3.
        let names = ["\u{20ac}", "\r", "\u{fb33}", "1", "\u{1f600}", "\u{80}", "\u{f6}"];
        let context: Context = names.iter().map(|name| (*name, "")).collect();
        let text = json(&context);
        let at = |name: &str| text.find(name).unwrap();
        let order = ["\\r", "\"1\"", "\u{80}", "\u{f6}", "\u{20ac}", "\u{1f600}", "\u{fb33}"];
        assert!(order.windows(2).all(|pair| at(pair[0]) < at(pair[1])), "{text}");
        // Without characters beyond U+FFFF, the slow path sorts in the order of UTF-8.
        assert!(json(&Context::from([("\u{e000}", ""), ("\u{d7ff}", "")])).contains("\"\u{d7ff}\":\"\",\"\u{e000}\""));
    }

    #[test]
    fn strings_are_escaped_as_rfc_8785_says() {
        let mut out = String::new();
        write_json_string(&mut out, "\u{0}\u{8}\t\n\u{b}\u{c}\r\u{1f} \"\\/\u{7f}\u{20ac}\u{1f600}");
        assert_eq!(out, "\"\\u0000\\b\\t\\n\\u000b\\f\\r\\u001f \\\"\\\\/\u{7f}\u{20ac}\u{1f600}\"");
        let parsed: String = serde_json::from_str(&out).unwrap();
        assert_eq!(parsed, "\u{0}\u{8}\t\n\u{b}\u{c}\r\u{1f} \"\\/\u{7f}\u{20ac}\u{1f600}");
    }

    #[test]
    fn one_allocation_is_enough_without_escapes() {
        let context = Context::from([("tenant", "acme"), ("table", "users"), ("row", "1")]);
        let id = MaterialId { key: KeyId::random(), version: u32::MAX, fingerprint: [1; 32] };
        let data = additional_data(EncryptionAlgorithm::RsaOaepSha256, &id, &context);
        assert!(data.len() <= 208 + context.bytes() + 6 * context.len());
    }
}
