//! Audit records and the head of the log.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::ids::{KeyId, LogId, RecordId};
use super::named::named;
use super::time::Timestamp;

named!(
    /// What was done.
    Action {
        /// The store was made.
        StoreCreate = "STORE_CREATE",
        /// A backup was made.
        StoreBackup = "STORE_BACKUP",
        /// It was accepted that the store was put back to an older state; the details say what was lost.
        RestoreAcknowledge = "RESTORE_ACKNOWLEDGE",
        /// It was accepted that the last record is of a time that has not come yet: from this record on, which
        /// therefore may be of an earlier time than the one before it, time is the present again. The details say how
        /// late it was.
        ClockAcknowledge = "CLOCK_ACKNOWLEDGE",
        /// The key that signs the log was replaced; the details name both. The state that ends with this record is
        /// signed by both.
        SigningKeyReplace = "SIGNING_KEY_REPLACE",
        /// A generation of the root key was added.
        RootKeyAdd = "ROOT_KEY_ADD",
        /// Rewrapping began: material that is not yet wrapped under every generation is wrapped under those it lacks.
        RewrapStart = "REWRAP_START",
        /// Wrappings were added.
        WrappingsAdd = "WRAPPINGS_ADD",
        /// Rewrapping ended; the details say what was wrapped, and how much could not be opened.
        RewrapEnd = "REWRAP_END",
        /// Wrappings were opened and hold what they should.
        WrappingsVerify = "WRAPPINGS_VERIFY",
        /// Every wrapping under a generation of the root key was opened; the details say what was found.
        RootKeyVerify = "ROOT_KEY_VERIFY",
        /// It was said that somebody else may have a generation of the root key.
        RootKeyCompromise = "ROOT_KEY_COMPROMISE",
        /// Nothing new is wrapped any more under a generation of the root key, which is about to be retired.
        RootKeyRetireStart = "ROOT_KEY_RETIRE_START",
        /// A generation of the root key was retired.
        RootKeyRetire = "ROOT_KEY_RETIRE",
        /// Wrappings under a retired generation were erased.
        WrappingsErase = "WRAPPINGS_ERASE",
        /// The key that seals rows was replaced; rows are resealed from here on.
        IntegrityKeyReplace = "INTEGRITY_KEY_REPLACE",
        /// Rows were sealed under the present key.
        RowsReseal = "ROWS_RESEAL",
        /// All rows are resealed, and the key that sealed them before is erased.
        IntegrityKeyErase = "INTEGRITY_KEY_ERASE",
        /// The generations of the root key were asked for. Recorded when it was refused.
        RootKeyRead = "ROOT_KEY_READ",
        /// Rows that are not what the log says of them were quarantined.
        RowsQuarantine = "ROWS_QUARANTINE",
        /// Quarantined rows that are again what the log says of them were released.
        RowsRelease = "ROWS_RELEASE",
        /// The quarantine was asked for. Recorded when it was refused.
        QuarantineRead = "QUARANTINE_READ",
        /// The service opened the store with `audit.ack = "queued"`: a crash may lose the last records.
        QueuedAckOn = "QUEUED_ACK_ON",
        /// A key was created.
        KeyCreate = "KEY_CREATE",
        /// A key's description was asked for. Recorded when it was refused.
        KeyRead = "KEY_READ",
        /// A key was rotated.
        KeyRotate = "KEY_ROTATE",
        /// A key or version was enabled.
        KeyEnable = "KEY_ENABLE",
        /// A key or version was disabled.
        KeyDisable = "KEY_DISABLE",
        /// A key or version was revoked.
        KeyRevoke = "KEY_REVOKE",
        /// A grace window was set, extended or ended.
        KeyWindow = "KEY_WINDOW",
        /// Periods, metadata or the form of recorded contexts were edited.
        KeyUpdate = "KEY_UPDATE",
        /// A deletion was scheduled.
        KeyScheduleDeletion = "KEY_SCHEDULE_DELETION",
        /// A deletion was cancelled.
        KeyCancelDeletion = "KEY_CANCEL_DELETION",
        /// The material of former versions that are revoked or past their window was erased.
        KeyTrim = "KEY_TRIM",
        /// A key's material is about to be erased: from this record on, its deletion cannot be cancelled.
        KeyDestroyStart = "KEY_DESTROY_START",
        /// The material of some versions of such a key was erased.
        KeyErase = "KEY_ERASE",
        /// All material of a key is erased.
        KeyDestroy = "KEY_DESTROY",
        /// An import began.
        ImportStart = "IMPORT_START",
        /// A key of an import came here, or followed its source; the details name the source.
        KeyImport = "KEY_IMPORT",
        /// Grants of an import came here, or followed their source.
        GrantImport = "GRANT_IMPORT",
        /// An import ended for the keys that the details name: they are this store's own from then on.
        ImportFinalise = "IMPORT_FINALISE",
        /// A run of an import ended; the details say what came over.
        ImportEnd = "IMPORT_END",
        /// Encryption.
        Encrypt = "ENCRYPT",
        /// Decryption.
        Decrypt = "DECRYPT",
        /// Signature.
        Sign = "SIGN",
        /// Verification of a signature.
        Verify = "VERIFY",
        /// A data key was generated.
        GenerateDataKey = "GENERATE_DATA_KEY",
        /// A ciphertext was re-encrypted.
        Reencrypt = "REENCRYPT",
        /// A grant was made.
        GrantCreate = "GRANT_CREATE",
        /// A grant was replaced.
        GrantUpdate = "GRANT_UPDATE",
        /// A grant was withdrawn.
        GrantWithdraw = "GRANT_WITHDRAW",
        /// Grants were asked for. Recorded when it was refused.
        GrantRead = "GRANT_READ",
        /// A credential was made.
        CredentialCreate = "CREDENTIAL_CREATE",
        /// A credential was withdrawn.
        CredentialWithdraw = "CREDENTIAL_WITHDRAW",
        /// Credentials were asked for. Recorded when it was refused.
        CredentialRead = "CREDENTIAL_READ",
        /// The log was asked for. Recorded when it was refused.
        AuditRead = "AUDIT_READ",
        /// The log was verified.
        AuditVerify = "AUDIT_VERIFY",
        /// Rows of the log of Mini KMS on Node were imported. The details have the number of all rows and the root of
        /// the tree over them; those of the last record of a run also have what was found.
        LegacyImport = "LEGACY_IMPORT",
        /// The log could not be anchored, or does not continue what was anchored.
        AuditAnchor = "AUDIT_ANCHOR",
        /// Metrics were asked for. Recorded when it was refused.
        MetricsRead = "METRICS_READ",
    }
);

