//! Routes that list, make and revoke grants.

use kms_lib::{Conditions, GrantFilter, GrantId, NewGrant, Permission, Role};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use super::call::{Call, paging};
use super::reply::{self, Reply};
use super::{Doc, Route, strict_json};
use crate::openapi::schemas;

/// The `keyId` that means all keys.
const ALL_KEYS: &str = "*";

/// A grant to create. It replaces the grant of the same grantor to the same principal on the same `keyId`. All admins
/// count as one grantor.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PutGrant)]
struct Put {
    /// Principal that receives the permissions. It is converted to lower case if it has the prefix of an authentication
    /// method that does so, and is otherwise exact.
    #[schema(min_length = 1, max_length = 256)]
    principal: String,
    /// Role that the grant is intended for. Informational; it neither restricts nor grants anything.
    #[schema(value_type = schemas::Role)]
    role: Role,
    /// Id or name of a key, or `*` for all keys.
    key_id: String,
    /// Permissions. Empty texts are ignored.
    #[serde(deserialize_with = "strict_json::words")]
    #[schema(value_type = Vec<schemas::Permission>, min_items = 1)]
    allowed_ops: Vec<Permission>,
    #[serde(default, deserialize_with = "strict_json::object")]
    #[schema(value_type = Option<schemas::Conditions>)]
    conditions: Option<Conditions>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListQuery {
    limit: Option<usize>,
    cursor: Option<GrantId>,
    principal: Option<String>,
    key_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WithdrawQuery {
    #[serde(default)]
    cascade: bool,
}

/// All routes for grants.
pub(super) fn routes() -> Vec<Route> {
    let doc = |summary| Doc::new("Grants", summary);
    vec![
        Route::post("/v1/grants", "putGrant", put).doc(
            doc("Create or replace a grant").takes::<Put>().creates::<schemas::Grant>().errors(&[404]).idempotent(),
        ),
        Route::get("/v1/grants", "listGrants", list).doc(
            doc("List grants, ordered by principal")
                .lists::<schemas::Grant>()
                .query(
                    "cursor",
                    "Start after this grant: `x-next-cursor` of the previous page.",
                    json!({"type": "string", "format": "uuid"}),
                )
                .query(
                    "principal",
                    "Only grants to this principal.",
                    json!({"type": "string", "minLength": 1, "maxLength": 256}),
                )
                .query(
                    "keyId",
                    "Only grants on this key (id or name) or on all keys; `*` for only those on all keys.",
                    json!({"type": "string", "minLength": 1}),
                )
                .errors(&[404]),
        ),
        Route::delete("/v1/grants/{id}", "withdrawGrant", withdraw).doc(
            doc("Revoke a grant")
                .query(
                    "cascade",
                    "Also revoke the grants that were passed on through this one.",
                    json!({"type": "boolean", "default": false}),
                )
                .empty()
                .errors(&[404])
                .idempotent(),
        ),
    ]
}

async fn put(call: Call) -> Reply {
    let sent: Put = call.json()?;
    let session = call.changing()?;
    let principal = call.app.auth.principals.named(&sent.principal)?;
    let conditions = sent.conditions.unwrap_or_default();
    let grant = NewGrant::new(principal, sent.role).allow(sent.allowed_ops).conditions(conditions);
    let grant = if sent.key_id == ALL_KEYS { grant.on_all_keys() } else { grant.on_key(sent.key_id) };
    reply::created(&session.put_grant(grant).await?)
}

async fn list(call: Call) -> Reply {
    let query: ListQuery = call.query()?;
    let filter = match query.key_id {
        None => GrantFilter::new(),
        Some(key) if key == ALL_KEYS => GrantFilter::new().on_all_keys(),
        Some(key) => GrantFilter::new().on_key(key),
    };
    let principal = query.principal.map(|principal| call.app.auth.principals.named(&principal)).transpose()?;
    let filter = principal.into_iter().fold(filter, GrantFilter::principal);
    let grants = call.session.list_grants(&filter, &paging(query.limit, query.cursor)).await?;
    reply::page(&grants.items, grants.next_cursor)
}

async fn withdraw(mut call: Call) -> Reply {
    let id: GrantId = call.path("id").await?.parse()?;
    let WithdrawQuery { cascade } = call.query()?;
    let session = call.changing()?;
    if cascade {
        session.revoke_grant_cascading(id).await?;
    } else {
        session.revoke_grant(id).await?;
    }
    reply::no_content()
}
