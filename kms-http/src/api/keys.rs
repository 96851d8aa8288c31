//! Keys and their versions.

use axum::http::{Method, StatusCode};
use kms_lib::types::key::AuditContext;
use kms_lib::{CreateKey, ErrorCode, KeyFilter, KeyPurpose, KeyState, KeyType, Session, Timestamp, UpdateKey};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::call::{Call, Nothing, StrictlyNothing};
use super::reply::{self, Reply};
use super::{ApiError, Doc, Route, models, strict};

/// Entries of a page unless the caller says otherwise, and the most.
pub(super) const PAGE: usize = 1_000;

/// A key to be created.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = CreateKey)]
struct Create {
    /// Unique for ever: 1 to 128 printable characters, no outer blanks, not the shape of a UUID.
    #[schema(min_length = 1, max_length = 128)]
    name: String,
    #[serde(rename = "type")]
    #[schema(value_type = models::KeyType)]
    key_type: KeyType,
    #[schema(value_type = models::KeyPurpose)]
    purpose: KeyPurpose,
    /// Days between rotations by the scheduler.
    #[serde(default, deserialize_with = "strict::whole")]
    #[schema(minimum = 1, maximum = 36500)]
    rotation_period_days: Option<u32>,
    /// Days a former version stays usable; the service's default without.
    #[serde(default, deserialize_with = "strict::whole")]
    #[schema(minimum = 0, maximum = 36500)]
    grace_period_days: Option<u32>,
    /// At most 16 KiB. `owner` defaults to the caller.
    metadata: Option<Map<String, Value>>,
    #[schema(value_type = Option<models::AuditContext>)]
    audit_context: Option<AuditContext>,
}

/// An edit of a key. What is not sent stays as it is; null removes.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = UpdateKey, min_properties = 1)]
struct Update {
    #[serde(default, deserialize_with = "strict::given_whole")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 36500)]
    rotation_period_days: Option<Option<u32>>,
    #[serde(default, deserialize_with = "strict::given_whole")]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 36500)]
    grace_period_days: Option<Option<u32>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Object>)]
    metadata: Option<Option<Map<String, Value>>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = models::AuditContext, required = false)]
    audit_context: Option<AuditContext>,
}

/// Takes no null: there is nothing that it would remove.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Tells null from nothing.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// A rotation.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RotateKey)]
struct Rotate {
    /// The version that must be current: 409 when another rotation came first.
    #[serde(default, deserialize_with = "strict::whole")]
    #[schema(minimum = 1)]
    expected_current_version: Option<u32>,
}

/// A deletion to come.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ScheduleDeletion)]
struct Schedule {
    /// Days to wait; the configured number without, which also says how few there may be.
    #[serde(default, deserialize_with = "strict::whole")]
    #[schema(minimum = 7, maximum = 36500)]
    waiting_days: Option<u32>,
}

/// A version's window.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = UpdateVersion)]
struct Window {
    /// Until when the version decrypts and verifies; null: for ever.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(value_type = Option<String>, format = "date-time", required = true)]
    not_after: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<usize>,
    cursor: Option<String>,
    state: Option<KeyState>,
}

