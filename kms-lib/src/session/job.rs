//! The work of one cryptographic operation, independent of whether it is permitted.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::call_scratch::CallScratch;
use super::imported::ImportedCiphertext;
use crate::catalog::ReadyKey;
use crate::crypto::ciphertext::{self, Ciphertext};
use crate::crypto::nonces::Nonces;
use crate::crypto::provider::{NONCE, Provider, SignatureAlgorithm, TAG};
use crate::types::context::Context;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::key::MaterialId;
use crate::types::limits::RSA_PLAINTEXT_BYTES;
use crate::workers::Length;

/// Work above this size leaves the async threads: 64 KiB of plaintext plus the overhead of a ciphertext.
const INLINE_BYTES: usize = 64 * 1024 + ciphertext::HEADER + NONCE + TAG;
/// Above this size, encrypting or decrypting one message takes long, since it cannot be split.
const LONG_BYTES: usize = 4 * 1024 * 1024;
/// A payload is hashed in pieces of this size, between which other tasks can run.
const HASHED_BYTES: usize = 64 * 1024;

/// The operation to perform with a ready key.
#[derive(Clone, Copy)]
pub(super) enum Job<'a> {
    /// Encrypt this plaintext under this context.
    Encrypt(&'a [u8], &'a Arc<Context>),
    /// Decrypt this ciphertext under this context.
    Decrypt(&'a [u8], &'a Arc<Context>),
    /// Decrypt this ciphertext of Mini KMS on Node.
    DecryptImported(&'a Arc<ImportedCiphertext>),
    /// Decrypt a ciphertext that another tool made with the public key (RSA-OAEP without a label).
    DecryptOaep(&'a [u8]),
    /// Sign this payload.
    Sign(&'a [u8], SignatureAlgorithm),
    /// Verify this signature: payload, signature, algorithm.
    Verify(&'a [u8], &'a [u8], SignatureAlgorithm),
}

/// The result of an operation.
pub(super) enum Product {
    /// A ciphertext, a plaintext or a signature.
    Bytes(Zeroizing<Vec<u8>>),
    /// Whether the signature is valid.
    Valid(bool),
}

impl Product {
    /// Takes the bytes; empty for a verification.
    pub fn into_bytes(self) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Valid(_) => Zeroizing::default(),
        }
    }
}

/// Work of about half a millisecond, for the computing threads.
pub(super) type Compute = Box<dyn FnOnce() -> Result<Product> + Send>;

/// The state of a job after its part on the caller's task.
pub(super) enum Step {
    Done(Product),
    Left(Compute),
}

