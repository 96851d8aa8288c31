//! Adds constraints to the schemas that the request types cannot express.

use kms_lib::limits::{CONDITION_NETWORKS, CONTEXT_ENTRIES};
use serde_json::{Value, json};

use super::examples::TIME;

/// Base64 with padding. The unused bits of the last character before the padding must be zero.
const BASE64: &str = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$";
/// Characters that `types::text::is_deceptive` of the library refuses, for a character class.
const DECEPTIVE: &str = "\\u0000-\\u001f\\u007f-\\u009f\\u00ad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180f\
                         \\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\u3164\\ufe00-\\ufe0f\\ufeff\\uffa0\
                         \\ufff0-\\ufffb\u{1bca0}-\u{1bca3}\u{1d173}-\u{1d17a}\u{e0000}-\u{e0fff}";
/// Spaces, which names must not begin or end with.
const BLANKS: &str = "\\u0020\\u00a0\\u1680\\u2000-\\u200a\\u202f\\u205f\\u3000";
/// Non-ASCII letters whose lower case is ASCII.
const DECEPTIVE_LETTERS: &str = "\\u0130\\u212a";

/// The pattern of a base64 digit.
const DIGIT: &str = "[A-Za-z0-9+/]";
/// Any base64 character except `A`, which means zero.
const NOT_ZERO: &str = "[B-Za-z0-9+/]";
/// A UUID, the form of all ids.
const UUID: &str = "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$";
/// Text without NUL, which not every database can store.
const NO_NUL: &str = "^[^\\u0000]*$";
/// The largest integer that every JSON parser represents exactly (2^53 - 1).
const EXACT: i64 = (1 << 53) - 1;

/// Pattern of the names of keys and principals: no deceptive characters, no spaces at the ends, none of `others`.
fn name(others: &str) -> String {
    format!("^[^{DECEPTIVE}{BLANKS}{others}]([^{DECEPTIVE}{others}]*[^{DECEPTIVE}{BLANKS}{others}])?$")
}

/// Pattern of a ciphertext of this service in base64: format 1, AES or RSA, key, version other than 0, and the length
/// that the algorithm requires.
fn blob() -> String {
    // The version has 32 bits, in six characters of which the last has two.
    let mut versions: Vec<String> =
        (0..5).map(|zeros| format!("A{{{zeros}}}{NOT_ZERO}{DIGIT}{{{}}}", 5 - zeros)).collect();
    versions.push("A{5}[Q-Za-z0-9+/]".into());
    let version = versions.join("|");
    let (one, two) = (format!("{DIGIT}[AQgw]=="), format!("{DIGIT}{{2}}[AEIMQUYcgkosw048]="));
    let aes = format!("({DIGIT}{{4}}){{11}}({one}|{two})|({DIGIT}{{4}}){{12,}}({one}|{two})?");
    let rsa = format!("({DIGIT}{{4}}){{87}}{one}");
    let header = |algorithm| format!("AQ{algorithm}{DIGIT}{{21}}({version}){DIGIT}{{2}}");
    format!("^({}({aes})|{}{rsa})$", header("[E-H]"), header("[I-L]"))
}

/// Pattern of a principal in a grant or a query.
pub(super) fn principal() -> String {
    name("")
}

/// Adds the constraints that involve several properties, or a specific property.
pub(super) fn refine(schemas: &mut Value) {
    for (schema, property, pattern) in [
        ("CreateKey", "name", name("")),
        ("PutGrant", "principal", principal()),
        ("CreateToken", "principal", name(DECEPTIVE_LETTERS)),
    ] {
        let property = &mut schemas[schema]["properties"][property];
        property["pattern"] = pattern.into();
        property["not"] = json!({"const": "*"});
    }
    schemas["CreateToken"]["properties"]["label"]["pattern"] = format!("^[^{DECEPTIVE}]*$").into();
    let create = &mut schemas["CreateKey"];
    create["if"] = json!({"properties": {"type": {"const": "AES256_GCM"}}});
    create["then"] = json!({"properties": {"purpose": {"const": "ENCRYPTION"}}});
    let grant = &mut schemas["PutGrant"];
    let allowed = &mut grant["properties"]["allowedOps"];
    allowed["contains"] = allowed["items"].take();
    allowed["items"] = json!({"anyOf": [allowed["contains"], {"const": ""}]});
    // The permission `create` applies to all names, so it needs the key `*`.
    grant["if"] = json!({"properties": {"allowedOps": {"contains": {"const": "create"}}}});
    grant["then"] = json!({"properties": {"keyId": {"const": "*"}}});
    schemas["Reencrypt"]["properties"]["ciphertext"]["pattern"] = blob().into();
    schemas["Decrypt"]["properties"]["ciphertext"]["minLength"] = 4.into();
    for schema in ["CreateKey", "UpdateKey"] {
        let metadata = &mut schemas[schema]["properties"]["metadata"];
        metadata["additionalProperties"] = json!({"$ref": "#/components/schemas/Value"});
        metadata["propertyNames"] = json!({"pattern": NO_NUL});
    }
    schemas["Value"] = any_value();
}

