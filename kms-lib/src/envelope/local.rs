//! A local root key: 32 bytes in this process, given or derived from a passphrase.

use std::sync::Arc;
use std::time::Instant;

use argon2::{Algorithm, Argon2, Params, Version};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::calls::{Calls, RootKeyOperation};
use super::local_source::{Form, RootKeySource};
use super::{Binding, FORMAT, HEADER, RootKey, RootKeyFuture};
use crate::crypto::provider::{Aead, NONCE, Provider, TAG};
use crate::types::error::{Error, ErrorCode, Result};

/// The provider byte of material that a local root key wrapped.
const PROVIDER: u8 = 1;
/// Argon2id costs of new stores: 64 MiB, 3 passes, 1 lane (the second recommendation of RFC 9106, with one lane).
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
/// Largest costs that are accepted from a stored row, so that an attacker with write access cannot exhaust the machine.
const MEMORY_KIB_MAX: u32 = 1024 * 1024;
const PASSES_MAX: u32 = 16;

/// The derivation of a root key from the configured secret. Stored with the check value; not secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Derivation {
    /// No derivation: the secret is the 32 bytes of the key, or the key is in AWS KMS.
    None,
    /// Argon2id (RFC 9106) over a passphrase.
    Argon2id {
        /// The random salt of the derivation.
        salt: [u8; 16],
        /// Memory cost, in KiB.
        memory_kib: u32,
        /// Time cost: the number of passes.
        passes: u32,
    },
}

impl Derivation {
    /// The derivation for a new store; `salt` is random.
    pub fn for_new(source: &RootKeySource, salt: [u8; 16]) -> Self {
        match source.form() {
            Form::Key(_) | Form::Aws(_) => Self::None,
            Form::Passphrase(_) => Self::Argon2id { salt, memory_kib: MEMORY_KIB, passes: PASSES },
        }
    }
    /// The stored form: a text and a salt.
    pub fn to_stored(&self) -> (String, Option<[u8; 16]>) {
        match self {
            Self::None => ("none".into(), None),
            Self::Argon2id { salt, memory_kib, passes } => {
                (format!("argon2id:m={memory_kib},t={passes},p=1"), Some(*salt))
            }
        }
    }
    /// Parses the stored form. Fails with `StoreCorrupt` if it is malformed or too costly.
    pub fn from_stored(text: &str, salt: Option<&[u8]>) -> Result<Self> {
        let corrupt = || Error::new(ErrorCode::StoreCorrupt, "the stored derivation of the root key is malformed");
        if text == "none" {
            return Ok(Self::None);
        }
        let costs = text.strip_prefix("argon2id:m=").and_then(|rest| rest.strip_suffix(",p=1")).ok_or_else(corrupt)?;
        let (memory, passes) = costs.split_once(",t=").ok_or_else(corrupt)?;
        let memory_kib: u32 = memory.parse().map_err(|_| corrupt())?;
        let passes: u32 = passes.parse().map_err(|_| corrupt())?;
        if !(8..=MEMORY_KIB_MAX).contains(&memory_kib) || !(1..=PASSES_MAX).contains(&passes) {
            return Err(corrupt());
        }
        let salt = salt.and_then(|salt| salt.try_into().ok()).ok_or_else(corrupt)?;
        Ok(Self::Argon2id { salt, memory_kib, passes })
    }
}

/// A root key in memory. It wraps with AES-256-GCM under a key that is derived from it (HKDF, RFC 5869).
pub struct LocalRootKey {
    generation: u32,
    provider: Arc<dyn Provider>,
    aead: Box<dyn Aead>,
    calls: Calls,
}

