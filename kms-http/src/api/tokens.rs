//! Routes for access tokens, for admins without access to the command line.

use axum::http::StatusCode;
use kms_lib::{CredentialDescription, CredentialId, ErrorCode, NewToken, Role, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::call::{Call, paging};
use super::reply::{self, Reply};
use super::{ApiError, Doc, Route};
use crate::openapi::schemas;
use crate::settings::AuthMethod;

/// A token to create.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = CreateToken)]
struct Create {
    /// Principal that the token authenticates, without the configured prefix, which is added.
    // A principal has 256 bytes at most, of which the default prefix takes six.
    #[schema(min_length = 1, max_length = 250)]
    principal: String,
    #[schema(value_type = schemas::Role)]
    role: Role,
    /// Description of the token.
    #[schema(min_length = 1, max_length = 256)]
    label: Option<String>,
    /// Expiry time; without it, the token does not expire.
    #[schema(value_type = Option<String>, format = "date-time")]
    expires_at: Option<Timestamp>,
}

/// A new token. Its text is returned only once.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = NewToken)]
struct Created<'a> {
    /// The secret text of the token, to be kept like a password.
    token: &'a str,
    #[schema(value_type = schemas::Credential)]
    credential: &'a CredentialDescription,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<usize>,
    cursor: Option<CredentialId>,
}

/// All routes for access tokens.
pub(super) fn routes() -> Vec<Route> {
    let doc = |summary| Doc::new("Tokens", summary);
    vec![
        Route::post("/v1/tokens", "createToken", create)
            .doc(doc("Create a token").takes::<Create>().creates::<Created<'static>>().errors(&[409])),
        Route::get("/v1/tokens", "listTokens", list).doc(
            doc("List tokens that are not revoked").lists::<schemas::Credential>().query(
                "cursor",
                "Start after this token: `x-next-cursor` of the previous page.",
                json!({"type": "string", "format": "uuid"}),
            ),
        ),
        Route::delete("/v1/tokens/{id}", "withdrawToken", withdraw)
            .doc(doc("Revoke a token").empty().errors(&[404]).idempotent()),
    ]
}

async fn create(call: Call) -> Reply {
    let sent: Create = call.json()?;
    if !call.app.http.has(AuthMethod::Token) {
        return Err(ApiError::of(ErrorCode::WrongState, "this service does not accept tokens; add token to http.auth"));
    }
    let principal = call.app.auth.principals.of_token(&sent.principal)?;
    let session = call.changing()?;
    let mut new = NewToken::new(principal, sent.role).expires_at(sent.expires_at);
    new.label = sent.label;
    let made = session.create_token(new).await?;
    let answer = Created { token: &made.token, credential: &made.credential };
    let mut response = reply::secret(&answer, 4 * 1024)?;
    *response.status_mut() = StatusCode::CREATED;
    Ok(response)
}

async fn list(call: Call) -> Reply {
    let query: ListQuery = call.query()?;
    let tokens = call.session.list_credentials(&paging(query.limit, query.cursor)).await?;
    reply::page(&tokens.items, tokens.next_cursor)
}

async fn withdraw(mut call: Call) -> Reply {
    let id: CredentialId = call.path("id").await?.parse()?;
    call.changing()?.revoke_credential(id).await?;
    reply::no_content()
}
