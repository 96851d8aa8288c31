//! Checkpoints of the log: C2SP tlog-checkpoint in a C2SP signed note, with Ed25519 (RFC 8032).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::types::audit::hex;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::LogId;

/// The signature type of Ed25519 in a signed note.
const ED25519: u8 = 1;
/// The maximum length of a checkpoint. External input is checked against it before it is parsed.
const NOTE_BYTES: usize = 16 * 1024;

/// The size and root of a log at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The name of the log, and of the key that signs it.
    pub origin: String,
    /// The number of records in the log.
    pub size: u64,
    /// The root of the Merkle tree over the records.
    pub root: [u8; 32],
    /// The sequence number of the last change, as an extension line. Because it is signed, an attacker with write
    /// access to the database cannot pretend that nothing has changed.
    pub revision: Option<u64>,
    /// The row commitment at that revision, as an extension line. Because it is signed, an attacker with write access
    /// to the database cannot roll back single rows. Only the service can verify it, since it depends on the root key.
    /// Absent while rows are known to be altered.
    pub rows: Option<[u8; 32]>,
}

impl Checkpoint {
    /// The text that is signed.
    pub fn body(&self) -> String {
        let mut extension = self.revision.map_or_else(String::new, |revision| format!("revision {revision}\n"));
        if let Some(rows) = self.rows {
            extension.push_str(&format!("rows {}\n", STANDARD.encode(rows)));
        }
        format!("{}\n{}\n{}\n{extension}", self.origin, self.size, STANDARD.encode(self.root))
    }
}

/// The name of a log, and of the key that signs it.
pub fn origin(log: LogId) -> String {
    format!("mini-kms/log/{log}")
}

/// The short id by which a note names a key.
pub fn key_id(name: &str, public_key: &[u8; 32]) -> [u8; 4] {
    let mut hash = Sha256::new();
    hash.update(name.as_bytes());
    hash.update([b'\n', ED25519]);
    hash.update(public_key);
    let digest: [u8; 32] = hash.finalize().into();
    [digest[0], digest[1], digest[2], digest[3]]
}

/// Signs a checkpoint; returns the whole note.
pub fn sign(checkpoint: &Checkpoint, name: &str, public_key: &[u8; 32], sign: &dyn Fn(&[u8]) -> [u8; 64]) -> String {
    let body = checkpoint.body();
    let line = signature_line(&body, name, public_key, sign);
    format!("{body}\n{line}")
}

/// The number of signatures on a note, valid or not.
pub fn signatures(note: &str) -> usize {
    note.lines().filter(|line| line.starts_with("\u{2014} ")).count()
}

/// Returns the line of a note that holds one signature over its body. A note may have several.
pub fn signature_line(body: &str, name: &str, public_key: &[u8; 32], sign: &dyn Fn(&[u8]) -> [u8; 64]) -> String {
    let mut signature = key_id(name, public_key).to_vec();
    signature.extend_from_slice(&sign(body.as_bytes()));
    format!("\u{2014} {name} {}\n", STANDARD.encode(signature))
}

/// Parses a note without checking its signatures. Use the result only to choose the key to open it with.
pub fn claimed(note: &str) -> Option<Checkpoint> {
    if note.len() > NOTE_BYTES {
        return None;
    }
    parse_body(&note[..=note.rfind("\n\n")?])
}

/// Checks an Ed25519 signature: public key, message, signature.
pub type Verify<'a> = dyn Fn(&[u8; 32], &[u8], &[u8]) -> bool + 'a;

/// Opens a note and returns its contents if the key of this name signed it. Signatures of other keys are ignored.
pub fn open(note: &str, name: &str, public_key: &[u8; 32], verify: &Verify<'_>) -> Result<Checkpoint> {
    let bad = |why: &str| Error::new(ErrorCode::IntegrityFailure, format!("the checkpoint {why}"));
    if note.len() > NOTE_BYTES {
        return Err(bad("is too long"));
    }
    // The signatures follow the last empty line; the text before keeps its final newline.
    let split = note.rfind("\n\n").ok_or_else(|| bad("has no signature"))?;
    let (body, signatures) = (&note[..=split], &note[split + 2..]);
    let expected = key_id(name, public_key);
    let mut signed = false;
    for line in signatures.strip_suffix('\n').ok_or_else(|| bad("is truncated"))?.split('\n') {
        let fields = line.strip_prefix("\u{2014} ").and_then(|rest| rest.split_once(' '));
        let (signer, encoded) = fields.ok_or_else(|| bad("has a malformed signature line"))?;
        let decoded = STANDARD.decode(encoded).map_err(|_| bad("has a malformed signature"))?;
        let (id, signature) = decoded.split_first_chunk::<4>().ok_or_else(|| bad("has a malformed signature"))?;
        if signer != name || *id != expected {
            continue;
        }
        if signature.len() != 64 || !verify(public_key, body.as_bytes(), signature) {
            return Err(bad("has a signature that does not verify"));
        }
        signed = true;
    }
    if !signed {
        return Err(bad("is not signed by the log's key"));
    }
    parse_body(body).ok_or_else(|| bad("is malformed"))
}