impl LocalRootKey {
    /// Makes the root key of a source. A passphrase takes about 100 ms, so call it off the async threads. Fails with
    /// `WrongRootKey` if the source is a passphrase but the store was created with 32 bytes, or the other way round.
    pub fn new(
        provider: Arc<dyn Provider>,
        source: &RootKeySource,
        derivation: &Derivation,
        generation: u32,
    ) -> Result<Self> {
        let derived;
        let secret: &[u8] = match (source.form(), derivation) {
            (Form::Key(key), Derivation::None) => key.as_slice(),
            (Form::Passphrase(passphrase), Derivation::Argon2id { salt, memory_kib, passes }) => {
                derived = derive(passphrase, salt, *memory_kib, *passes)?;
                derived.as_slice()
            }
            (Form::Aws(_), _) => return Err(wrong("a local root key, but a key in AWS KMS was given")),
            (Form::Key(_), _) => return Err(wrong("a passphrase, but 32 bytes were given")),
            (Form::Passphrase(_), _) => {
                return Err(wrong(
                    "32 bytes, but a passphrase was given (a key needs a prefix: base64:, hex: or file:)",
                ));
            }
        };
        let mut wrapping = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(None, secret)
            .expand(b"kms-root-wrap/v1", wrapping.as_mut_slice())
            .map_err(|_| Error::new(ErrorCode::Internal, "the wrapping key could not be derived"))?;
        Ok(Self { generation, aead: provider.aes(&wrapping)?, provider, calls: Calls::default() })
    }

    fn wrap_now(&self, binding: &Binding, plaintext: &[u8]) -> Result<Vec<u8>> {
        let mut nonce = [0; NONCE];
        self.provider.random(&mut nonce)?;
        let mut out = Vec::with_capacity(HEADER + NONCE + plaintext.len() + TAG);
        out.extend_from_slice(&[FORMAT, PROVIDER]);
        out.extend_from_slice(&self.generation.to_be_bytes());
        out.extend_from_slice(&nonce);
        let offset = out.len();
        out.extend_from_slice(plaintext);
        self.aead.seal(&nonce, &binding.additional_data(self.generation), &mut out, offset)?;
        Ok(out)
    }

    fn unwrap_now(&self, binding: &Binding, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let damaged =
            || Error::new(ErrorCode::IntegrityFailure, "the wrapped material was altered, or belongs to another row");
        let body = wrapped.get(HEADER..).ok_or_else(damaged)?;
        let (nonce, sealed) = body.split_first_chunk::<NONCE>().ok_or_else(damaged)?;
        if wrapped[0] != FORMAT || wrapped[1] != PROVIDER {
            return Err(damaged());
        }
        self.aead.open(nonce, &binding.additional_data(self.generation), sealed).map_err(|_| damaged())
    }
}

impl RootKey for LocalRootKey {
    fn generation(&self) -> u32 {
        self.generation
    }
    fn calls(&self) -> Option<&Calls> {
        Some(&self.calls)
    }
    fn wrap<'a>(&'a self, binding: &'a Binding, plaintext: &'a [u8]) -> RootKeyFuture<'a, Vec<u8>> {
        let began = Instant::now();
        let wrapped = self.wrap_now(binding, plaintext);
        self.calls.count(RootKeyOperation::Wrap, began, &wrapped);
        Box::pin(std::future::ready(wrapped))
    }
    fn unwrap<'a>(&'a self, binding: &'a Binding, wrapped: &'a [u8]) -> RootKeyFuture<'a, Zeroizing<Vec<u8>>> {
        let began = Instant::now();
        let plaintext = self.unwrap_now(binding, wrapped);
        self.calls.count(RootKeyOperation::Unwrap, began, &plaintext);
        Box::pin(std::future::ready(plaintext))
    }
}

fn derive(passphrase: &str, salt: &[u8; 16], memory_kib: u32, passes: u32) -> Result<Zeroizing<[u8; 32]>> {
    let failed = |_| Error::new(ErrorCode::Internal, "the passphrase could not be derived into a key");
    let params = Params::new(memory_kib, passes, 1, Some(32)).map_err(failed)?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, key.as_mut_slice())
        .map_err(failed)?;
    Ok(key)
}

fn wrong(why: &str) -> Error {
    Error::new(ErrorCode::WrongRootKey, format!("this store was created with {why}"))
}
