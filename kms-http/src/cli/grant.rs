//! The commands `kms-http grant`.

use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use kms_lib::limits::PAGE_LIMIT;
use kms_lib::{Conditions, GrantDescription, GrantFilter, GrantId, NewGrant, Paging, Permission, Role, Session};
use serde_json::json;

use super::exit::Failure;
use super::output;
use super::store::with_store;
use super::token::role;
use crate::auth::principals::Principals;
use crate::settings::Settings;

/// The value of `--key` that means all keys.
const ALL_KEYS: &str = "*";

/// The subcommands of `kms-http grant`.
#[derive(Subcommand)]
pub enum Grant {
    /// List the grants that are not revoked
    List {
        /// Only the grants of this principal
        #[arg(long)]
        principal: Option<String>,
        /// Only the grants on this key (id or name) or on all keys; `*` for only those on all keys
        #[arg(long)]
        key: Option<String>,
    },
    /// Create or replace a grant of an admin to a principal on a key
    Put(Put),
    /// Revoke a grant
    #[command(alias = "revoke")]
    Withdraw {
        /// Id of the grant
        id: GrantId,
        /// Also revoke the grants that were passed on through this one
        #[arg(long)]
        cascade: bool,
    },
}

/// Options of `kms-http grant put`.
#[derive(Args)]
pub struct Put {
    /// Principal that receives the permissions
    principal: String,
    /// Key that the grant applies to (id or name); `*` for all keys, including future ones
    #[arg(long)]
    key: String,
    /// Permissions, comma-separated, such as encrypt,decrypt
    #[arg(long, required = true, value_delimiter = ',', value_parser = permission())]
    allow: Vec<Permission>,
    /// Role that the grant is intended for; informational, restricts nothing
    #[arg(long, default_value = "app", value_parser = role())]
    role: Role,
    /// Conditions as JSON, such as '{"sourceIp": ["10.0.0.0/8"], "notAfter": "2027-01-01T00:00:00Z"}'
    #[arg(long, value_name = "JSON", value_parser = conditions)]
    conditions: Option<Conditions>,
}

/// Opens the store and runs the command.
pub fn run(command: Grant, settings: Settings, as_json: bool) -> Result<ExitCode, Failure> {
    let principals = Principals::new(&settings.http);
    with_store(settings, |_, session| async move {
        match command {
            Grant::List { principal, key } => {
                let filter = match key.as_deref() {
                    None => GrantFilter::new(),
                    Some(ALL_KEYS) => GrantFilter::new().on_all_keys(),
                    Some(key) => GrantFilter::new().on_key(key),
                };
                let principal = principal.map(|name| principals.named(&name)).transpose()?;
                let grants = all(&session, principal.into_iter().fold(filter, GrantFilter::principal)).await?;
                output::show(as_json, &grants, grants.iter().map(line))
            }
            Grant::Put(put) => {
                let new = NewGrant::new(principals.named(&put.principal)?, put.role).allow(put.allow);
                let new = new.conditions(put.conditions.unwrap_or_default());
                let new = if put.key == ALL_KEYS { new.on_all_keys() } else { new.on_key(put.key) };
                let grant = session.put_grant(new).await?;
                output::show(as_json, &grant, [line(&grant)])
            }
            Grant::Withdraw { id, cascade } => {
                match cascade {
                    true => session.revoke_grant_cascading(id).await?,
                    false => session.revoke_grant(id).await?,
                }
                output::show(as_json, &json!({"withdrawn": id, "cascade": cascade}), [format!("revoked     {id}")])
            }
        }
    })
}

fn permission() -> impl TypedValueParser<Value = Permission> {
    PossibleValuesParser::new(Permission::ALL.iter().map(|permission| permission.as_str()))
        .try_map(|name| Permission::parse(&name))
}

fn conditions(text: &str) -> Result<Conditions, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn line(grant: &GrantDescription) -> String {
    let allowed: Vec<&str> = grant.allowed_ops.iter().map(|permission| permission.as_str()).collect();
    let conditions = grant.conditions.as_ref().and_then(|conditions| serde_json::to_string(conditions).ok());
    let GrantDescription { id, principal, key_id, granted_by, .. } = grant;
    let allowed = allowed.join(",");
    format!("{id}  {principal} on {key_id}: {allowed}  by {granted_by}  {}", conditions.unwrap_or_default())
}

async fn all(session: &Session, filter: GrantFilter) -> Result<Vec<GrantDescription>, Failure> {
    let (mut all, mut paging) = (Vec::new(), Paging::new(PAGE_LIMIT));
    loop {
        let page = session.list_grants(&filter, &paging).await?;
        all.extend(page.items);
        paging.cursor = page.next_cursor;
        if paging.cursor.is_none() {
            return Ok(all);
        }
    }
}
