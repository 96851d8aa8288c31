//! The work of one cryptographic operation, apart from whether it may be done.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::workbench::Workbench;
use crate::catalog::{ReadyKey, run_blocking};
use crate::crypto::ciphertext::{self, Ciphertext};
use crate::crypto::nonces::Nonces;
use crate::crypto::provider::{NONCE, Provider, SignatureAlgorithm, TAG};
use crate::types::context::Context;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::key::MaterialId;
use crate::types::limits::RSA_PLAINTEXT_BYTES;

/// Above this size work leaves the async threads: above 64 KiB of plaintext, with what a ciphertext adds to it.
const INLINE_BYTES: usize = 64 * 1024 + ciphertext::HEADER + NONCE + TAG;

/// What to do with a ready key.
#[derive(Clone, Copy)]
pub(super) enum Job<'a> {
    /// Encrypt this under this context.
    Encrypt(&'a [u8], &'a Arc<Context>),
    /// Decrypt this blob.
    Decrypt(&'a [u8], &'a Arc<Context>),
    /// Decrypt what another tool encrypted with the public key (RSA-OAEP without a label).
    DecryptOaep(&'a [u8]),
    /// Sign this.
    Sign(&'a [u8], SignatureAlgorithm),
    /// Check that signature over this.
    Verify(&'a [u8], &'a [u8], SignatureAlgorithm),
}

/// What came out.
pub(super) enum Product {
    /// A ciphertext, a plaintext or a signature.
    Bytes(Zeroizing<Vec<u8>>),
    /// Whether the signature is good.
    Valid(bool),
}

impl Product {
    /// The bytes. A ciphertext or signature leaves its wiping behind.
    pub fn into_bytes(self) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Valid(_) => Zeroizing::default(),
        }
    }
}

impl Job<'_> {
    /// The context the operation binds.
    pub fn context(&self) -> Option<&Arc<Context>> {
        match self {
            Self::Encrypt(_, context) | Self::Decrypt(_, context) => Some(context),
            Self::DecryptOaep(_) | Self::Sign(..) | Self::Verify(..) => None,
        }
    }
    /// About how many bytes it works on.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Encrypt(input, _) | Self::Decrypt(input, _) | Self::DecryptOaep(input) | Self::Sign(input, _) => {
                input.len()
            }
            Self::Verify(input, ..) => input.len(),
        }
    }

    /// Does it, off the async threads if it takes long.
    pub async fn run(self, bench: &mut Workbench<'_>, ready: &Arc<ReadyKey>, id: MaterialId) -> Result<Product> {
        let quick = match ready.as_ref() {
            ReadyKey::Aes(_) => self.bytes() <= INLINE_BYTES,
            // A public key operation takes some 20 us, a private one ten times as long.
            ReadyKey::Rsa { .. } => matches!(self, Job::Encrypt(..) | Job::Verify(..)) && self.bytes() <= INLINE_BYTES,
        };
        if quick {
            return self.now(&mut bench.nonces, ready, &id);
        }
        let (provider, ready) = (Arc::clone(bench.provider()), Arc::clone(ready));
        let copy = |bytes: &[u8]| Zeroizing::new(bytes.to_vec());
        match self {
            Job::Encrypt(input, context) => {
                let (input, context) = (copy(input), Arc::clone(context));
                run_blocking(move || Job::Encrypt(&input, &context).alone(provider.as_ref(), &ready, &id)).await
            }
            Job::Decrypt(input, context) => {
                let (input, context) = (copy(input), Arc::clone(context));
                run_blocking(move || Job::Decrypt(&input, &context).alone(provider.as_ref(), &ready, &id)).await
            }
            Job::DecryptOaep(input) => {
                let input = copy(input);
                run_blocking(move || Job::DecryptOaep(&input).alone(provider.as_ref(), &ready, &id)).await
            }
            Job::Sign(input, algorithm) => {
                let input = copy(input);
                run_blocking(move || Job::Sign(&input, algorithm).alone(provider.as_ref(), &ready, &id)).await
            }
            Job::Verify(input, signature, algorithm) => {
                let (input, signature) = (copy(input), signature.to_vec());
                run_blocking(move || Job::Verify(&input, &signature, algorithm).alone(provider.as_ref(), &ready, &id))
                    .await
            }
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
            (Job::Sign(message, algorithm), ReadyKey::Rsa { private, .. }) => {
                private.sign(algorithm, message).map(bytes)
            }
            (Job::Verify(message, signature, algorithm), ReadyKey::Rsa { public, .. }) => {
                Ok(Product::Valid(public.verify(algorithm, message, signature)))
            }
            (Job::DecryptOaep(_) | Job::Sign(..) | Job::Verify(..), ReadyKey::Aes(_)) => {
                Err(Error::new(ErrorCode::WrongKeyType, "an AES256_GCM key cannot do this"))
            }
        }
    }
}
