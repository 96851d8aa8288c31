//! Requests with one item, or up to 1,000 in `items`. Each item of a batch succeeds or fails independently.

use std::borrow::Cow;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;

use kms_lib::{Error, ErrorCode, Session};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::openapi::schema::{
    AdditionalProperties, AnyOfBuilder, ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, SchemaType,
};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::codec::Encoding;
use crate::api::reply::{self, Reply};
use crate::api::{ApiError, Call, strict_json};

/// Maximum number of items in a batch.
const ITEMS: usize = kms_lib::limits::BATCH_ITEMS;
/// Maximum size of an error message in the response to a batch, in bytes of JSON. The messages of the library are
/// shorter; those about malformed items may quote the item.
const MESSAGE: usize = 512;
/// Maximum size of a failed item in the response to a batch, in bytes.
const FAILED: usize = MESSAGE + 96;
/// Size of a response to a batch in addition to its items, in bytes.
const AROUND: usize = 64;

/// An item of a cryptographic request: how it is decoded, processed and returned. The implementing type has the static
/// lifetime and stands for items of any lifetime ([`Item::Sent`]).
pub(super) trait Item: 'static {
    /// Whether a batch may have an `encoding` for all its items.
    const ENCODED: bool = true;
    /// Whether an item sends back a value from a response of another route, which raises the body limit.
    const RETURNED: bool = false;
    /// Whether the response contains a secret and its buffer must be wiped.
    const SECRET: bool = false;
    /// The item as sent in the request.
    type Sent<'a>: Deserialize<'a> + Send + Sync;
    /// The decoded input for the library.
    type Input<'i>: Send + Sync;
    /// The output of the library.
    type Output: Send;
    /// The item of the response.
    type Answer: Serialize;

    /// Decodes an item. `default` is the encoding of the batch, for items without their own.
    fn read<'i, 'a: 'i>(sent: &'i Self::Sent<'a>, default: Encoding) -> Result<Self::Input<'i>, ApiError>;
    /// Maximum size of the response for an item, in bytes.
    fn most(input: &Self::Input<'_>) -> usize;
    /// Processes all items in one call of the library.
    fn work(session: &Session, inputs: &[&Self::Input<'_>]) -> impl Future<Output = Done<Self::Output>> + Send;
    /// The response for an item, and its approximate size in bytes.
    fn answer(input: &Self::Input<'_>, output: Self::Output) -> Result<(Self::Answer, usize), ApiError>;
}

/// The results of a batch, in the order of its items.
pub(super) type Done<T> = kms_lib::Result<Vec<kms_lib::Result<T>>>;

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
    /// Parsed only if there are `items`; otherwise it is a field of the single item.
    #[serde(borrow)]
    encoding: Option<&'a RawValue>,
}

/// Checks that a batch has no other fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OnlyItems {
    #[serde(rename = "items")]
    _items: IgnoredAny,
    encoding: Option<IgnoredAny>,
}

/// Processes the single item of the body, or a batch, in which malformed items fail individually.
pub(super) fn each<T: Item>(call: Call) -> Pin<Box<dyn Future<Output = Reply> + Send>> {
    Box::pin(async move {
        let Sent { items, encoding, is_batch } = call.items::<T>()?;
        let inputs: Vec<Result<T::Input<'_>, ApiError>> =
            items.iter().map(|item| T::read(item.as_ref().map_err(Clone::clone)?, encoding)).collect();
        let most = |input: &Result<T::Input<'_>, ApiError>| input.as_ref().map_or(FAILED, T::most);
        let failed = if is_batch { FAILED } else { 0 };
        let response = inputs.iter().map(|input| most(input).max(failed)).sum::<usize>() + AROUND;
        call.reserve_response(response).await?;
        let understood: Vec<&T::Input<'_>> = inputs.iter().flatten().collect();
        let done = if understood.is_empty() { Vec::new() } else { T::work(&call.session, &understood).await? };
        let mut done = done.into_iter();
        let mut results = inputs.iter().map(|input| {
            let input = input.as_ref().map_err(Clone::clone)?;
            let missing = || Err(Error::new(ErrorCode::Internal, "an item has no result"));
            T::answer(input, done.next().unwrap_or_else(missing)?)
        });
        if is_batch {
            return write_all::<T>(results);
        }
        let (answer, about) = results.next().unwrap_or_else(|| Err(ApiError::invalid("there is no item")))?;
        write::<T>(&answer, about)
    })
}

/// The response to a batch.
fn write_all<T: Item>(results: impl Iterator<Item = Result<(T::Answer, usize), ApiError>>) -> Reply {
    let (results, bytes): (Vec<_>, Vec<usize>) = results
        .map(|result| match result {
            Ok((answer, bytes)) => (Answered::Good(answer), bytes),
            Err(ApiError { message, code, .. }) => (Answered::Bad { error: shortened(message), code }, FAILED),
        })
        .unzip();
    write::<T>(&Answers { results }, bytes.iter().sum::<usize>() + AROUND)
}

/// An error message of at most [`MESSAGE`] bytes as JSON; what is longer ends with an ellipsis.
fn shortened(message: Cow<'static, str>) -> Cow<'static, str> {
    let in_json = |c: char| match c {
        '"' | '\\' => 2,
        c if u32::from(c) < 0x20 => 6,
        c => c.len_utf8(),
    };
    let (mut bytes, mut fits) = (0, 0);
    for (at, c) in message.char_indices() {
        bytes += in_json(c);
        if bytes > MESSAGE {
            return format!("{}\u{2026}", &message[..fits]).into();
        }
        if bytes <= MESSAGE - '\u{2026}'.len_utf8() {
            fits = at + c.len_utf8();
        }
    }
    message
}

/// The content of a body.
struct Sent<'a, T: Item> {
    /// The items, each parsed or an error.
    items: Vec<Result<T::Sent<'a>, ApiError>>,
    /// The encoding for items without their own.
    encoding: Encoding,
    is_batch: bool,
}

impl Call {
    /// Parses the body as a single item or a batch.
    fn items<'a, T: Item>(&'a self) -> Result<Sent<'a, T>, ApiError> {
        let one = |item| Sent { items: vec![Ok(item)], encoding: Encoding::default(), is_batch: false };
        if !self.mentions_items() {
            return self.json().map(one);
        }
        let batch: Batch<'a> = self.json()?;
        let Some(items) = batch.items else { return self.json_again().map(one) };
        if self.json_again::<OnlyItems>()?.encoding.is_some() && !T::ENCODED {
            return Err(ApiError::invalid("unknown field `encoding`, expected `items`"));
        }
        if items.is_empty() || items.len() > ITEMS {
            return Err(ApiError::invalid(format!("items: a batch must have 1 to {ITEMS} items")));
        }
        let encoding = batch.encoding.map(|raw| serde_json::from_str(raw.get())).transpose();
        let encoding = encoding.map_err(|e| ApiError::invalid(format!("encoding: {e}")))?.unwrap_or_default();
        Ok(Sent { items: items.iter().map(|raw| strict_json::item(raw.get())).collect(), encoding, is_batch: true })
    }
}

