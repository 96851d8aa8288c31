//! The log.

use kms_lib::limits::PAGE_LIMIT;
use kms_lib::{Action, AuditQuery, ErrorCode, ImportJob, KeyRef, Status, Timestamp, VerifyOptions};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use super::call::{Call, paging};
use super::reply::{self, Reply};
use super::{ApiError, Doc, Route};
use crate::openapi::schemas;

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Order {
    Asc,
    Desc,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListQuery {
    limit: Option<usize>,
    cursor: Option<u64>,
    order: Option<Order>,
    action: Option<Action>,
    actor: Option<String>,
    key_id: Option<String>,
    status: Option<Status>,
    request_id: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ImportedQuery {
    source: Option<String>,
    limit: Option<usize>,
    cursor: Option<u64>,
}

/// How to verify.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = VerifyAudit)]
struct Verify {
    /// Only what came since the last verification that found no fault.
    #[serde(default)]
    #[schema(required = false)]
    incremental: bool,
    /// A public key of the log, as its verifier keeps it. Without, the one under the root key.
    #[serde(default)]
    #[schema(pattern = "^[^+\\s]+[+][0-9a-f]{8}[+][A-Za-z0-9+/]{44}$")]
    pinned_key: Option<String>,
}

/// The routes.
pub(super) fn routes() -> Vec<Route> {
    let doc = |summary| Doc::new("Audit", summary);
    let actions: Vec<&str> = Action::ALL.iter().map(|action| action.as_str()).collect();
    let time = || json!({"type": "string", "format": "date-time"});
    vec![
        Route::get("/v1/audit", "listAudit", list).doc(
            doc("The log: without parameters its newest 1,000 records, oldest of them first; else pages, newest first")
                .lists::<schemas::AuditRecord>()
                .query(
                    "cursor",
                    "The record behind which to go on: `x-next-cursor` of the page before.",
                    json!({"type": "integer", "minimum": 0, "maximum": i64::MAX}),
                )
                .query("order", "`asc`: oldest first.", json!({"type": "string", "enum": ["asc", "desc"]}))
                .query("action", "Only this action.", json!({"type": "string", "enum": actions}))
                .query("actor", "Only by this principal.", json!({"type": "string"}))
                .query("keyId", "Only about this key: its id or its name.", json!({"type": "string"}))
                .query("status", "Only with this outcome.", json!({"type": "string", "enum": ["SUCCESS", "FAILURE"]}))
                .query("requestId", "Only of the request with this id.", json!({"type": "string"}))
                .query("since", "Only from this time on.", time())
                .query("until", "Only before this time.", time())
                .errors(&[404]),
        ),
        Route::get("/v1/audit/imported", "listImportedAudit", list_imported).doc(
            doc("The log that was imported from Mini KMS on Node, in the order of its links")
                .lists::<schemas::ImportedRow>()
                .query(
                    "cursor",
                    "The position behind which to go on: `x-next-cursor` of the page before.",
                    json!({"type": "integer", "minimum": 0, "maximum": i64::MAX}),
                )
                .query(
                    "source",
                    "The name under which it was imported: `mini-kms` by default.",
                    json!({"type": "string"}),
                ),
        ),
        Route::post("/v1/audit/verify", "verifyAudit", verify)
            .doc(doc("Verify the log").may_take::<Verify>().gives::<schemas::Verification>().errors(&[409]).patient()),
        Route::get("/v1/audit/checkpoint", "getCheckpoint", |call: Call| async move {
            reply::text("text/plain; charset=utf-8", call.session.checkpoint().await?)
        })
        .doc(doc("The signed head of the log (C2SP checkpoint)").sends("text/plain; charset=utf-8")),
    ]
}

async fn list(call: Call) -> Reply {
    let query: ListQuery = call.query()?;
    if query.cursor.is_some_and(|cursor| i64::try_from(cursor).is_err()) {
        return Err(ApiError::invalid("cursor: not one that this service gave"));
    }
    let is_plain = !call.has_query();
    if query.limit == Some(0) {
        return Err(ApiError::invalid(format!("limit: a page has 1 to {PAGE_LIMIT} entries")));
    }
    let mut wanted = AuditQuery::new();
    wanted.oldest_first = query.order == Some(Order::Asc);
    wanted.action = query.action;
    wanted.actor = query.actor.map(|actor| call.app.auth.principals.named(&actor)).transpose()?;
    wanted.key = query.key_id.map(KeyRef::from);
    wanted.status = query.status;
    wanted.request_id = query.request_id;
    (wanted.since, wanted.until) = (query.since, query.until);
    let mut page = call.session.list_audit(&wanted, &paging(query.limit, query.cursor)).await?;
    if is_plain {
        page.items.reverse();
    }
    reply::page(&page.items, page.next_cursor)
}

async fn list_imported(call: Call) -> Reply {
    let ImportedQuery { source, limit, cursor } = call.query()?;
    let source = source.unwrap_or_else(|| ImportJob::default().name);
    let page = call.session.list_imported_audit(&source, &paging(limit, cursor)).await?;
    reply::page(&page.items, page.next_cursor)
}

async fn verify(call: Call) -> Reply {
    let sent: Verify = call.json_or_default()?;
    if sent.incremental && sent.pinned_key.is_some() {
        let message = "pinnedKey: a log is verified against a pinned key from its beginning";
        return Err(ApiError::of(ErrorCode::Conflict, message));
    }
    if sent.pinned_key.as_deref().is_some_and(|key| key.split('+').count() < 3) {
        return Err(ApiError::invalid("pinnedKey: not a verifier key: name+id+key is expected"));
    }
    let report = if sent.incremental {
        call.session.verify_audit_incrementally().await?
    } else {
        let mut options = VerifyOptions::new();
        options.pinned_key = sent.pinned_key;
        let is_pinned = options.pinned_key.is_some();
        call.session.verify_audit_with(&options).await.map_err(|error| match error.code() {
            ErrorCode::InvalidArgument if is_pinned => ApiError::of(ErrorCode::Conflict, error.message().to_owned()),
            _ => error.into(),
        })?
    };
    reply::ok(&report)
}
