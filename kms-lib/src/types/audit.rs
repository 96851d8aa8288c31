//! Audit records and the head of the log.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::ids::{KeyId, LogId, RecordId};
use super::named::named;
use super::tallies::Tallies;
use super::time::Timestamp;

named!(
    /// The operation that an audit record is about.
    Action {
        /// The store was created.
        StoreCreate = "STORE_CREATE",
        /// A backup was made.
        StoreBackup = "STORE_BACKUP",
        /// An operator accepted that the store was rolled back to an older state; the details list what was lost.
        RestoreAcknowledge = "RESTORE_ACKNOWLEDGE",
        /// An operator accepted that the last record's time is in the future, because a clock was ahead. This record
        /// has the current time, which may be earlier than that of the record before it; the details have the latter.
        ClockAcknowledge = "CLOCK_ACKNOWLEDGE",
        /// The signing key of the log was replaced; the details name the old and the new key. The checkpoint that ends
        /// with this record is signed by both.
        SigningKeyReplace = "SIGNING_KEY_REPLACE",
        /// A generation of the root key was added.
        RootKeyAdd = "ROOT_KEY_ADD",
        /// Rewrapping began: material is wrapped under every generation in use that it is not yet wrapped under.
        RewrapStart = "REWRAP_START",
        /// Wrappings were added under a generation of the root key.
        WrappingsAdd = "WRAPPINGS_ADD",
        /// Rewrapping ended; the details have the numbers of new wrappings and of those that could not be opened.
        RewrapEnd = "REWRAP_END",
        /// Wrappings were opened, and their content was compared with the fingerprints.
        WrappingsVerify = "WRAPPINGS_VERIFY",
        /// Every wrapping under a generation of the root key was opened; the details have the result.
        RootKeyVerify = "ROOT_KEY_VERIFY",
        /// A generation of the root key was marked as compromised.
        RootKeyCompromise = "ROOT_KEY_COMPROMISE",
        /// The retirement of a generation of the root key began: nothing new is wrapped under it.
        RootKeyRetireStart = "ROOT_KEY_RETIRE_START",
        /// A generation of the root key was retired.
        RootKeyRetire = "ROOT_KEY_RETIRE",
        /// Wrappings under a retired generation were erased.
        WrappingsErase = "WRAPPINGS_ERASE",
        /// The integrity key was replaced; rows are resealed from this record on.
        IntegrityKeyReplace = "INTEGRITY_KEY_REPLACE",
        /// Rows were sealed under the current integrity key.
        RowsReseal = "ROWS_RESEAL",
        /// All rows are resealed, and the former integrity key was erased.
        IntegrityKeyErase = "INTEGRITY_KEY_ERASE",
        /// A request for the list of root key generations. Recorded only if refused.
        RootKeyRead = "ROOT_KEY_READ",
        /// Rows that do not match the log were quarantined.
        RowsQuarantine = "ROWS_QUARANTINE",
        /// Quarantined rows that match the log again were released.
        RowsRelease = "ROWS_RELEASE",
        /// A request for the list of quarantined rows. Recorded only if refused.
        QuarantineRead = "QUARANTINE_READ",
        /// The service opened the store with `audit.ack = "queued"`: a crash may lose the last records.
        QueuedAckOn = "QUEUED_ACK_ON",
        /// A key was created.
        KeyCreate = "KEY_CREATE",
        /// A request for a key's description. Recorded only if refused.
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
        /// The material of former versions that are revoked or past their grace window was erased.
        KeyTrim = "KEY_TRIM",
        /// The erasure of a key's material began. From this record on, its deletion cannot be cancelled.
        KeyDestroyStart = "KEY_DESTROY_START",
        /// The material of some versions of a key that is being erased was erased.
        KeyErase = "KEY_ERASE",
        /// All material of a key is erased.
        KeyDestroy = "KEY_DESTROY",
        /// A run of an import began; the details name the source.
        ImportStart = "IMPORT_START",
        /// A key of an import was created, or updated to match its source; the details name the source.
        KeyImport = "KEY_IMPORT",
        /// Grants of an import were created, or updated to match their source.
        GrantImport = "GRANT_IMPORT",
        /// An import was finalized for the keys in the details; they belong to this store from then on.
        ImportFinalize = "IMPORT_FINALIZE",
        /// A run of an import ended; the details have the numbers of imported rows.
        ImportEnd = "IMPORT_END",
        /// Plaintexts were encrypted.
        Encrypt = "ENCRYPT",
        /// Ciphertexts were decrypted.
        Decrypt = "DECRYPT",
        /// Payloads were signed.
        Sign = "SIGN",
        /// Signatures were verified.
        Verify = "VERIFY",
        /// A data key was generated.
        GenerateDataKey = "GENERATE_DATA_KEY",
        /// A ciphertext was re-encrypted.
        Reencrypt = "REENCRYPT",
        /// A grant was made.
        GrantCreate = "GRANT_CREATE",
        /// A grant was replaced.
        GrantUpdate = "GRANT_UPDATE",
        /// A grant was revoked.
        GrantWithdraw = "GRANT_WITHDRAW",
        /// A request for a list of grants. Recorded only if refused.
        GrantRead = "GRANT_READ",
        /// A credential was created.
        CredentialCreate = "CREDENTIAL_CREATE",
        /// A credential was revoked.
        CredentialWithdraw = "CREDENTIAL_WITHDRAW",
        /// Credentials were removed that had ended long before.
        CredentialRemove = "CREDENTIAL_REMOVE",
        /// A request for a list of credentials. Recorded only if refused.
        CredentialRead = "CREDENTIAL_READ",
        /// A request for audit records. Recorded only if refused.
        AuditRead = "AUDIT_READ",
        /// The log was verified.
        AuditVerify = "AUDIT_VERIFY",
        /// Rows of the audit log of Mini KMS on Node were imported. The details have the number of all rows and the
        /// Merkle root over them; those of the last record of a run also have the findings.
        LegacyImport = "LEGACY_IMPORT",
        /// The log could not be anchored, or does not continue an anchored checkpoint.
        AuditAnchor = "AUDIT_ANCHOR",
        /// A request for metrics. Recorded only if refused.
        MetricsRead = "METRICS_READ",
    }
);

