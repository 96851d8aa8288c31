//! The commands `kms-http token`.

use std::process::ExitCode;

use clap::Subcommand;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use kms_lib::limits::PAGE_LIMIT;
use kms_lib::{CredentialDescription, CredentialId, NewToken, Paging, Role, Session, Timestamp};
use serde_json::json;

use super::bootstrap::token_lines;
use super::exit::Failure;
use super::output;
use super::store::with_store;
use crate::auth::principals::Principals;
use crate::settings::Settings;

/// The subcommands of `kms-http token`.
#[derive(Subcommand)]
pub enum Token {
    /// Create a token; it is printed only once
    Create {
        /// Principal that the token authenticates
        principal: String,
        /// Role of the principal
        ///
        /// An admin may do everything. An auditor may read keys, grants, metrics and the audit log, and verify the log.
        /// An app may do what its grants allow.
        #[arg(long, default_value = "app", value_parser = role())]
        role: Role,
        /// Description of the token
        #[arg(long)]
        label: Option<String>,
        /// Expiry time, such as 2027-01-01T00:00:00Z [default: never]
        #[arg(long, value_name = "TIME", conflicts_with = "days")]
        expires_at: Option<Timestamp>,
        /// Days until the token expires
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: Option<u32>,
    },
    /// List the tokens that are not revoked
    List,
    /// Revoke a token: it is no longer accepted
    Revoke {
        /// Id of the token
        id: CredentialId,
    },
}

/// Opens the store and runs the command.
pub fn run(command: Token, settings: Settings, as_json: bool) -> Result<ExitCode, Failure> {
    let principals = Principals::new(&settings.http);
    with_store(settings, |_, session| async move {
        match command {
            Token::Create { principal, role, label, expires_at, days } => {
                let expires_at = expires_at.or_else(|| days.map(|days| Timestamp::now().plus_days(days)));
                let principal = principals.of_token(&principal)?;
                let mut new = NewToken::new(principal, role).expires_at(expires_at);
                new.label = label;
                let made = session.create_token(new).await?;
                let shown = json!({"token": made.token.as_str(), "credential": made.credential});
                output::show(as_json, &shown, token_lines(&made))
            }
            Token::List => {
                let all = all(&session).await?;
                output::show(as_json, &all, all.iter().map(line))
            }
            Token::Revoke { id } => {
                session.revoke_credential(id).await?;
                output::show(as_json, &json!({"withdrawn": id}), [format!("revoked     {id}")])
            }
        }
    })
}

pub fn role() -> impl TypedValueParser<Value = Role> {
    PossibleValuesParser::new(["admin", "auditor", "app"]).try_map(|name| Role::parse(&name))
}

fn line(token: &CredentialDescription) -> String {
    let until = token.expires_at.map_or_else(|| "does not expire".into(), |end| format!("until {end}"));
    let label = token.label.as_deref().unwrap_or_default();
    format!("{}  {:<8} {}  {until}  {label}", token.id, token.role, token.principal)
}

async fn all(session: &Session) -> Result<Vec<CredentialDescription>, Failure> {
    let (mut all, mut paging) = (Vec::new(), Paging::new(PAGE_LIMIT));
    loop {
        let page = session.list_credentials(&paging).await?;
        all.extend(page.items);
        paging.cursor = page.next_cursor;
        if paging.cursor.is_none() {
            return Ok(all);
        }
    }
}
