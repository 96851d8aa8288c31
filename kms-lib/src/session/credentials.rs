//! Creating, listing and revoking tokens, and authenticating the callers that present one.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::change::Intent;
use super::listing::{Slice, page};
use super::refusal::refusal;
use super::requests::{NewToken, Page, Paging};
use super::{Session, Shared};
use crate::catalog::Trust;
use crate::ledger::Details;
use crate::lifecycle::{CheckedCredential, Command, ENDED_TOKEN_DAYS};
use crate::types::actor::{Actor, Role};
use crate::types::attempt::Operation;
use crate::types::audit::Action;
use crate::types::change::Change;
use crate::types::credential::Credential;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::CredentialId;
use crate::types::limits::TEXT_BYTES;
use crate::types::text::is_printable;
use crate::types::time::Timestamp;
use crate::types::view::CatalogView;

/// The prefix of all tokens, by which scanners for leaked secrets find them.
const PREFIX: &str = "kms_";
/// The length of a token's secret in bytes.
const SECRET: usize = 32;
/// The length of a token: the prefix, then 16 bytes of id and 32 of secret in base64url without padding (4 + 64).
const TOKEN: usize = 68;

/// A stored credential, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct CredentialDescription {
    /// The identifier of the credential.
    pub id: CredentialId,
    /// The principal as which a caller with the token acts.
    pub principal: String,
    /// The role of a caller with the token.
    pub role: Role,
    /// A note about the purpose of the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The time of creation.
    pub created_at: Timestamp,
    /// The time from which the token is refused; none if it does not expire.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// A new token. It is returned only once.
#[non_exhaustive]
pub struct CreatedToken {
    /// The secret text by which its owner authenticates; keep it like a password.
    pub token: Zeroizing<String>,
    /// The stored credential of the token.
    pub credential: CredentialDescription,
}

impl std::fmt::Debug for CreatedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedToken").field("credential", &self.credential).finish_non_exhaustive()
    }
}

impl Session {
    /// Creates a token. Only its hash is stored, so a lost token cannot be shown again. For admins.
    ///
    /// Cancellation: before the change is submitted, dropping the future does nothing; afterwards the change is made
    /// and its answer is lost. A token whose answer is lost cannot be used: revoke it.
    pub async fn create_token(&self, new: NewToken) -> Result<CreatedToken> {
        self.new_token(new, false).await
    }

    /// Creates the first token of a store, which must have the role admin. `Conflict` if the store has or ever had a
    /// credential, including a revoked one: of several nodes that start on an empty database, exactly one creates it.
    /// For admins.
    ///
    /// Cancellation: before the change is submitted, dropping the future does nothing; afterwards the change is made
    /// and its answer is lost. A token whose answer is lost cannot be used: revoke it.
    pub async fn create_first_token(&self, new: NewToken) -> Result<CreatedToken> {
        if new.role != Role::Admin {
            return Err(Error::invalid("the first token of a store must have the role admin"));
        }
        self.new_token(new, true).await
    }

