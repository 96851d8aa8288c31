//! Example request bodies for the OpenAPI document. The documentation page sends them unchanged: they use a key
//! `users`, and a key `contracts` for signatures.

use serde_json::{Value, json};

/// The example of a time.
pub(super) const TIME: &str = "2030-01-01T00:00:00Z";
/// A ciphertext from another installation; users replace it by one from their own `encrypt`.
const CIPHERTEXT: &str = "AQFxsoI3j6FNk6BWiLPKGbp9AAAAAcsTl3tAQncMNqaBD6QRo3OcwBt5hvz+xZicUjX8QT3oMIO0ALBoPoQz";

/// The example body for the model with this name, if there is one.
pub(super) fn of(model: &str) -> Option<Value> {
    let context = json!({"tenant": "a"});
    Some(match model {
        "CreateKey" => {
            json!({"name": "users", "type": "AES256_GCM", "purpose": "ENCRYPTION", "rotationPeriodDays": 90})
        }
        "UpdateKey" => json!({"rotationPeriodDays": 30}),
        "ScheduleDeletion" => json!({"waitingDays": 30}),
        "UpdateVersion" => json!({"notAfter": TIME}),
        "EncryptRequest" => json!({"keyId": "users", "plaintext": "hello", "aad": context}),
        "DecryptRequest" => json!({"keyId": "users", "ciphertext": CIPHERTEXT, "aad": context}),
        "ReencryptRequest" => json!({"ciphertext": CIPHERTEXT, "aad": context}),
        "GenerateDataKey" => json!({"keyId": "users", "bytes": 32, "aad": context}),
        "SignRequest" => json!({"keyId": "contracts", "payload": "hello"}),
        "VerifyRequest" => json!({"keyId": "contracts", "payload": "hello", "signature": "AAAA"}),
        "PutGrant" => {
            json!({"principal": "shop", "role": "app", "keyId": "users", "allowedOps": ["encrypt", "decrypt"]})
        }
        "CreateToken" => json!({"principal": "shop", "role": "app", "label": "the shop's server"}),
        "RotateKey" | "VerifyAudit" | "Nothing" | "StrictlyNothing" => json!({}),
        _ => return None,
    })
}
