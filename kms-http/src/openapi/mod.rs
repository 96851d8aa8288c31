//! The contract as OpenAPI 3.1, made from the routes: what is served is what is described.

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

/// Statuses of errors that every route for known callers may answer.
const ALWAYS: [u16; 6] = [400, 401, 403, 429, 503, 504];

/// Schemas by their names.
type Schemas = Map<String, Value>;

/// The document. Its security schemes are those of the methods of authentication that are on.
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

/// The groups of operations, in the order in which a page shows them.
fn tags() -> Value {
    let tags = [
        ("Keys", "Keys and their versions."),
        ("Cryptography", "What keys are for."),
        ("Grants", "What callers may do with keys."),
        ("Tokens", "Access tokens of this service."),
        ("Audit", "The tamper-evident log."),
        ("Operations", "For those who run the service."),
    ];
    tags.into_iter().map(|(name, about)| json!({"name": name, "description": about})).collect()
}

/// The schemes by which callers may say who they are, and which of them do: each alone, or several together.
fn security(http: &Http) -> (Value, Value) {
    let (mut schemes, mut alternatives) = (Map::new(), Vec::new());
    let mut add = |name: &str, scheme: Value| {
        schemes.insert(name.to_owned(), scheme);
    };
    if http.has(AuthMethod::Token) || http.has(AuthMethod::Oidc) {
        let about = match (http.has(AuthMethod::Token), http.has(AuthMethod::Oidc)) {
            (true, true) => "A token of this service, or a JWT of its issuer.",
            (true, false) => "A token of this service.",
            _ => "A JWT of the issuer of this service.",
        };
        add("bearer", json!({"type": "http", "scheme": "bearer", "description": about}));
        alternatives.push(json!({"bearer": []}));
    }
    if http.has(AuthMethod::Mtls) {
        add("mutualTLS", json!({"type": "mutualTLS", "description": "A client certificate of a trusted authority."}));
        alternatives.push(json!({"mutualTLS": []}));
    }
    if http.has(AuthMethod::TrustedHeaders) {
        let header =
            |name: &str, about: &str| json!({"type": "apiKey", "in": "header", "name": name, "description": about});
        add("principal", header("x-principal", "The caller, as a trusted proxy names it."));
        add("role", header("x-role", "admin, auditor or app."));
        alternatives.push(json!({"principal": [], "role": []}));
    }
    (schemes.into(), alternatives.into())
}

/// Takes in a model with those it refers to, and answers the reference to it.
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
            "version" => ("The number of the version.", json!({"type": "integer", "minimum": 1, "maximum": u32::MAX})),
            "key" => ("The key, by id or name.", json!({"type": "string", "minLength": 1})),
            _ => ("The id.", json!({"type": "string", "format": "uuid"})),
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
            "description": "Sent again with the same key and body within 24 hours, the request changes nothing a \
                            second time.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[!-~]([ -~]*[!-~])?$"},
        }));
    }
    parameters
}

fn responses(doc: &Doc, schemas: &mut Schemas) -> Value {
    let mut responses = Map::new();
    let mut headers = json!({"x-request-id": {
        "description": "Names the request: the caller's `x-request-id` if it sent a sane one.",
        "schema": {"type": "string"},
    }});
    if doc.kind.is_list {
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
        (400, "Malformed: `error` says what, and where."),
        (401, "The caller is not known."),
        (403, "No role or grant of the caller allows it. Whether there is such a key is not told."),
        (404, "There is no such thing, for a caller who may know."),
        (408, "The body took too long to arrive."),
        (409, "Another change came first, or the state of the key does not allow it."),
        (413, "The body is over the limit."),
        (415, "The body is no JSON in UTF-8, or it is compressed."),
        (429, "Too much of this caller: `RateLimited` in a second, `CallerOverloaded` at a time. Nothing was done."),
        (500, "A fault of the service, or data that was altered."),
        (503, "The service is `Overloaded`, or its store or root key cannot be used at the moment."),
        (
            504,
            "The request ran out of time: `Timeout` if nothing was done, `OutcomeUnknown` if it may have had its \
             effect.",
        ),
    ] {
        let mut response = json!({
            "description": about,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        });
        if matches!(status, 429 | 503 | 504) {
            response["headers"] = json!({"Retry-After": {
                "description": "In how many seconds it may be worth trying again.",
                "schema": {"type": "integer", "minimum": 1},
            }});
        }
        responses.insert(status.to_string(), response);
    }
    responses.into()
}
