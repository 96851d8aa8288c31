//! `kms-http token`.

use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use kms_lib::{CredentialId, NewToken, Paging, Role, Timestamp};
use serde_json::json;

use super::bootstrap::token_lines;
use super::exit::Failure;
use super::output;
use super::store::with_store;
use crate::auth::principals::Principals;
use crate::settings::Settings;

/// What to do with tokens.
#[derive(Subcommand)]
pub enum Token {
    /// Make a token; it is shown this once
    Create {
        /// Who shows it is this principal
        principal: String,
        /// In this role
        #[arg(long, value_enum, default_value = "app")]
        role: RoleName,
        /// What it is for
        #[arg(long)]
        label: Option<String>,
        /// From when on it is not accepted, such as 2027-01-01T00:00:00Z
        #[arg(long, value_name = "TIME", conflicts_with = "days")]
        expires_at: Option<Timestamp>,
        /// In how many days it expires
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: Option<u32>,
    },
    /// List the tokens that are not withdrawn
    List,
    /// Withdraw a token: nothing succeeds with it any more
    Revoke {
        /// Its id
        id: CredentialId,
    },
}

/// A role.
#[derive(Clone, Copy, ValueEnum)]
pub enum RoleName {
    /// May do everything
    Admin,
    /// May read keys, grants, metrics and the log, and verify it
    Auditor,
    /// May do what its grants allow
    App,
}

impl From<RoleName> for Role {
    fn from(role: RoleName) -> Self {
        match role {
            RoleName::Admin => Self::Admin,
            RoleName::Auditor => Self::Auditor,
            RoleName::App => Self::App,
        }
    }
}

/// Entries of a page.
const PAGE: usize = 1_000;

/// Does it.
pub fn run(command: Token, settings: Settings, as_json: bool) -> Result<ExitCode, Failure> {
    let principals = Principals::new(&settings.http);
    with_store(settings, |_, session| async move {
        match command {
            Token::Create { principal, role, label, expires_at, days } => {
                let expires_at = expires_at.or_else(|| days.map(|days| Timestamp::now().plus_days(days)));
                let principal = principals.of_token(&principal)?;
                let mut new = NewToken::new(principal, role.into()).expires_at(expires_at);
                new.label = label;
                let made = session.create_token(new).await?;
                let shown = json!({"token": made.token.as_str(), "credential": made.credential});
                output::show(as_json, &shown, token_lines(&made))?;
            }
            Token::List => {
                let (mut all, mut paging) = (Vec::new(), Paging::new(PAGE));
                loop {
                    let page = session.list_credentials(&paging).await?;
                    all.extend(page.items);
                    paging.cursor = page.next_cursor;
                    if paging.cursor.is_none() {
                        break;
                    }
                }
                let lines = all.iter().map(|token| {
                    let until = token.expires_at.map_or_else(|| "does not expire".into(), |end| format!("until {end}"));
                    let label = token.label.as_deref().unwrap_or_default();
                    format!("{}  {:<8} {}  {until}  {label}", token.id, token.role, token.principal)
                });
                output::show(as_json, &all, lines)?;
            }
            Token::Revoke { id } => {
                session.revoke_credential(id).await?;
                output::show(as_json, &json!({"withdrawn": id}), [format!("withdrawn   {id}")])?;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}
