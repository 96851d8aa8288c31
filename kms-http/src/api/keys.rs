//! Routes for keys and their versions.

use axum::http::StatusCode;
use axum::http::header::{HeaderValue, LOCATION};
use kms_lib::json::Key;
use kms_lib::{AuditContext, ErrorCode, KeyDescription, KeyPurpose, KeyState, KeyType, KeyUpdate, NewKey, Timestamp};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::call::{Call, Nothing, StrictlyNothing, paging};
use super::reply::{self, Reply};
use super::{ApiError, Doc, Route, key_list, strict_json};
use crate::openapi::schemas;

/// A key to create.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = CreateKey)]
struct Create {
    /// Name, which can never be reused: 1 to 128 printable characters, no spaces at the ends, not in the form of a
    /// UUID.
    #[schema(min_length = 1, max_length = 128)]
    name: String,
    #[serde(rename = "type")]
    #[schema(value_type = schemas::KeyType)]
    key_type: KeyType,
    #[schema(value_type = schemas::KeyPurpose)]
    purpose: KeyPurpose,
    /// Days between automatic rotations; 0 for none.
    #[serde(default, deserialize_with = "strict_json::whole")]
    #[schema(minimum = 0, maximum = 36500)]
    rotation_period_days: Option<u32>,
    /// Days for which a former version still decrypts and verifies; by default the configured number.
    #[serde(default, deserialize_with = "strict_json::whole")]
    #[schema(minimum = 0, maximum = 36500)]
    grace_period_days: Option<u32>,
    /// JSON of at most 16 KiB. `owner` defaults to the caller.
    metadata: Option<Map<String, Value>>,
    #[schema(value_type = Option<schemas::AuditContext>)]
    audit_context: Option<AuditContext>,
}

/// A change of a key. Missing fields stay unchanged; null removes a value.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = UpdateKey, min_properties = 1)]
struct Update {
    #[serde(default, deserialize_with = "strict_json::given_whole")]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 36500)]
    rotation_period_days: Option<Option<u32>>,
    #[serde(default, deserialize_with = "strict_json::given_whole")]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 36500)]
    grace_period_days: Option<Option<u32>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Object>)]
    metadata: Option<Option<Map<String, Value>>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = schemas::AuditContext, required = false)]
    audit_context: Option<AuditContext>,
}

/// Deserializes a field for which null is refused, because its value cannot be removed.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Deserializes a field, distinguishing null from a missing field.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Options of a rotation.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RotateKey)]
struct Rotate {
    /// Fail with 409 unless this is the current version.
    #[serde(default, deserialize_with = "strict_json::whole")]
    #[schema(minimum = 1)]
    expected_current_version: Option<u32>,
}

/// Options of a scheduled deletion.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ScheduleDeletion)]
struct Schedule {
    /// Waiting period in days; by default the configured number. The minimum is configured too.
    #[serde(default, deserialize_with = "strict_json::whole")]
    #[schema(minimum = 7, maximum = 36500)]
    waiting_days: Option<u32>,
}

