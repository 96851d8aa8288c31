//! What a route says of itself, for `/openapi.json` and for the limits of its requests.

use axum::http::Method;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// One operation of the service: a method on a path, and its description.
pub struct Operation {
    /// The HTTP method.
    pub method: Method,
    /// The path, with `{name}` for what varies.
    pub path: &'static str,
    /// The `operationId`, which is also the name in metrics.
    pub id: &'static str,
    /// What the contract says of it.
    pub doc: Doc,
}

/// What its route says of a request.
#[derive(Clone, Copy, Default)]
pub struct Kind {
    /// Whether it may take longer than the configured time: for what grows with the store.
    pub is_patient: bool,
    /// Whether its answer is a list in pages.
    pub is_list: bool,
    /// Whether it is sent back what another route answered, which is longer than what was sent there.
    pub returns: bool,
}

/// A named schema, with those it refers to.
pub struct Model {
    /// Its name.
    pub name: String,
    /// It.
    pub schema: RefOr<Schema>,
    /// Those it refers to.
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

/// What the body of an answer is.
#[derive(Default)]
pub enum Answer {
    /// JSON of a model.
    Json(Model),
    /// A JSON array of a model.
    List(Model),
    /// Something else: content type and description.
    Other(&'static str),
    /// Nothing.
    #[default]
    Empty,
}

/// A parameter in the query.
pub struct QueryParam {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub about: &'static str,
    /// Its schema.
    pub schema: serde_json::Value,
}

/// What `/openapi.json` says of a route.
#[derive(Default)]
#[must_use]
pub struct Doc {
    /// The group it is in.
    pub tag: &'static str,
    /// In a line.
    pub summary: &'static str,
    /// The body of the request, and whether it may be left out.
    pub body: Option<(Model, bool)>,
    /// The status of success.
    pub status: u16,
    /// The body of success.
    pub answer: Answer,
    /// Parameters in the query.
    pub query: Vec<QueryParam>,
    /// Statuses of errors beside those that every route has.
    pub errors: Vec<u16>,
    /// Whether it takes an idempotency key.
    pub idempotent: bool,
    /// Whether everybody may call it.
    pub is_open: bool,
    /// What its requests are like.
    pub kind: Kind,
}

impl Doc {
    /// A route in this group that answers nothing.
    pub fn new(tag: &'static str, summary: &'static str) -> Self {
        Self { tag, summary, status: 200, ..Self::default() }
    }
    /// Takes this body.
    pub fn takes<T: ToSchema>(mut self) -> Self {
        self.body = Some((Model::of::<T>(), false));
        self
    }
    /// Takes this body, or none.
    pub fn may_take<T: ToSchema>(mut self) -> Self {
        self.body = Some((Model::of::<T>(), true));
        self
    }
    /// Answers this.
    pub fn gives<T: ToSchema>(mut self) -> Self {
        self.answer = Answer::Json(Model::of::<T>());
        self
    }
    /// Answers this with 201.
    pub fn creates<T: ToSchema>(mut self) -> Self {
        self.status = 201;
        self.gives::<T>()
    }
    /// Answers an array of this, in pages.
    pub fn lists<T: ToSchema>(mut self) -> Self {
        self.answer = Answer::List(Model::of::<T>());
        self.kind.is_list = true;
        let limit = serde_json::json!({"type": "integer", "minimum": 1, "maximum": 1000});
        self.query("limit", "Most entries of the page.", limit)
    }
    /// Answers something else than JSON.
    pub fn sends(mut self, content_type: &'static str) -> Self {
        self.answer = Answer::Other(content_type);
        self
    }
    /// Answers nothing, with 204.
    pub fn empty(mut self) -> Self {
        self.status = 204;
        self
    }
    /// Takes this parameter.
    pub fn query(mut self, name: &'static str, about: &'static str, schema: serde_json::Value) -> Self {
        self.query.push(QueryParam { name, about, schema });
        self
    }
    /// May answer these errors too.
    pub fn errors(mut self, errors: &[u16]) -> Self {
        self.errors.extend(errors);
        self
    }
    /// Takes an idempotency key.
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self.errors(&[409])
    }
    /// Is sent back what another route answered.
    pub fn returning(mut self) -> Self {
        self.kind.returns = true;
        self
    }
    /// May take long.
    pub fn patient(mut self) -> Self {
        self.kind.is_patient = true;
        self
    }
    /// For everybody.
    pub fn open(mut self) -> Self {
        self.is_open = true;
        self
    }
}