fn parse_body(body: &str) -> Option<Checkpoint> {
    let mut lines = body.split('\n');
    let origin = lines.next().filter(|line| !line.is_empty())?;
    let size_text = lines.next()?;
    let size: u64 = size_text.parse().ok()?;
    // There is only one spelling: no sign, no leading zeros.
    if size.to_string() != size_text {
        return None;
    }
    let root = STANDARD.decode(lines.next()?).ok()?.try_into().ok()?;
    // Extension lines follow. Unknown ones are ignored; each of ours has one spelling and occurs once.
    let (mut revision, mut rows) = (None, None);
    for line in lines {
        if let Some(text) = line.strip_prefix("revision ") {
            let number: u64 = text.parse().ok()?;
            if revision.is_some() || number.to_string() != text {
                return None;
            }
            revision = Some(number);
        } else if let Some(text) = line.strip_prefix("rows ") {
            let value: [u8; 32] = STANDARD.decode(text).ok()?.try_into().ok()?;
            if rows.is_some() {
                return None;
            }
            rows = Some(value);
        }
    }
    Some(Checkpoint { origin: origin.to_owned(), size, root, revision, rows })
}

/// A public key in the form that verifiers are given: name, id and key.
pub fn verifier_key(name: &str, public_key: &[u8; 32]) -> String {
    let mut key = vec![ED25519];
    key.extend_from_slice(public_key);
    format!("{name}+{}+{}", hex(&key_id(name, public_key)), STANDARD.encode(key))
}

/// Parses a public key in that form into its name and the key.
pub fn parse_verifier_key(text: &str) -> Result<(String, [u8; 32])> {
    let bad = || Error::invalid("not a verifier key: name+id+key is expected");
    let mut parts = text.splitn(3, '+');
    let (name, id, key) = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), Some(id), Some(key)) if !name.is_empty() => (name, id, key),
        _ => return Err(bad()),
    };
    let decoded = STANDARD.decode(key).map_err(|_| bad())?;
    let public_key = match decoded.split_first() {
        Some((&ED25519, rest)) => <[u8; 32]>::try_from(rest).map_err(|_| bad())?,
        _ => return Err(bad()),
    };
    if hex(&key_id(name, &public_key)) != id {
        return Err(bad());
    }
    Ok((name.to_owned(), public_key))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::crypto::{CryptoProvider, provider};

    #[test]
    fn signs_and_opens() {
        let provider = provider(CryptoProvider::RustCrypto).unwrap();
        let key = provider.ed25519(&[7; 32]).unwrap();
        let name = origin(LogId::from_bytes([9; 16]));
        let checkpoint =
            Checkpoint { origin: name.clone(), size: 42, root: [5; 32], revision: Some(7), rows: Some([6; 32]) };
        let note = sign(&checkpoint, &name, &key.public_key(), &|message| key.sign(message));
        let verify =
            |key: &[u8; 32], message: &[u8], signature: &[u8]| provider.ed25519_verify(key, message, signature);
        assert_eq!(open(&note, &name, &key.public_key(), &verify).unwrap(), checkpoint);

        // Another key's signature beside ours is ignored; alone it is not enough.
        let other = provider.ed25519(&[8; 32]).unwrap();
        assert!(open(&note, &name, &other.public_key(), &verify).is_err());
        let line = sign(&checkpoint, "witness", &other.public_key(), &|message| other.sign(message));
        let both = format!("{note}{}", line.rsplit_once("\n\n").unwrap().1);
        assert_eq!(open(&both, &name, &key.public_key(), &verify).unwrap(), checkpoint);

        for at in 0..note.len() {
            let mut bytes = note.clone().into_bytes();
            bytes[at] ^= 1;
            if let Ok(text) = String::from_utf8(bytes) {
                assert!(open(&text, &name, &key.public_key(), &verify).is_err(), "flipped at {at}");
            }
            if note.is_char_boundary(at) {
                assert!(open(&note[..at], &name, &key.public_key(), &verify).is_err(), "cut at {at}");
            }
        }
        let (read, public_key) = parse_verifier_key(&verifier_key(&name, &key.public_key())).unwrap();
        assert_eq!((read, public_key), (name, key.public_key()));
        assert!(parse_verifier_key("a+b+c").is_err());
    }

    #[test]
    fn key_ids_are_those_of_the_signed_note() {
        // The example key of https://pkg.go.dev/golang.org/x/mod/sumdb/note.
        let text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let (name, public_key) = parse_verifier_key(text).unwrap();
        assert_eq!(name, "PeterNeumann");
        assert_eq!(verifier_key(&name, &public_key), text);
    }
}