    async fn new_token(&self, new: NewToken, is_first: bool) -> Result<CreatedToken> {
        let NewToken { principal, role, label, expires_at } = new;
        if self.has_idempotency_key() {
            return Err(Error::invalid(
                "a token is shown only once, so creating one does not accept an idempotency key",
            ));
        }
        // The same rules as for every actor: a token cannot have a reserved principal.
        let actor = Actor::new(principal, role)?;
        if label.as_deref().is_some_and(|label| !is_printable(label, TEXT_BYTES)) {
            return Err(Error::invalid("a label has 1 to 256 bytes and no control or invisible characters"));
        }
        if expires_at.is_some_and(|end| end <= self.shared.clock.now()) {
            return Err(Error::new(
                ErrorCode::WrongState,
                "the expiry of the token is in the past; choose a later time",
            ));
        }
        let id = CredentialId::random();
        let mut secret = Zeroizing::new([0; SECRET]);
        self.shared.provider.random(secret.as_mut_slice())?;
        let new = CheckedCredential {
            id,
            principal: actor.principal().to_owned(),
            role,
            secret_hash: Sha256::digest(secret.as_slice()).into(),
            label: label.clone(),
            expires_at,
            is_first,
        };
        let mut details = Details::default();
        details
            .text("credentialId", &id.to_string())
            .text("principal", actor.principal())
            .text("credentialRole", role.as_str());
        if let Some(end) = expires_at {
            details.text("expiresAt", &end.to_string());
        }
        if let Some(label) = &label {
            details.text("label", label);
        }
        let intent = Intent {
            action: Action::CredentialCreate,
            attempt: self.attempt(Operation::CreateCredential, None),
            version: None,
            details,
            once: None,
        };
        let (changes, _) = self.change(intent, Command::CreateCredential(Box::new(new))).await?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(16 + SECRET));
        bytes.extend_from_slice(id.as_bytes());
        bytes.extend_from_slice(secret.as_slice());
        let mut token = Zeroizing::new(String::with_capacity(TOKEN));
        token.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut token);
        let made = changes.iter().find_map(|change| match change {
            Change::InsertCredential(credential) => Some(description(credential)),
            _ => None,
        });
        let credential =
            made.ok_or_else(|| Error::new(ErrorCode::Internal, "a credential was created without a row"))?;
        Ok(CreatedToken { token, credential })
    }

    /// Revokes a credential: from now on every operation of a caller with its token fails. For admins.
    pub async fn revoke_credential(&self, id: CredentialId) -> Result<()> {
        let mut details = Details::default();
        details.text("credentialId", &id.to_string());
        let once = self.once(Action::CredentialWithdraw, &id.to_string(), None, &Details::default(), *id.as_bytes());
        let intent = Intent {
            action: Action::CredentialWithdraw,
            attempt: self.attempt(Operation::WithdrawCredential { id }, None),
            version: None,
            details,
            once: once.clone(),
        };
        self.do_once(once, None, self.change(intent, Command::WithdrawCredential(id))).await.map(drop)
    }

    /// Removes the credentials that ended more than [`ENDED_TOKEN_DAYS`] ago but the last of them, in steps. Only the
    /// scheduler calls this.
    pub(crate) async fn remove_ended_credentials(&self) -> Result<()> {
        while self.has_removable_credentials() {
            let intent = Intent {
                action: Action::CredentialRemove,
                attempt: self.attempt(Operation::RemoveCredentials, None),
                version: None,
                details: Details::default(),
                once: None,
            };
            let (changes, _) = self.change(intent, Command::RemoveCredentials).await?;
            if changes.is_empty() {
                // Another process was faster, or the clock of the database is behind.
                return Ok(());
            }
        }
        Ok(())
    }

    fn has_removable_credentials(&self) -> bool {
        let snapshot = self.shared.catalog.snapshot();
        let before = self.shared.clock.now().minus_days(ENDED_TOKEN_DAYS);
        let mut ended = 0;
        snapshot.ended_credentials(before, 2, &mut |_| ended += 1);
        ended == 2 && snapshot.trust() == Trust::Verified
    }

    /// Lists the credentials that are not revoked, by id. For admins and auditors.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn list_credentials(&self, paging: &Paging) -> Result<Page<CredentialDescription>> {
        paging.check()?;
        let cursor: Option<CredentialId> = paging.cursor_as()?;
        self.permit_reading(Action::CredentialRead, Operation::ReadCredentials, None).await?;
        let _admission = self.admit_list()?;
        page(
            paging.limit,
            |credential: &CredentialDescription| credential.id.to_string(),
            |room, last| {
                let snapshot = self.shared.catalog.snapshot();
                let after = last.map(str::parse).transpose()?.or(cursor);
                let see = |credential: &&Credential| Some(description(credential));
                Ok(Slice::of(snapshot.standing_credentials(after), room, see, |credential| credential.id.to_string()))
            },
        )
        .await
    }
}

/// Returns the actor that this token authenticates. Sets `is_read` once the store was read for it.
pub(crate) async fn authenticate(shared: &Shared, token: &str, is_read: &mut bool) -> Result<Actor> {
    let refused = || refusal(ErrorCode::NotAuthenticated);
    if token.len() != TOKEN {
        return Err(refused());
    }
    let encoded = token.strip_prefix(PREFIX).ok_or_else(refused)?;
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(encoded).map_err(|_| refused())?);
    let (id, secret) = bytes.split_first_chunk::<16>().ok_or_else(refused)?;
    let id = CredentialId::from_bytes(*id);
    let known = shared.catalog.snapshot().credential(id).is_some();
    if !known {
        // Another process may have created it a moment ago.
        shared.catalog.ensure_fresh().await?;
        *is_read = true;
    }
    let snapshot = shared.catalog.snapshot();
    let credential = snapshot.credential(id).ok_or_else(refused)?;
    let hash: [u8; 32] = Sha256::digest(secret).into();
    let good = bool::from(hash.ct_eq(&credential.secret_hash))
        && credential.withdrawn_at.is_none()
        && credential.expires_at.is_none_or(|end| shared.clock.now() < end);
    if !good {
        return Err(refused());
    }
    Ok(Actor::new(&credential.principal, credential.role)?.with_credential(id))
}

fn description(credential: &Credential) -> CredentialDescription {
    CredentialDescription {
        id: credential.id,
        principal: credential.principal.clone(),
        role: credential.role,
        label: credential.label.clone(),
        created_at: credential.created_at,
        expires_at: credential.expires_at,
    }
}
