//! Signing and checking the head of the log.

use std::sync::Arc;

use crate::audit::checkpoint::{self, Checkpoint};
use crate::audit::tree::Frontier;
use crate::crypto::provider::{Ed25519, Provider};
use crate::types::audit::Head;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::LogId;

/// Signs heads with the log's key (Ed25519, RFC 8032), and checks the signatures of others that have it.
pub struct Signer {
    origin: String,
    key: Box<dyn Ed25519>,
    provider: Arc<dyn Provider>,
}

impl Signer {
    /// The signer of a log.
    pub fn new(log: LogId, key: Box<dyn Ed25519>, provider: Arc<dyn Provider>) -> Self {
        Self { origin: checkpoint::origin(log), key, provider }
    }
    /// The public key in the form verifiers pin (C2SP signed note).
    pub fn verifier_key(&self) -> String {
        checkpoint::verifier_key(&self.origin, &self.key.public_key())
    }
    /// The public key.
    pub fn public_key(&self) -> [u8; 32] {
        self.key.public_key()
    }
    /// The name of the log and of its key.
    pub fn origin(&self) -> &str {
        &self.origin
    }
    /// Signs the head: its checkpoint becomes a note over its size and root.
    pub fn sign(&self, head: &mut Head) -> Result<()> {
        let root = Frontier::from_parts(head.seq, head.frontier.clone())?.root();
        let body = Checkpoint { origin: self.origin.clone(), size: head.seq, root, revision: Some(head.revision) };
        head.checkpoint =
            checkpoint::sign(&body, &self.origin, &self.key.public_key(), &|message| self.key.sign(message));
        Ok(())
    }
    /// Whether the head carries our signature over its size and the root of its subtree roots.
    pub fn check(&self, head: &Head) -> Result<()> {
        let root = Frontier::from_parts(head.seq, head.frontier.clone())?.root();
        let signed = self.open(&head.checkpoint)?;
        if signed.origin != self.origin
            || signed.size != head.seq
            || signed.root != root
            || signed.revision != Some(head.revision)
        {
            return Err(Error::new(ErrorCode::IntegrityFailure, "the head of the log is not the one that was signed"));
        }
        Ok(())
    }
    /// What a note of this log says, if our key signed it.
    pub fn open(&self, note: &str) -> Result<Checkpoint> {
        checkpoint::open(note, &self.origin, &self.key.public_key(), &|key, message, signature| {
            self.provider.ed25519_verify(key, message, signature)
        })
    }
}