/// The grace window of a version.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = UpdateVersion)]
struct Window {
    /// Time until which the version decrypts and verifies; null for no limit.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(value_type = Option<String>, format = "date-time", required = true)]
    not_after: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VersionsQuery {
    limit: Option<usize>,
    cursor: Option<u32>,
}

/// All routes for keys and their versions.
pub(super) fn routes() -> Vec<Route> {
    let doc = |summary| Doc::new("Keys", summary);
    let change = |summary| doc(summary).errors(&[404]).idempotent().gives::<schemas::Key>();
    let states: Vec<&str> = KeyState::ALL.iter().map(|state| state.as_str()).collect();
    vec![
        Route::post("/v1/keys", "createKey", create)
            .doc(doc("Create a key").takes::<Create>().creates::<schemas::Key>().idempotent()),
        Route::get("/v1/keys", "listKeys", key_list::list).doc(
            doc("List the keys that the caller may read, ordered by name: all, or with `limit` a page")
                .lists::<schemas::Key>()
                .query(
                    "cursor",
                    "Start after this key: `x-next-cursor` of the previous page.",
                    json!({"type": "string"}),
                )
                .query("state", "Only keys in this state.", json!({"type": "string", "enum": states})),
        ),
        Route::get("/v1/keys/{key}", "getKey", get)
            .doc(doc("Get a key by id or name").gives::<schemas::Key>().errors(&[404])),
        Route::patch("/v1/keys/{key}", "updateKey", update)
            .doc(change("Change periods, metadata, and how contexts are recorded").takes::<Update>()),
        Route::post("/v1/keys/{key}/rotate", "rotateKey", rotate)
            .doc(change("Rotate a key: create a new current version").may_take::<Rotate>()),
        Route::post("/v1/keys/{key}/enable", "enableKey", enable_key)
            .doc(change("Enable a disabled key").may_take::<StrictlyNothing>()),
        Route::post("/v1/keys/{key}/disable", "disableKey", disable_key)
            .doc(change("Disable a key; it cannot be used until it is enabled").may_take::<StrictlyNothing>()),
        Route::post("/v1/keys/{key}/revoke", "revokeKey", revoke_key)
            .doc(change("Permanently revoke a key and all its versions").may_take::<StrictlyNothing>()),
        Route::post("/v1/keys/{key}/schedule-deletion", "scheduleDeletion", schedule_deletion).doc(
            change("Schedule the deletion of a key; its key material is erased after the waiting period")
                .may_take::<Schedule>(),
        ),
        Route::post("/v1/keys/{key}/cancel-deletion", "cancelDeletion", cancel_deletion)
            .doc(change("Cancel a scheduled deletion").may_take::<StrictlyNothing>()),
        Route::post("/v1/keys/{key}/trim", "trimKey", trim_key).doc(
            change("Erase the key material of former versions that are revoked or past their grace window")
                .may_take::<StrictlyNothing>(),
        ),
        Route::post("/v1/keys/{key}/versions/{version}/enable", "enableVersion", enable_version)
            .doc(change("Enable the disabled current version").may_take::<StrictlyNothing>()),
        Route::post("/v1/keys/{key}/versions/{version}/disable", "disableVersion", disable_version)
            .doc(change("Disable a version; it still decrypts and verifies").may_take::<Nothing>()),
        Route::post("/v1/keys/{key}/versions/{version}/revoke", "revokeVersion", revoke_version)
            .doc(change("Permanently revoke a version").may_take::<Nothing>()),
        Route::get("/v1/keys/{key}/versions", "listVersions", list_versions).doc(
            doc("List the versions of a key, oldest first")
                .lists::<schemas::Version>()
                .query(
                    "cursor",
                    "Start after this version: `x-next-cursor` of the previous page.",
                    json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
                )
                .errors(&[404]),
        ),
        Route::get("/v1/keys/{key}/versions/{version}", "getVersion", get_version)
            .doc(doc("Get a version of a key").gives::<schemas::Version>().errors(&[404])),
        Route::patch("/v1/keys/{key}/versions/{version}", "updateVersion", window)
            .doc(change("Set, extend or end the grace window of a former version").takes::<Window>()),
        Route::get("/v1/keys/{key}/versions/{version}/public-key", "getPublicKey", public_key)
            .doc(doc("Get the public key of a version (PEM)").sends("application/x-pem-file").errors(&[404, 409])),
    ]
}

async fn create(call: Call) -> Reply {
    let sent: Create = call.json()?;
    let mut metadata = sent.metadata.unwrap_or_default();
    let owner = metadata.entry("owner").or_insert(Value::Null);
    if owner.is_null() {
        *owner = call.session.actor().principal().into();
    }
    let mut new = NewKey::new(sent.name, sent.key_type, sent.purpose).metadata(Value::Object(metadata));
    new.rotation_period_days = sent.rotation_period_days.filter(|days| *days > 0);
    new.grace_period_days = sent.grace_period_days;
    new.audit_context = sent.audit_context;
    let created = call.changing()?.create_key(new).await.map_err(|error| match error.code() {
        // The request contradicts itself: there is no key yet that it could conflict with.
        ErrorCode::WrongPurpose => ApiError { status: StatusCode::BAD_REQUEST, ..error.into() },
        _ => error.into(),
    })?;
    let location = HeaderValue::from_str(&format!("/v1/keys/{}", created.id));
    let mut response = reply::created(&Key::from(created))?;
    response.headers_mut().extend(location.ok().map(|location| (LOCATION, location)));
    Ok(response)
}

/// Returns a key with its versions, oldest first.
fn show(key: KeyDescription) -> Reply {
    reply::ok(&Key::from(key))
}

async fn get(mut call: Call) -> Reply {
    let key = call.key().await?;
    show(call.session.get_key(key).await?)
}

async fn update(mut call: Call) -> Reply {
    let key = call.key().await?;
    let sent: Update = call.json()?;
    let mut update = KeyUpdate::new();
    update.rotation_period_days = sent.rotation_period_days.map(|days| days.filter(|days| *days > 0));
    update.grace_period_days = sent.grace_period_days;
    update.metadata = sent.metadata.map(|metadata| metadata.map(Value::Object));
    update.audit_context = sent.audit_context;
    show(call.changing()?.update_key(key, update).await?)
}

async fn rotate(mut call: Call) -> Reply {
    let key = call.key().await?;
    let sent: Rotate = call.json_or_default()?;
    show(call.changing()?.rotate_key(key, sent.expected_current_version).await?)
}

/// Declares handlers that change the state of a key or a version and have no parameters in the body.
macro_rules! transitions {
    ($($name:ident: $body:ty $(, $version:ident)?;)+) => {$(
        async fn $name(mut call: Call) -> Reply {
            let key = call.key().await?;
            $(let $version = call.version().await?;)?
            call.json_or_default::<$body>()?;
            show(call.changing()?.$name(key $(, $version)?).await?)
        }
    )+};
}

transitions! {
    enable_key: StrictlyNothing;
    disable_key: StrictlyNothing;
    revoke_key: StrictlyNothing;
    cancel_deletion: StrictlyNothing;
    trim_key: StrictlyNothing;
    enable_version: StrictlyNothing, version;
    disable_version: Nothing, version;
    revoke_version: Nothing, version;
}

async fn schedule_deletion(mut call: Call) -> Reply {
    let key = call.key().await?;
    let sent: Schedule = call.json_or_default()?;
    show(call.changing()?.schedule_deletion(key, sent.waiting_days).await?)
}

async fn list_versions(mut call: Call) -> Reply {
    let key = call.key().await?;
    let query: VersionsQuery = call.query()?;
    let page = call.session.list_versions(key, &paging(query.limit, query.cursor)).await?;
    reply::page(&page.items, page.next_cursor)
}

async fn get_version(mut call: Call) -> Reply {
    let key = call.key().await?;
    let version = call.version().await?;
    reply::ok(&call.session.get_version(key, version).await?)
}

async fn window(mut call: Call) -> Reply {
    let key = call.key().await?;
    let version = call.version().await?;
    let sent: Window = call.json()?;
    show(call.changing()?.set_window(key, version, sent.not_after).await?)
}

async fn public_key(mut call: Call) -> Reply {
    let key = call.key().await?;
    let version = call.version().await?;
    reply::text("application/x-pem-file", call.session.public_key(key, version).await?)
}