named!(
    /// How it ended.
    Status {
        /// As asked.
        Success = "SUCCESS",
        /// Refused or failed.
        Failure = "FAILURE",
    }
);

/// A record of the log as stored. One row of `audit_logs`. In JSON, hashes are in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct AuditRecord {
    /// Its place in the log, counted from 1 without gaps.
    pub seq: u64,
    /// Identifies the record.
    pub id: RecordId,
    /// When; never before the record ahead of it.
    pub timestamp: Timestamp,
    /// Who.
    pub actor: String,
    /// In which role.
    pub role: String,
    /// What, as text: a name this version does not know must not hinder verification.
    pub action: String,
    /// How it ended.
    pub status: String,
    /// The caller's id for the request.
    pub request_id: Option<String>,
    /// The key it was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
    /// The version it was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_version: Option<u32>,
    /// Canonical JSON (RFC 8785).
    #[serde(skip_serializing_if = "has_no_json", serialize_with = "as_json")]
    pub details: Option<String>,
    /// Hash of the record before; zeros for the first.
    #[serde(serialize_with = "hex_bytes")]
    pub prev_hash: [u8; 32],
    /// Hash of this record.
    #[serde(serialize_with = "hex_bytes")]
    pub hash: [u8; 32],
    /// Format of body and header: 2.
    pub format: u8,
}

/// Text that is no JSON was altered: it is left out, and verification says so.
fn has_no_json(text: &Option<String>) -> bool {
    json(text).is_none()
}

fn as_json<S: Serializer>(text: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    json(text).serialize(serializer)
}

fn json(text: &Option<String>) -> Option<&RawValue> {
    serde_json::from_str(text.as_deref()?).ok()
}

/// The end of the log, and all that is needed to extend it. The row of `audit_head`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Identifies the log.
    pub log_id: LogId,
    /// Number of records; the sequence number of the last.
    pub seq: u64,
    /// Hash of the last record; zeros if there is none.
    pub hash: [u8; 32],
    /// Time of the last record.
    pub timestamp: Timestamp,
    /// Sequence number of the last record that changed keys, versions or grants.
    pub revision: u64,
    /// Roots of the perfect subtrees of the Merkle tree, largest first: one per bit set in `seq`.
    pub frontier: Vec<[u8; 32]>,
    /// Signed checkpoint over size and root (C2SP signed note).
    pub checkpoint: String,
}

/// A signed state of the log that was kept so that verification can go on from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// Number of records it covers.
    pub size: u64,
    /// Subtree roots at that size.
    pub frontier: Vec<[u8; 32]>,
    /// Hash of the last record it covers.
    pub hash: [u8; 32],
    /// The signed note.
    pub note: String,
}

/// Proof that an operation is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Receipt {
    /// The record's sequence number. 0 when the record was accepted but not yet written (`audit.ack = "queued"`).
    pub seq: u64,
    /// The record's hash, in lower-case hex.
    #[serde(serialize_with = "hex_bytes")]
    pub hash: [u8; 32],
}

fn hex_bytes<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex(bytes))
}

/// Lower-case hexadecimal text.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)] as char, DIGITS[usize::from(b & 15)] as char]).collect()
}