/// The routes.
pub(super) fn routes() -> Vec<Route> {
    let doc = |summary| Doc::new("Keys", summary);
    let change = |summary| doc(summary).errors(&[404]).idempotent().gives::<models::Key>();
    let states: Vec<&str> = KeyState::ALL.iter().map(|state| state.as_str()).collect();
    vec![
        Route::new(
            Method::POST,
            "/v1/keys",
            "createKey",
            doc("Create a key").takes::<Create>().creates::<models::Key>().idempotent(),
            create,
        ),
        Route::new(
            Method::GET,
            "/v1/keys",
            "listKeys",
            doc("The keys the caller may read, by name")
                .lists::<models::Key>()
                .query(
                    "cursor",
                    "The name after which to go on: `x-next-cursor` of the page before.",
                    json!({"type": "string"}),
                )
                .query("state", "Only keys in this state.", json!({"type": "string", "enum": states})),
            list,
        ),
        Route::new(
            Method::GET,
            "/v1/keys/{key}",
            "getKey",
            doc("A key, by id or name").gives::<models::Key>().errors(&[404]),
            get,
        ),
        Route::new(
            Method::PATCH,
            "/v1/keys/{key}",
            "updateKey",
            change("Edit periods, metadata, and how contexts are recorded").takes::<Update>(),
            update,
        ),
        Route::new(
            Method::POST,
            "/v1/keys/{key}/rotate",
            "rotateKey",
            change("Make a new current version").may_take::<Rotate>(),
            rotate,
        ),
        Route::new(
            Method::POST,
            "/v1/keys/{key}/enable",
            "enableKey",
            change("Enable a disabled key").may_take::<StrictlyNothing>(),
            |call| simple(call, Simple::Enable),
        ),
        Route::new(
            Method::POST,
            "/v1/keys/{key}/disable",
            "disableKey",
            change("Disable a key").may_take::<StrictlyNothing>(),
            |call| simple(call, Simple::Disable),
        ),
        Route::new(
            Method::POST,
            "/v1/keys/{key}/revoke",
            "revokeKey",
            change("Revoke a key and all its versions, for ever").may_take::<StrictlyNothing>(),
            |call| simple(call, Simple::Revoke),
        ),
        Route::new(
            Method::POST,
            "/v1/keys/{key}/schedule-deletion",
            "scheduleDeletion",
            change("Schedule the erasure of a key's material").may_take::<Schedule>(),
            schedule_deletion,
        ),
        Route::new(
            Method::POST,
            "/v1/keys/{key}/cancel-deletion",
            "cancelDeletion",
            change("Cancel a scheduled erasure").may_take::<StrictlyNothing>(),
            |call| simple(call, Simple::CancelDeletion),
        ),
        Route::new(
            Method::POST,
            "/v1/keys/{key}/versions/{version}/enable",
            "enableVersion",
            change("Enable the current version").may_take::<StrictlyNothing>(),
            |call| of_version(call, OfVersion::Enable),
        ),
        Route::new(
            Method::POST,
            "/v1/keys/{key}/versions/{version}/disable",
            "disableVersion",
            change("Disable a version").may_take::<Nothing>(),
            |call| of_version(call, OfVersion::Disable),
        ),
        Route::new(
            Method::POST,
            "/v1/keys/{key}/versions/{version}/revoke",
            "revokeVersion",
            change("Revoke a version, for ever").may_take::<Nothing>(),
            |call| of_version(call, OfVersion::Revoke),
        ),
        Route::new(
            Method::PATCH,
            "/v1/keys/{key}/versions/{version}",
            "updateVersion",
            change("Set, extend or end the window of a former version").takes::<Window>(),
            window,
        ),
        Route::new(
            Method::GET,
            "/v1/keys/{key}/versions/{version}/public-key",
            "getPublicKey",
            doc("The public half of a version").sends("application/x-pem-file").errors(&[404, 409]),
            public_key,
        ),
    ]
}

async fn create(call: Call) -> Reply {
    let sent: Create = call.json()?;
    let mut metadata = sent.metadata.unwrap_or_default();
    let owner = metadata.entry("owner").or_insert(Value::Null);
    if owner.is_null() {
        *owner = call.session.actor().principal().into();
    }
    let new = CreateKey {
        name: sent.name,
        key_type: sent.key_type,
        purpose: sent.purpose,
        rotation_period_days: sent.rotation_period_days,
        grace_period_days: sent.grace_period_days,
        metadata: Some(Value::Object(metadata)),
        audit_context: sent.audit_context,
    };
    reply::created(&call.changing()?.create_key(new).await.map_err(|error| match error.code() {
        // There is no key yet that the request does not go with: it contradicts itself.
        ErrorCode::WrongPurpose => ApiError { status: StatusCode::BAD_REQUEST, ..error.into() },
        _ => error.into(),
    })?)
}