fn write<T: Item>(answer: &impl Serialize, about: usize) -> Reply {
    if T::SECRET { reply::secret(answer, about) } else { reply::large(answer, about) }
}

/// The result of an item in a batch.
#[derive(Serialize)]
#[serde(untagged)]
enum Answered<T> {
    /// The item succeeded.
    Good(T),
    /// The item failed.
    Bad {
        /// The message for people. Its wording may change.
        error: Cow<'static, str>,
        /// The stable name of the error, for programs.
        code: &'static str,
    },
}

/// The response to a batch.
#[derive(Serialize)]
struct Answers<T> {
    /// The results, in the order of the items.
    results: Vec<Answered<T>>,
}

/// Schema of a body that is a single item, or a batch in `items`.
pub(super) struct Items<T>(PhantomData<T>);

/// Schema of a response to a single item, or to a batch in `results`.
pub(super) struct Results<T>(PhantomData<T>);

impl<T: ToSchema + Item> PartialSchema for Items<T> {
    fn schema() -> RefOr<Schema> {
        let one: RefOr<Schema> = Ref::from_schema_name(T::name()).into();
        // Any other value is accepted in a batch and fails individually.
        let anything = ObjectBuilder::new().schema_type(SchemaType::AnyValue);
        let item: RefOr<Schema> = RefOr::T(AnyOfBuilder::new().item(one.clone()).item(anything).build().into());
        let array = ArrayBuilder::new().items(item).min_items(Some(1)).max_items(Some(ITEMS));
        let mut many = ObjectBuilder::new().property("items", array).required("items");
        many = many.additional_properties(Some(AdditionalProperties::FreeForm(false)));
        if T::ENCODED {
            many = many.property("encoding", Option::<Encoding>::schema());
        }
        RefOr::T(AnyOfBuilder::new().item(one).item(many).build().into())
    }
}

impl<T: ToSchema> PartialSchema for Results<T> {
    fn schema() -> RefOr<Schema> {
        let one: RefOr<Schema> = Ref::from_schema_name(T::name()).into();
        let text = || ObjectBuilder::new().schema_type(utoipa::openapi::schema::Type::String);
        let failed = ObjectBuilder::new().property("error", text()).property("code", text());
        let failed = failed.required("error").required("code");
        let item: RefOr<Schema> = RefOr::T(OneOfBuilder::new().item(one.clone()).item(failed).build().into());
        let many = ObjectBuilder::new().property("results", ArrayBuilder::new().items(item)).required("results");
        RefOr::T(AnyOfBuilder::new().item(one).item(many).build().into())
    }
}

macro_rules! named {
    ($($of:ident: $ending:literal $(, $bound:ident)?;)+) => {$(
        impl<T: ToSchema $(+ $bound)?> ToSchema for $of<T> {
            fn name() -> std::borrow::Cow<'static, str> {
                format!(concat!("{}", $ending), T::name()).into()
            }
            fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
                schemas.push((T::name().into_owned(), T::schema()));
                T::schemas(schemas);
            }
        }
    )+};
}

named! { Items: "Request", Item; Results: "Answers"; }