/// Schema of JSON that every parser reads identically.
fn any_value() -> Value {
    let this = json!({"$ref": "#/components/schemas/Value"});
    json!({
        "description": "Any JSON. Send integers beyond 2^53 - 1 as text.",
        "anyOf": [
            {"type": ["null", "boolean"]},
            {"type": "string", "pattern": NO_NUL},
            {"type": "number", "minimum": -EXACT, "maximum": EXACT},
            {"type": "array", "items": this},
            {"type": "object", "propertyNames": {"pattern": NO_NUL}, "additionalProperties": this},
        ],
    })
}

/// Pattern of an IPv4 or IPv6 network (CIDR).
fn network() -> String {
    const BYTE: &str = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
    const PART: &str = "[0-9A-Fa-f]{1,4}";
    let mut long =
        vec![format!("({PART}:){{7}}{PART}"), format!("({PART}:){{1,7}}:"), format!(":(:{PART}){{1,7}}"), "::".into()];
    // With `::` after 1 to `parts` parts.
    long.extend((1..=6).map(|parts| format!("({PART}:){{1,{parts}}}(:{PART}){{1,{}}}", 7 - parts)));
    format!("^({BYTE}([.]{BYTE}){{3}}/(3[0-2]|[12]?[0-9])|({})/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))$", long.join("|"))
}

/// Adds patterns: times are between the years 1970 and 9999, ids are UUIDs, and bytes are in base64.
pub(super) fn narrow(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(narrow),
        Value::Object(fields) => {
            // Nested schemas first: those added below need no further constraints.
            fields.values_mut().for_each(narrow);
            // `format` is only an annotation and does not validate.
            let pattern = match fields.get("format").and_then(Value::as_str) {
                Some("date-time") => Some("^(19[7-9][0-9]|[2-9][0-9]{3})-"),
                Some("uuid") => Some(UUID),
                _ => None,
            };
            if fields.get("format").and_then(Value::as_str) == Some("date-time") {
                // Otherwise documentation pages generate an invalid example from the pattern.
                fields.insert("examples".to_owned(), json!([TIME]));
            }
            fields.extend(pattern.map(|pattern| ("pattern".to_owned(), pattern.into())));
            if let Some(Value::Object(properties)) = fields.get_mut("properties") {
                properties.iter_mut().for_each(|(name, property)| narrow_property(name, property));
            }
            let has = |name| fields.get("properties").is_some_and(|properties| properties.get(name).is_some());
            if has("encoding") && (has("plaintext") || has("payload")) {
                let then = json!({"plaintext": {"pattern": BASE64}, "payload": {"pattern": BASE64}});
                let when = json!({"properties": {"encoding": {"const": "base64"}}, "required": ["encoding"]});
                fields.insert("if".into(), when);
                fields.insert("then".into(), json!({"properties": then}));
            }
        }
        _ => {}
    }
}

/// Adds constraints for properties that have the same meaning in all schemas.
fn narrow_property(name: &str, property: &mut Value) {
    match name {
        "ciphertext" | "signature" | "iv" | "authTag" => property["pattern"] = BASE64.into(),
        "sourceIp" => {
            property["minItems"] = 1.into();
            property["maxItems"] = CONDITION_NETWORKS.into();
            property["items"] = json!({"type": "string", "pattern": network()});
        }
        "aad" | "destinationAad" | "encryptionContextEquals" | "encryptionContextSubset" => {
            property["maxProperties"] = CONTEXT_ENTRIES.into();
            property["propertyNames"] = json!({"pattern": NO_NUL});
            property["additionalProperties"] = json!({"type": "string", "pattern": NO_NUL});
        }
        _ => {}
    }
}