async fn list(call: Call) -> Reply {
    let query: ListQuery = call.query()?;
    let filter = KeyFilter { state: query.state, ..KeyFilter::default() };
    let cursor = query.cursor.map(decode_cursor);
    let page = call.session.list_keys(&filter, query.limit.unwrap_or(PAGE), cursor.as_deref()).await?;
    let next = page.next_cursor.as_deref().map(encode_cursor);
    reply::page(&page.keys, next.as_deref())
}

/// A name may hold what a header may not.
fn encode_cursor(name: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(name)
}

/// A cursor that this service did not give is taken for a name: whoever knows one may go on from there.
fn decode_cursor(cursor: String) -> String {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(&cursor).ok();
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or(cursor)
}

async fn get(mut call: Call) -> Reply {
    let key = call.path("key").await?;
    reply::ok(&call.session.get_key(key).await?)
}

async fn update(mut call: Call) -> Reply {
    let key = call.path("key").await?;
    let sent: Update = call.json()?;
    let update = UpdateKey {
        rotation_period_days: sent.rotation_period_days,
        grace_period_days: sent.grace_period_days,
        metadata: sent.metadata.map(|metadata| metadata.map(Value::Object)),
        audit_context: sent.audit_context,
    };
    reply::ok(&call.changing()?.update_key(key, update).await?)
}

async fn rotate(mut call: Call) -> Reply {
    let key = call.path("key").await?;
    let sent: Rotate = call.json_or_default()?;
    reply::ok(&call.changing()?.rotate_key(key, sent.expected_current_version).await?)
}

#[derive(Clone, Copy)]
enum Simple {
    Enable,
    Disable,
    Revoke,
    CancelDeletion,
}

async fn simple(mut call: Call, what: Simple) -> Reply {
    let key = call.path("key").await?;
    call.json_or_default::<StrictlyNothing>()?;
    let session: Session = call.changing()?;
    let described = match what {
        Simple::Enable => session.enable_key(key).await,
        Simple::Disable => session.disable_key(key).await,
        Simple::Revoke => session.revoke_key(key).await,
        Simple::CancelDeletion => session.cancel_deletion(key).await,
    };
    reply::ok(&described?)
}

#[derive(Clone, Copy)]
enum OfVersion {
    Enable,
    Disable,
    Revoke,
}

async fn of_version(mut call: Call, what: OfVersion) -> Reply {
    let key = call.path("key").await?;
    let version = call.version().await?;
    match what {
        OfVersion::Enable => {
            call.json_or_default::<StrictlyNothing>()?;
        }
        OfVersion::Disable | OfVersion::Revoke => {
            call.json_or_default::<Nothing>()?;
        }
    }
    let session: Session = call.changing()?;
    let described = match what {
        OfVersion::Enable => session.enable_version(key, version).await,
        OfVersion::Disable => session.disable_version(key, version).await,
        OfVersion::Revoke => session.revoke_version(key, version).await,
    };
    reply::ok(&described?)
}

async fn schedule_deletion(mut call: Call) -> Reply {
    let key = call.path("key").await?;
    let sent: Schedule = call.json_or_default()?;
    reply::ok(&call.changing()?.schedule_deletion(key, sent.waiting_days).await?)
}

async fn window(mut call: Call) -> Reply {
    let key = call.path("key").await?;
    let version = call.version().await?;
    let sent: Window = call.json()?;
    reply::ok(&call.changing()?.set_window(key, version, sent.not_after).await?)
}

async fn public_key(mut call: Call) -> Reply {
    let key = call.path("key").await?;
    let version = call.version().await?;
    reply::text("application/x-pem-file", call.session.public_key(key, version).await?)
}