impl Job<'_> {
    /// The context that the operation binds.
    pub fn context(&self) -> Option<&Arc<Context>> {
        match self {
            Self::Encrypt(_, context) | Self::Decrypt(_, context) => Some(context),
            Self::DecryptImported(imported) => imported.context(),
            Self::DecryptOaep(_) | Self::Sign(..) | Self::Verify(..) => None,
        }
    }
    /// The approximate number of bytes to process.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Encrypt(input, _) | Self::Decrypt(input, _) | Self::DecryptOaep(input) | Self::Sign(input, _) => {
                input.len()
            }
            Self::Verify(input, ..) => input.len(),
            Self::DecryptImported(imported) => imported.bytes(),
        }
    }

    /// The approximate number of bytes held: the result, and a copy of an input that goes to another thread.
    pub fn held_bytes(&self) -> usize {
        let is_copied = matches!(self, Self::Encrypt(..) | Self::Decrypt(..)) && self.bytes() > INLINE_BYTES;
        if is_copied { self.bytes().saturating_mul(2) } else { self.bytes() }
    }

    /// Performs quick operations here, and large ones on another thread. Operations with an RSA private key are left
    /// for later.
    pub async fn begin(self, bench: &mut CallScratch<'_>, ready: &Arc<ReadyKey>, id: MaterialId) -> Result<Step> {
        // A public key operation takes about 20 us, a private one twenty times as long.
        let is_private = matches!(ready.as_ref(), ReadyKey::Rsa { .. }) && !matches!(self, Job::Encrypt(..));
        if self.bytes() > INLINE_BYTES && !matches!(self, Job::Sign(..)) {
            let length = if self.bytes() > LONG_BYTES { Length::Long } else { Length::Short };
            let compute = self.owned(bench.provider(), ready, id);
            return bench.run(length, compute).await.map(Step::Done);
        }
        if let (Job::Sign(message, algorithm), true) = (self, is_private) {
            let (digest, ready) = (digest_of(message).await, Arc::clone(ready));
            return Ok(Step::Left(Box::new(move || sign(&ready, algorithm, &digest))));
        }
        if is_private {
            return Ok(Step::Left(self.owned(bench.provider(), ready, id)));
        }
        self.now(&mut bench.nonces, ready, &id).map(Step::Done)
    }

    /// Turns the job into a computation with its own copy of the input, for another thread.
    fn owned(self, provider: &Arc<dyn Provider>, ready: &Arc<ReadyKey>, id: MaterialId) -> Compute {
        let (provider, ready) = (Arc::clone(provider), Arc::clone(ready));
        let copy = |bytes: &[u8]| Zeroizing::new(bytes.to_vec());
        match self {
            Job::Encrypt(input, context) => {
                let (input, context) = (copy(input), Arc::clone(context));
                Box::new(move || Job::Encrypt(&input, &context).alone(provider.as_ref(), &ready, &id))
            }
            Job::Decrypt(input, context) => {
                let (input, context) = (copy(input), Arc::clone(context));
                Box::new(move || Job::Decrypt(&input, &context).alone(provider.as_ref(), &ready, &id))
            }
            Job::DecryptOaep(input) => {
                let input = copy(input);
                Box::new(move || Job::DecryptOaep(&input).alone(provider.as_ref(), &ready, &id))
            }
            Job::DecryptImported(imported) => {
                let imported = Arc::clone(imported);
                Box::new(move || Job::DecryptImported(&imported).alone(provider.as_ref(), &ready, &id))
            }
            Job::Sign(..) | Job::Verify(..) => Box::new(|| Err(wrong_type())),
        }
    }

    fn alone(self, provider: &dyn Provider, ready: &ReadyKey, id: &MaterialId) -> Result<Product> {
        self.now(&mut Nonces::new(provider, 1), ready, id)
    }

    fn now(self, nonces: &mut Nonces<'_>, ready: &ReadyKey, id: &MaterialId) -> Result<Product> {
        let bytes = |bytes: Vec<u8>| Product::Bytes(Zeroizing::new(bytes));
        match (self, ready) {
            (Job::Encrypt(plaintext, context), ReadyKey::Aes(aead)) => {
                ciphertext::seal_with(nonces.next()?, aead.as_ref(), id, context, plaintext).map(bytes)
            }
            (Job::Encrypt(plaintext, context), ReadyKey::Rsa { public, .. }) => {
                if plaintext.len() > RSA_PLAINTEXT_BYTES {
                    return Err(Error::new(
                        ErrorCode::PlaintextTooLong,
                        format!("RSA-2048 encrypts at most {RSA_PLAINTEXT_BYTES} bytes; use a data key for more"),
                    ));
                }
                ciphertext::rsa_seal(public.as_ref(), id, context, plaintext).map(bytes)
            }
            (Job::Decrypt(blob, context), ReadyKey::Aes(aead)) => {
                ciphertext::open(aead.as_ref(), id, &Ciphertext::parse(blob)?, context).map(Product::Bytes)
            }
            (Job::Decrypt(blob, context), ReadyKey::Rsa { private, .. }) => {
                ciphertext::rsa_open(private.as_ref(), id, &Ciphertext::parse(blob)?, context).map(Product::Bytes)
            }
            (Job::DecryptOaep(ciphertext), ReadyKey::Rsa { private, .. }) => {
                private.oaep_decrypt(&[], ciphertext).map(Product::Bytes)
            }
            (Job::DecryptImported(imported), ReadyKey::Aes(aead)) => {
                imported.open(aead.as_ref(), id).map(Product::Bytes)
            }
            // Signatures are made and verified by digest elsewhere.
            (Job::DecryptOaep(_), ReadyKey::Aes(_))
            | (Job::DecryptImported(_), ReadyKey::Rsa { .. })
            | (Job::Sign(..) | Job::Verify(..), _) => Err(wrong_type()),
        }
    }
}

fn sign(ready: &ReadyKey, algorithm: SignatureAlgorithm, digest: &[u8; 32]) -> Result<Product> {
    match ready {
        ReadyKey::Rsa { private, .. } => private.sign_digest(algorithm, digest).map(Zeroizing::new).map(Product::Bytes),
        ReadyKey::Aes(_) => Err(wrong_type()),
    }
}

fn wrong_type() -> Error {
    Error::new(ErrorCode::WrongKeyType, "an AES256_GCM key does not support this operation")
}

/// Returns the SHA-256 of a payload. A large payload is not copied to another thread; it is hashed here in pieces that
/// let other tasks run.
pub(super) async fn digest_of(payload: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for (n, piece) in payload.chunks(HASHED_BYTES).enumerate() {
        if n > 0 {
            tokio::task::yield_now().await;
        }
        hash.update(piece);
    }
    hash.finalize().into()
}
