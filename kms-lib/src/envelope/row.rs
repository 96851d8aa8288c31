//! The canonical bytes of rows, which seals authenticate and audit records of changes hash.

use sha2::{Digest, Sha256};

use crate::types::credential::Credential;
use crate::types::error::Result;
use crate::types::grant::Grant;
use crate::types::ids::ImportRunId;
use crate::types::key::{Key, KeyVersion};
use crate::types::quarantine::Quarantined;
use crate::types::root_key::{RootKeyGeneration, ServiceKey, Wrapped};
use crate::types::time::Timestamp;

/// A sequence of fields, each prefixed with its length or its absence, so that different sequences have different
/// bytes.
pub struct Fields(Vec<u8>);

impl Fields {
    /// An empty sequence. `domain` separates its bytes from all other hashed data.
    pub fn new(domain: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(domain);
        Self(bytes)
    }
    /// Appends a field with its length.
    pub fn bytes(&mut self, field: &[u8]) -> &mut Self {
        self.0.push(1);
        self.0.extend_from_slice(&(field.len() as u64).to_be_bytes());
        self.0.extend_from_slice(field);
        self
    }
    /// Appends a field that may be absent.
    pub fn optional(&mut self, field: Option<&[u8]>) -> &mut Self {
        match field {
            Some(field) => self.bytes(field),
            None => {
                self.0.push(0);
                self
            }
        }
    }
    /// Appends a number as 8 bytes, big-endian.
    pub fn number(&mut self, field: u64) -> &mut Self {
        self.bytes(&field.to_be_bytes())
    }
    /// Appends a number that may be absent.
    pub fn optional_number(&mut self, field: Option<u64>) -> &mut Self {
        self.optional(field.map(u64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice))
    }
    /// Appends a time that may be absent, in microseconds.
    fn time(&mut self, field: Option<Timestamp>) -> &mut Self {
        self.optional_number(field.map(|t| t.micros().unsigned_abs()))
    }
    fn text(&mut self, field: &str) -> &mut Self {
        self.bytes(field.as_bytes())
    }
    /// The bytes of all fields.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

fn row(table: &str) -> Fields {
    let mut fields = Fields::new(b"kms-row/v1\0");
    fields.text(table);
    fields
}

/// The bytes of a row of `keys`.
pub fn key(key: &Key) -> Vec<u8> {
    let mut fields = row("keys");
    fields
        .bytes(key.id.as_bytes())
        .text(&key.name)
        .text(key.key_type.as_str())
        .text(key.purpose.as_str())
        .text(key.state.as_str())
        .optional(key.disabled_reason.map(|reason| reason.as_str().as_bytes()))
        .optional(key.state_before_deletion.map(|state| state.as_str().as_bytes()))
        .optional_number(key.rotation_period_days.map(u64::from))
        .optional_number(key.grace_period_days.map(u64::from))
        .number(u64::from(key.current_version))
        .time(key.rotate_at)
        .time(key.delete_at)
        .optional_number(key.deletion_wait_days.map(u64::from))
        .text(key.audit_context.as_str())
        .optional(key.metadata.as_deref().map(str::as_bytes))
        .optional(key.import.as_ref().map(|import| import.source.as_bytes()))
        .number(u64::from(key.import.as_ref().is_some_and(|import| import.is_final)))
        .time(Some(key.created_at))
        .number(key.revision);
    fields.finish()
}

/// The bytes of a row of `key_versions`, without its counters. The fingerprint identifies the material.
pub fn version(version: &KeyVersion) -> Vec<u8> {
    let mut fields = row("key_versions");
    fields
        .bytes(version.id.as_bytes())
        .bytes(version.key_id.as_bytes())
        .number(u64::from(version.version))
        .text(version.state.as_str())
        .time(version.not_before)
        .time(version.not_after)
        .optional_number(version.grace_period_days.map(u64::from))
        .time(Some(version.created_at))
        .text(version.origin.as_str())
        .bytes(&version.fingerprint)
        .optional(version.public_key_digest.as_deref().map(<[u8; 32]>::as_slice))
        .number(version.revision);
    fields.finish()
}

/// The bytes of a row of `grants`.
pub fn grant(grant: &Grant) -> Result<Vec<u8>> {
    let mut fields = row("grants");
    fields
        .bytes(grant.id.as_bytes())
        .text(&grant.principal)
        .text(grant.role.as_str())
        .text(&grant.scope.to_string())
        .number(grant.permissions.len() as u64);
    for permission in &grant.permissions {
        fields.text(permission.as_str());
    }
    fields
        .text(&grant.conditions.to_json()?)
        .time(Some(grant.created_at))
        .time(grant.withdrawn_at)
        .text(&grant.grantor.principal)
        .text(grant.grantor.role.as_str())
        .number(grant.grantor.through.len() as u64);
    for parent in &grant.grantor.through {
        fields.bytes(parent.as_bytes());
    }
    fields.number(u64::from(grant.cascade)).number(grant.revision);
    Ok(fields.finish())
}

/// The bytes of a row of `quarantine`.
pub fn quarantined(entry: &Quarantined) -> Vec<u8> {
    let mut fields = row("quarantine");
    fields
        .bytes(entry.id.as_bytes())
        .text(entry.table.as_str())
        .bytes(&entry.row)
        .optional(entry.key.as_ref().map(|key| key.as_bytes().as_slice()))
        .optional(entry.key_name.as_deref().map(str::as_bytes))
        .time(Some(entry.created_at))
        .time(entry.released_at)
        .number(entry.revision);
    fields.finish()
}

/// The bytes of a row of `wrappings` with the fingerprint of the wrapped material. The row of the version does not
/// cover its wrappings, because material is rewrapped without a change of its version.
pub fn wrapping(wrapping: &StoredWrapping, fingerprint: &[u8; 32]) -> Vec<u8> {
    let mut fields = row("wrappings");
    fields
        .bytes(&wrapping.subject)
        .bytes(fingerprint)
        .number(u64::from(wrapping.generation))
        .bytes(&wrapping.digest)
        .number(u64::from(wrapping.verified));
    fields.finish()
}

/// A row of `wrappings`, without its seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredWrapping {
    /// The id of the version or service key whose material is wrapped.
    pub subject: [u8; 16],
    /// The generation of the root key.
    pub generation: u32,
    /// The SHA-256 of the wrapped material.
    pub digest: [u8; 32],
    /// Whether the wrapping was opened since it was written, and the material matched the fingerprint.
    pub verified: bool,
}

