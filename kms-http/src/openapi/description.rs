//! Descriptions of routes, for `/openapi.json` and for the limits of their requests.

use axum::http::Method;
use kms_lib::limits::PAGE_LIMIT;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// One operation of the service: a method on a path, and its description.
pub struct Operation {
    /// The HTTP method of the route.
    pub method: Method,
    /// The path, with `{name}` for parameters.
    pub path: &'static str,
    /// The `operationId`, which is also the name in metrics.
    pub id: &'static str,
    /// The description for the OpenAPI document.
    pub doc: Doc,
}

/// Properties of a route that determine the limits of its requests.
#[derive(Clone, Copy, Default)]
pub struct Kind {
    /// Whether requests may exceed the configured time limit, because their work grows with the store.
    pub is_patient: bool,
    /// Whether the response is a list.
    pub is_list: bool,
    /// Whether requests send back values from responses of other routes, which need a larger body limit.
    pub returns: bool,
}

/// A named schema with the schemas that it refers to.
pub struct Model {
    /// The name in `components/schemas`.
    pub name: String,
    /// The JSON schema of the type.
    pub schema: RefOr<Schema>,
    /// The schemas that it refers to, by name.
    pub others: Vec<(String, RefOr<Schema>)>,
}

impl Model {
    /// The schema of a type.
    pub fn of<T: ToSchema>() -> Self {
        let mut others = Vec::new();
        T::schemas(&mut others);
        Self { name: T::name().into_owned(), schema: <T as PartialSchema>::schema(), others }
    }
}

/// The body of a successful response.
#[derive(Default)]
pub enum Answer {
    /// One JSON object.
    Json(Model),
    /// A JSON array of objects.
    List(Model),
    /// Another body, with this content type.
    Other(&'static str),
    /// A response without a body.
    #[default]
    Empty,
}

/// A query parameter of a route.
pub struct QueryParam {
    /// The name of the parameter.
    pub name: &'static str,
    /// The description for the OpenAPI document: one line.
    pub about: &'static str,
    /// The JSON schema of the value.
    pub schema: serde_json::Value,
}

/// The description of a route in `/openapi.json`.
#[derive(Default)]
#[must_use]
pub struct Doc {
    /// The group (tag) of the operation.
    pub tag: &'static str,
    /// The summary: one line.
    pub summary: &'static str,
    /// The request body, and whether it is optional.
    pub body: Option<(Model, bool)>,
    /// The status of a successful response.
    pub status: u16,
    /// The body of a successful response.
    pub answer: Answer,
    /// The query parameters, in the order of the document.
    pub query: Vec<QueryParam>,
    /// Error statuses in addition to those of every route.
    pub errors: Vec<u16>,
    /// Whether the route accepts an idempotency key.
    pub idempotent: bool,
    /// Whether the route needs no authentication.
    pub is_open: bool,
    /// Properties that determine the limits of requests.
    pub kind: Kind,
}

impl Doc {
    /// Describes a route with this tag and summary, and an empty response.
    pub fn new(tag: &'static str, summary: &'static str) -> Self {
        Self { tag, summary, status: 200, ..Self::default() }
    }
    /// Sets a required request body.
    pub fn takes<T: ToSchema>(mut self) -> Self {
        self.body = Some((Model::of::<T>(), false));
        self
    }
    /// Sets an optional request body.
    pub fn may_take<T: ToSchema>(mut self) -> Self {
        self.body = Some((Model::of::<T>(), true));
        self
    }
    /// Sets a JSON response.
    pub fn gives<T: ToSchema>(mut self) -> Self {
        self.answer = Answer::Json(Model::of::<T>());
        self
    }
    /// Sets a JSON response with status 201.
    pub fn creates<T: ToSchema>(mut self) -> Self {
        self.status = 201;
        self.gives::<T>()
    }
    /// Sets a paged JSON array as the response.
    pub fn lists<T: ToSchema>(mut self) -> Self {
        self.answer = Answer::List(Model::of::<T>());
        self.kind.is_list = true;
        let limit = serde_json::json!({"type": "integer", "minimum": 1, "maximum": PAGE_LIMIT});
        self.query("limit", "Maximum number of entries in the page.", limit)
    }
    /// Sets a response with another content type.
    pub fn sends(mut self, content_type: &'static str) -> Self {
        self.answer = Answer::Other(content_type);
        self
    }
    /// Sets an empty response with status 204.
    pub fn empty(mut self) -> Self {
        self.status = 204;
        self
    }
    /// Adds a query parameter with its description and JSON schema.
    pub fn query(mut self, name: &'static str, about: &'static str, schema: serde_json::Value) -> Self {
        self.query.push(QueryParam { name, about, schema });
        self
    }
    /// Adds error statuses to those of every route.
    pub fn errors(mut self, errors: &[u16]) -> Self {
        self.errors.extend(errors);
        self
    }
    /// Accepts an idempotency key.
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self.errors(&[409])
    }
    /// Allows larger bodies, because requests send back values from responses.
    pub fn returning(mut self) -> Self {
        self.kind.returns = true;
        self
    }
    /// Allows requests to exceed the configured time limit.
    pub fn patient(mut self) -> Self {
        self.kind.is_patient = true;
        self
    }
    /// Marks the route as open: callers need not authenticate.
    pub fn open(mut self) -> Self {
        self.is_open = true;
        self
    }
}
