//! The contract as OpenAPI 3.1, made from the routes: what is served is what is described.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::api::{Answer, Doc, ErrorModel, Model, Route};

/// A page to try the service, with nothing from elsewhere.
pub const PAGE: &str = include_str!("docs.html");
/// What that page may do: its own style and script, and calls to this service.
pub const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                               connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Base64 with padding. The last character before padding has no bits that would be lost.
const BASE64: &str = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$";
/// A key's name: nothing unprintable, no outer blanks.
const NAME: &str = "^[^\\u0000-\\u0020\\u007f-\\u00a0\\u00ad\\u1680\\u2000-\\u200f\\u2028-\\u202f\\u205f-\\u206f\\u3000\\ufeff\\ufff9-\\ufffb]\
                    ([^\\u0000-\\u001f\\u007f-\\u009f\\u00ad\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb]*\
                    [^\\u0000-\\u0020\\u007f-\\u00a0\\u00ad\\u1680\\u2000-\\u200f\\u2028-\\u202f\\u205f-\\u206f\\u3000\\ufeff\\ufff9-\\ufffb])?$";
/// A principal: no control characters, no outer blanks.
const PRINCIPAL: &str = "^[^\\u0000-\\u0020\\u007f-\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]\
                         ([^\\u0000-\\u001f\\u007f-\\u009f]*\
                         [^\\u0000-\\u0020\\u007f-\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000])?$";
/// A ciphertext of this service: format 1, AES or RSA, a version that is not 0, and as long as it has to be.
const BLOB: &str = "^AQ([E-H][A-Za-z0-9+/]{25}[B-Za-z0-9+/][A-Za-z0-9+/]{3}([A-Za-z0-9+/]{4}){9,}([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?\
                    |[I-L][A-Za-z0-9+/]{25}[B-Za-z0-9+/][A-Za-z0-9+/]{3}([A-Za-z0-9+/]{4}){84}[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)$";
/// Statuses of errors that every route for known callers may answer.
const ALWAYS: [u16; 5] = [400, 401, 403, 429, 503];

/// The document.
pub fn document(routes: &[Route]) -> String {
    let mut schemas = BTreeMap::new();
    add(&mut schemas, &Model::of::<ErrorModel>());
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for route in routes {
        let method = route.method.as_str().to_ascii_lowercase();
        let operation = operation(route, &mut schemas);
        paths.entry(route.path).or_default().insert(method, operation);
    }
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Mini KMS",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Keys with a lifecycle, envelope encryption, grants and a tamper-evident audit log.",
            "license": {"name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": error_responses(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A token of this service, or a JWT."},
            },
        },
        "security": [{"bearer": []}],
    });
    document.to_string()
}

fn add(schemas: &mut BTreeMap<String, Value>, model: &Model) -> Value {
    let value = |schema| {
        let mut value = serde_json::to_value(schema).unwrap_or_default();
        narrow(&mut value);
        value
    };
    schemas.insert(model.name.clone(), value(&model.schema));
    for (name, schema) in &model.others {
        schemas.insert(name.clone(), value(schema));
    }
    for (place, pattern) in
        [("CreateKey/name", NAME), ("PutGrant/principal", PRINCIPAL), ("CreateToken/principal", PRINCIPAL)]
    {
        let (schema, property) = place.split_once('/').unwrap_or_default();
        if let Some(property) =
            schemas.get_mut(schema).and_then(|it| it.pointer_mut(&format!("/properties/{property}")))
        {
            property["pattern"] = pattern.into();
        }
    }
    if let Some(create) = schemas.get_mut("CreateKey") {
        create["if"] = json!({"properties": {"type": {"const": "AES256_GCM"}}});
        create["then"] = json!({"properties": {"purpose": {"const": "ENCRYPTION"}}});
    }
    if let Some(ciphertext) = schemas.get_mut("Reencrypt").and_then(|it| it.pointer_mut("/properties/ciphertext")) {
        ciphertext["pattern"] = BLOB.into();
    }
    json!({"$ref": format!("#/components/schemas/{}", model.name)})
}

/// What types cannot say: times lie between the years 1970 and 9999; bytes are in base64.
fn narrow(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(narrow),
        Value::Object(fields) => {
            // First what is within: what is added below is narrow enough.
            fields.values_mut().for_each(narrow);
            if fields.get("format").is_some_and(|format| format == "date-time") {
                fields.insert("pattern".into(), "^(19[7-9][0-9]|[2-9][0-9]{3})-".into());
            }
            if let Some(Value::Object(properties)) = fields.get_mut("properties") {
                for name in ["ciphertext", "signature", "iv", "authTag"] {
                    if let Some(Value::Object(property)) = properties.get_mut(name) {
                        property.insert("pattern".into(), BASE64.into());
                    }
                }
            }
            let is_encoded = fields.get("properties").is_some_and(|properties| properties.get("encoding").is_some());
            if is_encoded {
                let then = json!({"plaintext": {"pattern": BASE64}, "payload": {"pattern": BASE64}});
                let when = json!({"properties": {"encoding": {"const": "base64"}}, "required": ["encoding"]});
                fields.insert("if".into(), when);
                fields.insert("then".into(), json!({"properties": then}));
            }
        }
        _ => {}
    }
}

