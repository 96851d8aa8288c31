//! The OpenAPI 3.1 document, generated from the routes, so that it always matches them.

mod constraints;
mod description;
mod examples;
pub mod page;
pub mod schemas;

pub use description::{Answer, Doc, Kind, Model, Operation, QueryParam};

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use self::constraints::{narrow, principal, refine};
use crate::error::ErrorBody;
use crate::settings::{AuthMethod, Http};

/// Error statuses that every route for authenticated callers may return.
const ALWAYS: [u16; 6] = [400, 401, 403, 429, 503, 504];

/// The schemas of the document by name.
type Schemas = Map<String, Value>;

/// Generates the document. Its security schemes are the enabled methods of authentication.
pub fn document(operations: &[Operation], http: &Http) -> String {
    let mut schemas = Schemas::new();
    add(&mut schemas, &Model::of::<ErrorBody<'static>>());
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in operations {
        let method = operation.method.as_str().to_ascii_lowercase();
        let described = describe(operation, &mut schemas);
        paths.entry(operation.path).or_default().insert(method, described);
    }
    let mut schemas = json!(schemas);
    narrow(&mut schemas);
    refine(&mut schemas);
    let (schemes, alternatives) = security(http);
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Mini KMS",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Keys with a lifecycle, envelope encryption, grants and a tamper-evident audit log.",
            "license": {"name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT"},
        },
        "tags": tags(),
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": error_responses(),
            "securitySchemes": schemes,
        },
        "security": alternatives,
    });
    document.to_string()
}

/// The groups of operations, in the order of the documentation page.
fn tags() -> Value {
    let tags = [
        ("Keys", "Keys and their versions."),
        ("Cryptography", "Encryption, signatures and data keys."),
        ("Grants", "Permissions of principals on keys."),
        ("Tokens", "Access tokens of this service."),
        ("Audit", "The tamper-evident audit log."),
        ("Operations", "Probes, metrics and this document, for operators."),
    ];
    tags.into_iter().map(|(name, about)| json!({"name": name, "description": about})).collect()
}

/// The security schemes, and the alternative combinations of them that authenticate a caller.
fn security(http: &Http) -> (Value, Value) {
    let (mut schemes, mut alternatives) = (Map::new(), Vec::new());
    let mut add = |name: &str, scheme: Value| {
        schemes.insert(name.to_owned(), scheme);
    };
    if http.has(AuthMethod::Token) || http.has(AuthMethod::Oidc) {
        let about = match (http.has(AuthMethod::Token), http.has(AuthMethod::Oidc)) {
            (true, true) => "An access token of this service, or a JWT of the configured issuer.",
            (true, false) => "An access token of this service.",
            _ => "A JWT of the configured issuer.",
        };
        add("bearer", json!({"type": "http", "scheme": "bearer", "description": about}));
        alternatives.push(json!({"bearer": []}));
    }
    if http.has(AuthMethod::Mtls) {
        add(
            "mutualTLS",
            json!({"type": "mutualTLS", "description": "A TLS client certificate of a trusted authority."}),
        );
        alternatives.push(json!({"mutualTLS": []}));
    }
    if http.has(AuthMethod::TrustedHeaders) {
        let header =
            |name: &str, about: &str| json!({"type": "apiKey", "in": "header", "name": name, "description": about});
        add("principal", header("x-principal", "The principal, set by a trusted proxy."));
        add("role", header("x-role", "The role, set by a trusted proxy: admin, auditor or app."));
        alternatives.push(json!({"principal": [], "role": []}));
    }
    (schemes.into(), alternatives.into())
}

/// Adds a model and the models that it refers to, and returns a reference to it.
fn add(schemas: &mut Schemas, model: &Model) -> Value {
    schemas.insert(model.name.clone(), json!(model.schema));
    schemas.extend(model.others.iter().map(|(name, schema)| (name.clone(), json!(schema))));
    json!({"$ref": format!("#/components/schemas/{}", model.name)})
}

fn describe(operation: &Operation, schemas: &mut Schemas) -> Value {
    let doc = &operation.doc;
    let mut described = json!({
        "operationId": operation.id,
        "tags": [doc.tag],
        "summary": doc.summary,
        "parameters": parameters(operation),
        "responses": responses(doc, schemas),
    });
    if doc.is_open {
        described["security"] = json!([]);
    }
    if let Some((model, optional)) = &doc.body {
        let mut content = json!({"schema": add(schemas, model)});
        if let Some(example) = examples::of(&model.name) {
            content["example"] = example;
        }
        described["requestBody"] = json!({"required": !optional, "content": {"application/json": content}});
    }
    described
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let mut parameters = Vec::new();
    for name in operation.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
        let (about, schema) = match name {
            "version" => ("Version number.", json!({"type": "integer", "minimum": 1, "maximum": u32::MAX})),
            "key" => ("Id or name of the key.", json!({"type": "string", "minLength": 1})),
            _ => ("Id of the object.", json!({"type": "string", "format": "uuid"})),
        };
        parameters.push(json!({"name": name, "in": "path", "required": true, "description": about, "schema": schema}));
    }
    for query in &operation.doc.query {
        let mut schema = query.schema.clone();
        narrow(&mut schema);
        if query.name == "principal" {
            schema["pattern"] = principal().into();
        }
        parameters.push(json!({"name": query.name, "in": "query", "description": query.about, "schema": schema}));
    }
    if operation.doc.idempotent {
        parameters.push(json!({
            "name": "Idempotency-Key",
            "in": "header",
            "description": "A request repeated with the same key and body within 24 hours makes no second change.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[!-~]([ -~]*[!-~])?$"},
        }));
    }
    parameters
}

fn responses(doc: &Doc, schemas: &mut Schemas) -> Value {
    let mut responses = Map::new();
    let mut headers = json!({"x-request-id": {
        "description": "Id of the request: the `x-request-id` of the request if it is valid, otherwise a new one.",
        "schema": {"type": "string"},
    }});
    if doc.kind.is_list {
        headers["x-next-cursor"] = json!({
            "description": "Value of `cursor` for the next page; absent on the last page.",
            "schema": {"type": "string"},
        });
    }
    let mut success = json!({"description": "Success.", "headers": headers});
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
            errors.extend([408, 413, 415]);
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
        (400, "The request is malformed; `error` names the fault and its place."),
        (401, "The request has no valid credential."),
        (
            403,
            "No role or grant of the caller allows the request. The response does not reveal whether the key exists.",
        ),
        (404, "The requested object does not exist, and the caller is allowed to know."),
        (408, "The body took too long to arrive."),
        (409, "The request conflicts with another change or with the state of the key."),
        (413, "The body is larger than the limit."),
        (415, "The body is not JSON in UTF-8, or it is compressed."),
        (
            429,
            "`RateLimited`: too many requests or invalid credentials per second. `CallerOverloaded`: too many requests \
             of the caller in progress. Nothing was done.",
        ),
        (500, "A fault of the service, or altered data in the store."),
        (503, "The service is `Overloaded`, or its store or root key is unavailable."),
        (
            504,
            "The request timed out: `Timeout` if nothing was done, `OutcomeUnknown` if it may have taken effect or may \
             still do so.",
        ),
    ] {
        let mut response = json!({
            "description": about,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        });
        if matches!(status, 429 | 503 | 504) {
            response["headers"] = json!({"Retry-After": {
                "description": "Seconds until a retry may succeed.",
                "schema": {"type": "integer", "minimum": 1},
            }});
        }
        responses.insert(status.to_string(), response);
    }
    responses.into()
}
