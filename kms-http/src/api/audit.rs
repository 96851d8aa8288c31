//! Routes for the audit log.

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

/// Options of a verification.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = VerifyAudit)]
struct Verify {
    /// Verify the records since the last verification without a fault, and reread a part of the older ones.
    #[serde(default)]
    #[schema(required = false)]
    incremental: bool,
    /// Public key of the log that the caller trusts; by default the one wrapped under the root key.
    #[serde(default)]
    #[schema(pattern = "^[^+\\s]+[+][0-9a-f]{8}[+][A-Za-z0-9+/]{44}$")]
    pinned_key: Option<String>,
}

/// All routes for the audit log.
pub(super) fn routes() -> Vec<Route> {
    let doc = |summary| Doc::new("Audit", summary);
    let actions: Vec<&str> = Action::ALL.iter().map(|action| action.as_str()).collect();
    let time = || json!({"type": "string", "format": "date-time"});
    vec![
        Route::get("/v1/audit", "listAudit", list).doc(
            doc("List audit records: without parameters the newest 1,000, oldest first; otherwise pages, newest first")
                .lists::<schemas::AuditRecord>()
                .query(
                    "cursor",
                    "Start after this record: `x-next-cursor` of the previous page.",
                    json!({"type": "integer", "minimum": 0, "maximum": i64::MAX}),
                )
                .query("order", "`asc` for oldest first.", json!({"type": "string", "enum": ["asc", "desc"]}))
                .query("action", "Only records of this action.", json!({"type": "string", "enum": actions}))
                .query("actor", "Only records of this principal.", json!({"type": "string"}))
                .query("keyId", "Only records about this key (id or name).", json!({"type": "string"}))
                .query(
                    "status",
                    "Only records with this status.",
                    json!({"type": "string", "enum": ["SUCCESS", "FAILURE"]}),
                )
                .query("requestId", "Only records of the request with this id.", json!({"type": "string"}))
                .query("since", "Only records from this time on.", time())
                .query("until", "Only records before this time.", time())
                .errors(&[404]),
        ),
        Route::get("/v1/audit/imported", "listImportedAudit", list_imported).doc(
            doc("List an audit log imported from Mini KMS on Node, in the order of its links")
                .lists::<schemas::ImportedRow>()
                .query(
                    "cursor",
                    "Start after this position: `x-next-cursor` of the previous page.",
                    json!({"type": "integer", "minimum": 0, "maximum": i64::MAX}),
                )
                .query("source", "Name of the import; `mini-kms` by default.", json!({"type": "string"})),
        ),
        Route::post("/v1/audit/verify", "verifyAudit", verify).doc(
            doc("Verify the audit log").may_take::<Verify>().gives::<schemas::Verification>().errors(&[409]).patient(),
        ),
        Route::get("/v1/audit/checkpoint", "getCheckpoint", |call: Call| async move {
            reply::text("text/plain; charset=utf-8", call.session.checkpoint().await?)
        })
        .doc(
            doc("Get the signed checkpoint of the audit log (C2SP tlog-checkpoint)").sends("text/plain; charset=utf-8"),
        ),
    ]
}

async fn list(call: Call) -> Reply {
    let query: ListQuery = call.query()?;
    if query.cursor.is_some_and(|cursor| i64::try_from(cursor).is_err()) {
        return Err(ApiError::invalid("cursor: not a cursor of this service"));
    }
    let is_plain = !call.has_query();
    if query.limit == Some(0) {
        return Err(ApiError::invalid(format!("limit: must be between 1 and {PAGE_LIMIT}")));
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
        let message =
            "pinnedKey: cannot be combined with incremental, because it needs a verification of the whole log";
        return Err(ApiError::of(ErrorCode::Conflict, message));
    }
    if sent.pinned_key.as_deref().is_some_and(|key| key.split('+').count() < 3) {
        return Err(ApiError::invalid("pinnedKey: not a verifier key of the form name+id+key"));
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
