//! Audit records: the canonical body, the header, and the hash over both.

use sha2::{Digest, Sha256};

use super::canonical::write_string;
use crate::types::audit::{AuditRecord, write_decimal};
use crate::types::ids::{KeyId, LogId, RecordId};
use crate::types::time::Timestamp;

/// The format of records that this version writes.
pub const FORMAT: u8 = 2;

/// The fields of a record that do not depend on its place in the log.
#[derive(Clone, Copy, Debug)]
pub struct Body<'a> {
    /// The principal that acted.
    pub actor: &'a str,
    /// The role in which it acted.
    pub role: &'a str,
    /// The action that was attempted.
    pub action: &'a str,
    /// The outcome: `SUCCESS` or `FAILURE`.
    pub status: &'a str,
    /// The caller's id for the request.
    pub request_id: Option<&'a str>,
    /// The key that the record is about.
    pub key_id: Option<KeyId>,
    /// The version that the record is about.
    pub key_version: Option<u32>,
    /// Further details as canonical JSON, included verbatim.
    pub details: Option<&'a str>,
}

impl<'a> From<&'a AuditRecord> for Body<'a> {
    fn from(row: &'a AuditRecord) -> Self {
        Self {
            actor: &row.actor,
            role: &row.role,
            action: &row.action,
            status: &row.status,
            request_id: row.request_id.as_deref(),
            key_id: row.key_id,
            key_version: row.key_version,
            details: row.details.as_deref(),
        }
    }
}

impl Body<'_> {
    /// Writes the body as canonical JSON (RFC 8785); absent members are left out.
    pub fn write_canonical(&self, out: &mut String) {
        out.push_str("{\"action\":");
        write_string(out, self.action);
        out.push_str(",\"actor\":");
        write_string(out, self.actor);
        if let Some(details) = self.details {
            out.push_str(",\"details\":");
            out.push_str(details);
        }
        if let Some(key) = self.key_id {
            out.push_str(",\"keyId\":\"");
            key.write_to(out);
            out.push('"');
        }
        if let Some(version) = self.key_version {
            out.push_str(",\"keyVersion\":");
            write_decimal(out, u64::from(version));
        }
        if let Some(request) = self.request_id {
            out.push_str(",\"requestId\":");
            write_string(out, request);
        }
        out.push_str(",\"role\":");
        write_string(out, self.role);
        out.push_str(",\"status\":");
        write_string(out, self.status);
        out.push('}');
    }

    /// The SHA-256 of the body after its domain separator.
    pub fn digest(&self) -> [u8; 32] {
        let mut text = String::with_capacity(320 + self.details.map_or(0, str::len));
        self.digest_with(&mut text)
    }

    /// Like [`digest`](Self::digest), with a reusable buffer.
    pub fn digest_with(&self, buffer: &mut String) -> [u8; 32] {
        buffer.clear();
        buffer.push_str("kms-audit-body/v2\0");
        self.write_canonical(buffer);
        Sha256::digest(buffer.as_bytes()).into()
    }
}

/// The hash of a record: the RFC 6962 leaf hash of its header.
pub fn record_hash(log: LogId, seq: u64, timestamp: Timestamp, prev: &[u8; 32], body_digest: &[u8; 32]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([0]);
    hash.update(b"kms-audit/v2\0");
    hash.update(log.as_bytes());
    hash.update(seq.to_be_bytes());
    hash.update(timestamp.micros().to_be_bytes());
    hash.update(prev);
    hash.update(body_digest);
    hash.finalize().into()
}

/// The identifier of the record with this hash: the first 16 bytes of the hash as a UUID of version 8 (RFC 9562).
pub fn record_id(hash: &[u8; 32]) -> RecordId {
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    id[6] = id[6] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    RecordId::from_bytes(id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::audit::hex;

    #[test]
    fn the_body_is_canonical() {
        let body = Body {
            actor: "al\"ice\n",
            role: "app",
            action: "ENCRYPT",
            status: "SUCCESS",
            request_id: Some("r-1"),
            key_id: Some(KeyId::from_bytes([2; 16])),
            key_version: Some(3),
            details: Some("{\"a\":1,\"b\":[]}"),
        };
        let mut text = String::new();
        body.write_canonical(&mut text);
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(crate::audit::canonical::canonical(&parsed).unwrap(), text);
        // Computed with Python's hashlib.
        assert_eq!(hex(&body.digest()), "55feb579109a00fce1eaca9fa1be322f046ccfe749b74aa58e5875f877ecf9ea");
        let mut bare = String::new();
        Body { request_id: None, key_id: None, key_version: None, details: None, ..body }.write_canonical(&mut bare);
        let parsed: serde_json::Value = serde_json::from_str(&bare).unwrap();
        assert_eq!(parsed.as_object().unwrap().len(), 4);
        assert_eq!(crate::audit::canonical::canonical(&parsed).unwrap(), bare);
    }

    #[test]
    fn the_hash_is_the_published_formula() {
        // Computed with Python's hashlib from the formula in the format's description.
        let log = LogId::from_bytes([0x11; 16]);
        let time = Timestamp::from_micros(1_700_000_000_000_000);
        let hash = record_hash(log, 7, time, &[0x22; 32], &[0x33; 32]);
        assert_eq!(hex(&hash), "d35f443d50961d738bbbae829d003a60f21dd6b5c7f01265db2ec8672d060068");
    }
}