named!(
    /// The outcome of an operation.
    Status {
        /// The operation was done.
        Success = "SUCCESS",
        /// The operation was refused or failed.
        Failure = "FAILURE",
    }
);

/// A stored audit record. One row of `audit_logs`. In JSON, hashes are in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct AuditRecord {
    /// The record's sequence number in the log, counted from 1 without gaps.
    pub seq: u64,
    /// The record's identifier, a UUID.
    pub id: RecordId,
    /// Time of the record; never earlier than that of the record before it, except in a `CLOCK_ACKNOWLEDGE` record.
    pub timestamp: Timestamp,
    /// The principal that acted.
    pub actor: String,
    /// The role in which the principal acted.
    pub role: String,
    /// The operation: the name of an [`Action`]. Text, so that records with names of later versions can be verified.
    pub action: String,
    /// The outcome: the name of a [`Status`].
    pub status: String,
    /// The request id that the caller gave.
    pub request_id: Option<String>,
    /// The key that the operation was on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
    /// The version of the key that the operation was on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_version: Option<u32>,
    /// Details that depend on the action: canonical JSON (RFC 8785).
    #[serde(skip_serializing_if = "has_no_json", serialize_with = "as_json")]
    pub details: Option<String>,
    /// SHA-256 hash of the record before; zeros for the first.
    #[serde(serialize_with = "hex_bytes")]
    pub prev_hash: [u8; 32],
    /// SHA-256 hash of this record.
    #[serde(serialize_with = "hex_bytes")]
    pub hash: [u8; 32],
    /// Format of body and header: 2.
    pub format: u8,
}

/// Whether there is no JSON to show. Text that is not JSON was tampered with: it is left out, and verification reports
/// it.
fn has_no_json(text: &Option<String>) -> bool {
    json(text).is_none()
}

fn as_json<S: Serializer>(text: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    json(text).serialize(serializer)
}

fn json(text: &Option<String>) -> Option<&RawValue> {
    serde_json::from_str(text.as_deref()?).ok()
}

/// The end of the log, with the state needed to extend it. The row of `audit_head`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The log's identifier, which is part of each record's hash.
    pub log_id: LogId,
    /// Number of records, which is the sequence number of the last.
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
    /// Counters that were not added to their tables yet. The signature does not cover them.
    pub tallies: Tallies,
    /// The number of records that the indexes of the log have, counted from the first, where these are tables of our
    /// own. The signature does not cover it.
    pub indexed: u64,
}

impl Head {
    /// Whether this is the same end of the log. Values that the signature does not cover may differ: altering them
    /// gains an attacker nothing but wrong counters and slow lists.
    pub fn is_at(&self, other: &Self) -> bool {
        let Self { log_id, seq, hash, timestamp, revision, frontier, checkpoint, .. } = self;
        (log_id, seq, hash, timestamp) == (&other.log_id, &other.seq, &other.hash, &other.timestamp)
            && (revision, frontier, checkpoint) == (&other.revision, &other.frontier, &other.checkpoint)
    }
}

/// A signed state of the log that was kept so that verification can continue from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// Number of records that the checkpoint covers.
    pub size: u64,
    /// Roots of the perfect subtrees at that size, largest first.
    pub frontier: Vec<[u8; 32]>,
    /// Hash of the last record that the checkpoint covers.
    pub hash: [u8; 32],
    /// The signed note (C2SP).
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

/// These bytes as lower-case hexadecimal text.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    write_hex(&mut text, bytes);
    text
}

/// Appends these bytes as lower-case hexadecimal text.
pub fn write_hex(out: &mut String, bytes: &[u8]) {
    // A text is extended by several digits at once, because every extension checks its room.
    for chunk in bytes.chunks(16) {
        let mut digits = [[0; 2]; 16];
        for (pair, byte) in digits.iter_mut().zip(chunk) {
            *pair = HEX_DIGITS[usize::from(*byte)];
        }
        out.extend(std::str::from_utf8(&digits.as_flattened()[..2 * chunk.len()]));
    }
}

/// The two hexadecimal digits of each byte.
const HEX_DIGITS: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < pairs.len() {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

/// Appends a number in decimal, without the overhead of the formatter.
pub fn write_decimal(out: &mut String, number: u64) {
    out.push_str(itoa::Buffer::new().format(number));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_bytes_are_written_as_the_formatter_writes_them() {
        for number in [0, 9, 10, 4_294_967_295, 1 << 53, u64::MAX] {
            let mut text = String::from("n");
            write_decimal(&mut text, number);
            assert_eq!(text, format!("n{number}"));
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(hex(&all), all.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    }
}