fn operation(route: &Route, schemas: &mut BTreeMap<String, Value>) -> Value {
    let doc = &route.doc;
    let mut operation = json!({
        "operationId": route.operation,
        "tags": [doc.tag],
        "summary": doc.summary,
        "parameters": parameters(route),
        "responses": responses(doc, schemas),
    });
    if doc.is_open {
        operation["security"] = json!([]);
    }
    if let Some((model, optional)) = &doc.body {
        let schema = add(schemas, model);
        operation["requestBody"] = json!({"required": !optional, "content": {"application/json": {"schema": schema}}});
    }
    operation
}

fn parameters(route: &Route) -> Vec<Value> {
    let mut parameters = Vec::new();
    for name in route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
        let (about, schema) = match name {
            "version" => ("The number of the version.", json!({"type": "integer", "minimum": 1, "maximum": u32::MAX})),
            "key" => ("The key, by id or name.", json!({"type": "string", "minLength": 1})),
            _ => ("The id.", json!({"type": "string", "format": "uuid"})),
        };
        parameters.push(json!({"name": name, "in": "path", "required": true, "description": about, "schema": schema}));
    }
    for query in &route.doc.query {
        let mut schema = query.schema.clone();
        narrow(&mut schema);
        if query.name == "principal" {
            schema["pattern"] = PRINCIPAL.into();
        }
        parameters.push(json!({"name": query.name, "in": "query", "description": query.about, "schema": schema}));
    }
    if route.doc.idempotent {
        parameters.push(json!({
            "name": "Idempotency-Key",
            "in": "header",
            "description": "Sent again with the same key and body within 24 hours, the request changes nothing a second time.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[!-~]+$"},
        }));
    }
    parameters
}

fn responses(doc: &Doc, schemas: &mut BTreeMap<String, Value>) -> Value {
    let mut responses = Map::new();
    let mut headers = json!({"x-request-id": {
        "description": "Names the request: the caller's `x-request-id` if it sent a sane one.",
        "schema": {"type": "string"},
    }});
    if doc.paged {
        headers["x-next-cursor"] = json!({
            "description": "Give this as `cursor` to get the next page; absent on the last one.",
            "schema": {"type": "string"},
        });
    }
    let mut success = json!({"description": "Done.", "headers": headers});
    match &doc.answer {
        Answer::Json(model) => {
            let schema = add(schemas, model);
            success["content"] = json!({"application/json": {"schema": schema}});
        }
        Answer::List(model) => {
            let schema = add(schemas, model);
            success["content"] = json!({"application/json": {"schema": {"type": "array", "items": schema}}});
        }
        Answer::Other("application/json") => success["content"] = json!({"application/json": {"schema": {}}}),
        Answer::Other(content_type) => success["content"] = json!({*content_type: {"schema": {"type": "string"}}}),
        Answer::Empty => {}
    }
    responses.insert(doc.status.to_string(), success);
    let mut errors = doc.errors.clone();
    if !doc.is_open {
        errors.extend(ALWAYS);
        if doc.body.is_some() {
            errors.extend([408, 413]);
        }
    }
    errors.push(500);
    for status in errors {
        responses.insert(status.to_string(), json!({"$ref": format!("#/components/responses/{status}")}));
    }
    responses.into()
}

fn error_responses() -> Value {
    let mut responses = Map::new();
    for (status, about) in [
        (400, "Malformed: `error` says what, and where."),
        (401, "The caller is not known."),
        (403, "No role or grant of the caller allows it. Whether there is such a key is not told."),
        (404, "There is no such thing, for a caller who may know."),
        (408, "The body took too long to arrive."),
        (409, "Another change came first, or the state of the key does not allow it."),
        (413, "The body is over the limit."),
        (429, "Too much: `RateLimited` for the caller's own rate, `Overloaded` for the service. Nothing was done."),
        (500, "A fault of the service, or data that was altered."),
        (503, "The store, or the root key, cannot be used at the moment."),
    ] {
        let mut response = json!({
            "description": about,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        });
        if matches!(status, 429 | 503) {
            response["headers"] = json!({"Retry-After": {
                "description": "In how many seconds it may be worth trying again.",
                "schema": {"type": "integer", "minimum": 1},
            }});
        }
        responses.insert(status.to_string(), response);
    }
    responses.into()
}
