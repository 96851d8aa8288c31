//! One item, or up to 1,000 in `items`: each is answered, or fails, alone.

use std::marker::PhantomData;

use kms_lib::Error;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::openapi::schema::{
    AdditionalProperties, AnyOfBuilder, ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, SchemaType,
};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::codec::Encoding;
use crate::api::{ApiError, Call, strict};

/// Most items of a batch.
const ITEMS: usize = kms_lib::types::limits::BATCH_ITEMS;

/// What was sent.
pub(super) enum Sent<'a, T> {
    /// One.
    One(T),
    /// Many, those that cannot be understood among them, and how what does not say otherwise is encoded.
    Many(Vec<Result<T, ApiError>>, PhantomData<&'a ()>),
}

/// An item that may leave its encoding to the batch.
pub(super) trait BatchItem {
    /// Takes the batch's encoding, unless it has its own.
    fn default_encoding(&mut self, _: Encoding) {}
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
    /// Looked at once it is known that there are items: otherwise it is a matter of the one item.
    #[serde(borrow)]
    encoding: Option<&'a RawValue>,
}

/// A batch without any other field.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OnlyItems {
    #[serde(rename = "items")]
    _items: IgnoredAny,
}

impl Call {
    /// The body: one item or many.
    pub(super) fn one_or_many<'a, T: Deserialize<'a> + BatchItem + Side>(&'a self) -> Result<Sent<'a, T>, ApiError> {
        if !self.mentions_items() {
            return self.json().map(Sent::One);
        }
        let batch: Batch<'a> = self.json()?;
        let Some(items) = batch.items else { return self.json_again().map(Sent::One) };
        if T::STRICT {
            self.json_again::<OnlyItems>()?;
        }
        if items.is_empty() || items.len() > ITEMS {
            return Err(ApiError::invalid(format!("items: a batch has 1 to {ITEMS} of them")));
        }
        let encoding: Option<Encoding> = batch
            .encoding
            .map(|raw| serde_json::from_str(raw.get()))
            .transpose()
            .map_err(|e| ApiError::invalid(format!("encoding: {e}")))?;
        let read = |raw: &'a RawValue| {
            let mut item: T = strict::item(raw.get())?;
            if let Some(encoding) = encoding {
                item.default_encoding(encoding);
            }
            Ok(item)
        };
        Ok(Sent::Many(items.iter().map(|raw| read(raw)).collect(), PhantomData))
    }
}

/// The answer to an item.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Answered<T> {
    /// It.
    Good(T),
    /// Why there is none.
    Bad {
        /// For a person.
        error: String,
        /// For programs.
        code: &'static str,
    },
}

impl<T> Answered<T> {
    /// An item that failed.
    pub fn failed(error: ApiError) -> Self {
        Self::Bad { error: error.message.into_owned(), code: error.code }
    }
}

/// The answer to many.
#[derive(Serialize)]
pub(super) struct Answers<T> {
    /// In the order of the items.
    pub results: Vec<Answered<T>>,
}

/// Puts what the library answered to the items that were understood in its place among those that were not.
pub(super) fn merge<R, T>(
    understood: Vec<Result<(), ApiError>>,
    done: Vec<Result<R, Error>>,
    mut finish: impl FnMut(usize, R) -> Result<T, ApiError>,
) -> Answers<T> {
    let mut done = done.into_iter();
    let results = understood.into_iter().enumerate().map(|(n, item)| {
        let answer = item.and_then(|()| match done.next() {
            Some(Ok(result)) => finish(n, result),
            Some(Err(error)) => Err(error.into()),
            None => Err(ApiError::from(Error::new(kms_lib::ErrorCode::Internal, "an item without a result"))),
        });
        answer.map_or_else(Answered::failed, Answered::Good)
    });
    Answers { results: results.collect() }
}

/// Describes a body that is one `T`, or many in `items` or `results`.
pub(super) struct OneOrMany<T>(PhantomData<T>);

/// Whether a model is sent or answered.
pub(super) trait Side {
    /// The name of the array.
    const ARRAY: &'static str;
    /// Whether there may be nothing else beside the array: in a call that was added to the kept ones.
    const STRICT: bool = false;
}

impl<T: ToSchema + Side> PartialSchema for OneOrMany<T> {
    fn schema() -> RefOr<Schema> {
        let one: RefOr<Schema> = Ref::from_schema_name(T::name()).into();
        let is_answer = T::ARRAY == "results";
        let item = if is_answer {
            let failed = ObjectBuilder::new()
                .property("error", string())
                .property("code", string())
                .required("error")
                .required("code");
            RefOr::T(OneOfBuilder::new().item(one.clone()).item(failed).build().into())
        } else {
            // Anything else fails alone.
            let anything = ObjectBuilder::new().schema_type(SchemaType::AnyValue);
            RefOr::T(AnyOfBuilder::new().item(one.clone()).item(anything).build().into())
        };
        let mut array = ArrayBuilder::new().items(item);
        if !is_answer {
            array = array.min_items(Some(1)).max_items(Some(ITEMS));
        }
        let mut many = ObjectBuilder::new().property(T::ARRAY, array).required(T::ARRAY);
        if T::STRICT {
            many = many.additional_properties(Some(AdditionalProperties::FreeForm(false)));
        } else if !is_answer {
            many = many.property("encoding", Option::<Encoding>::schema());
        }
        // A body that has `items` is many, whatever else stands in it.
        RefOr::T(AnyOfBuilder::new().item(one).item(many).build().into())
    }
}

impl<T: ToSchema + Side> ToSchema for OneOrMany<T> {
    fn name() -> std::borrow::Cow<'static, str> {
        let what = if T::ARRAY == "results" { "Answers" } else { "Request" };
        format!("{}{what}", T::name()).into()
    }
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(schemas);
    }
}

fn string() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(utoipa::openapi::schema::Type::String)
}