impl StoredWrapping {
    /// A new wrapping, not yet verified.
    pub fn new(subject: [u8; 16], wrapped: &Wrapped) -> Self {
        let digest = digest(&wrapped.bytes);
        Self { subject, generation: wrapped.generation, digest, verified: false }
    }
}

/// The bytes of a row of `root_keys`.
pub fn root_key(root: &RootKeyGeneration) -> Vec<u8> {
    let mut fields = row("root_keys");
    fields
        .bytes(root.id.as_bytes())
        .number(u64::from(root.generation))
        .text(root.provider.as_str())
        .optional(root.reference.as_deref().map(str::as_bytes))
        .text(&root.derivation)
        .optional(root.salt.as_deref())
        .bytes(&root.check_value)
        .text(root.state.as_str())
        .time(root.compromised_at)
        .optional_number(root.closed_seq)
        .time(Some(root.created_at))
        .time(root.retired_at)
        .number(root.revision);
    fields.finish()
}

/// The bytes of a row of `service_keys`.
pub fn service_key(key: &ServiceKey) -> Vec<u8> {
    let mut fields = row("service_keys");
    fields
        .bytes(key.id.as_bytes())
        .text(key.kind.as_str())
        .number(u64::from(key.number))
        .optional(key.public_key.as_ref().map(<[u8; 32]>::as_slice))
        .bytes(&key.fingerprint)
        .number(key.first_seq)
        .text(key.state.as_str())
        .number(key.revision);
    fields.finish()
}

/// The bytes of a row of `credentials`.
pub fn credential(credential: &Credential) -> Vec<u8> {
    let mut fields = row("credentials");
    fields
        .bytes(credential.id.as_bytes())
        .text(&credential.principal)
        .text(credential.role.as_str())
        .bytes(&credential.secret_hash)
        .optional(credential.label.as_deref().map(str::as_bytes))
        .time(Some(credential.created_at))
        .time(credential.expires_at)
        .time(credential.withdrawn_at)
        .optional_number(credential.removal)
        .number(credential.revision);
    fields.finish()
}

/// The bytes of an idempotency record, with the digest of the request and the first answer. The seal prevents an
/// attacker with write access from forging a request that was never made.
pub fn request(
    principal: &str,
    key: &str,
    request_digest: &[u8; 32],
    subject: &[u8; 16],
    answer: Option<&str>,
    seq: u64,
    expires_at: Timestamp,
) -> Vec<u8> {
    let mut fields = row("idempotency");
    fields.text(principal).text(key).bytes(request_digest).bytes(subject).number(seq).time(Some(expires_at));
    // Absent from idempotency records without an answer.
    if let Some(answer) = answer {
        fields.text(answer);
    }
    fields.finish()
}

/// The bytes of the latest run of an import, and of whether the import is finalized.
pub fn import_run(source: &str, run: &ImportRunId, is_final: bool) -> Vec<u8> {
    let mut fields = row("import_run");
    fields.text(source).bytes(run.as_bytes()).number(is_final.into());
    fields.finish()
}

/// The bytes of the verified size of the log, with what else is kept of the verification (`rest`). Sealed, so that an
/// attacker cannot make verification skip records.
pub fn verified(size: u64, rest: &str) -> Vec<u8> {
    let mut fields = row("verified");
    fields.number(size).text(rest);
    fields.finish()
}

/// The SHA-256 of a row, as contained in the record of its change.
pub fn digest(row: &[u8]) -> [u8; 32] {
    Sha256::digest(row).into()
}
