//! Unwrapping the key material of Mini KMS on Node, which its own root key or AWS KMS wrapped.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::source::{ImportSource, SourceVersion};
use crate::crypto::private_der;
use crate::crypto::provider::{NONCE, Provider, TAG};
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::key::KeyType;
use crate::workers::{Length, Workers};

/// The length of an AES-256 key in bytes.
const AES_KEY: usize = 32;

/// Unwraps the source's key material.
pub struct Opener {
    root: Option<Zeroizing<[u8; 32]>>,
    provider: Arc<dyn Provider>,
    workers: Workers,
    principal: String,
    #[cfg(feature = "aws-kms")]
    aws: crate::envelope::ForeignKeys,
}

/// The version that material belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Of {
    /// The key that the material belongs to.
    pub key: KeyId,
    /// The type of the key.
    pub key_type: KeyType,
    /// The number of the version.
    pub version: u32,
}

/// Material in the form in which this store keeps it.
pub struct OpenedMaterial {
    /// The secret: 32 bytes, or PKCS#8 in DER.
    pub secret: Zeroizing<Vec<u8>>,
    /// The SubjectPublicKeyInfo in PEM, derived from the private key.
    pub public_key_pem: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrappedJson {
    algorithm: String,
    iv: Option<String>,
    ciphertext: String,
    auth_tag: Option<String>,
    encryption_context: Option<BTreeMap<String, String>>,
    metadata: Option<WrappedMetadata>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrappedMetadata {
    key_id: Option<String>,
}

impl Opener {
    /// An opener for a source, which works on behalf of a principal.
    pub fn new(from: &ImportSource, provider: &Arc<dyn Provider>, workers: &Workers, principal: &str) -> Self {
        Self {
            root: from.root().map(|root| Zeroizing::new(*root)),
            provider: Arc::clone(provider),
            workers: workers.clone(),
            principal: principal.to_owned(),
            #[cfg(feature = "aws-kms")]
            aws: crate::envelope::ForeignKeys::new(from.aws_settings().cloned(), from.aws_keys().to_vec()),
        }
    }

    /// Whether material was wrapped by the original's own root key, so that it can be used to check the master secret.
    pub fn is_local(version: &SourceVersion) -> bool {
        serde_json::from_str::<WrappedJson>(&version.wrapped_material).is_ok_and(|it| it.algorithm == "AES-256-GCM")
    }

    /// The secret of a version for comparison, if the original's own root key wrapped it. None if AWS KMS would be
    /// needed.
    pub fn reopen(&self, of: Of, version: &SourceVersion) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let wrapped = wrapping_of(of, version)?;
        if wrapped.algorithm != "AES-256-GCM" {
            return Ok(None);
        }
        let plaintext = self.open_locally(&wrapped)?;
        match of.key_type {
            KeyType::Aes256Gcm => Ok(Some(plaintext)),
            KeyType::Rsa2048 => der_of(&plaintext).map(Some),
        }
    }

    /// Opens the material of a version. `RootKeyUnavailable` if AWS KMS does not respond, and `RootKeyRefused` if it
    /// refuses or the key is not allowed.
    pub async fn open(&self, of: Of, version: &SourceVersion) -> Result<OpenedMaterial> {
        let wrapped = wrapping_of(of, version)?;
        let plaintext = match wrapped.algorithm.as_str() {
            "AES-256-GCM" => self.open_locally(&wrapped)?,
            "AWS-KMS" => self.open_remotely(&wrapped, context_of(of)).await?,
            other => return Err(damaged(&format!("is wrapped with an unknown algorithm, {other:?}"))),
        };
        match of.key_type {
            KeyType::Aes256Gcm if plaintext.len() == AES_KEY => {
                Ok(OpenedMaterial { secret: plaintext, public_key_pem: None })
            }
            KeyType::Aes256Gcm => Err(damaged("has the wrong length")),
            KeyType::Rsa2048 => self.read_rsa(plaintext).await,
        }
    }

    fn open_locally(&self, wrapped: &WrappedJson) -> Result<Zeroizing<Vec<u8>>> {
        let root = self.root.as_ref().ok_or_else(no_secret)?;
        let part =
            |text: Option<&str>| STANDARD.decode(text.unwrap_or_default()).map_err(|_| damaged("is not valid base64"));
        let (iv, tag) = (part(wrapped.iv.as_deref())?, part(wrapped.auth_tag.as_deref())?);
        let nonce: [u8; NONCE] = iv.try_into().map_err(|_| damaged("has no nonce of 12 bytes"))?;
        let tag: [u8; TAG] = tag.try_into().map_err(|_| damaged("has no tag of 16 bytes"))?;
        let sealed = [part(Some(&wrapped.ciphertext))?.as_slice(), &tag].concat();
        let opened = self.provider.aes(root)?.open(&nonce, &[], &sealed);
        opened.map_err(|_| damaged("does not open with the master secret"))
    }

    #[cfg(feature = "aws-kms")]
    async fn open_remotely(&self, wrapped: &WrappedJson, context: Context) -> Result<Zeroizing<Vec<u8>>> {
        let key = wrapped.metadata.as_ref().and_then(|metadata| metadata.key_id.as_deref());
        let key = key.ok_or_else(|| damaged("does not name its key in AWS KMS"))?;
        let ciphertext = STANDARD.decode(&wrapped.ciphertext).map_err(|_| damaged("is not valid base64"))?;
        self.aws.decrypt(key, context, &ciphertext).await
    }

    #[cfg(not(feature = "aws-kms"))]
    async fn open_remotely(&self, wrapped: &WrappedJson, _: Context) -> Result<Zeroizing<Vec<u8>>> {
        let key = wrapped.metadata.as_ref().and_then(|metadata| metadata.key_id.as_deref()).unwrap_or("a key");
        let text = format!("the material is wrapped by {key} in AWS KMS; build this program with the feature aws-kms");
        Err(Error::new(ErrorCode::InvalidConfiguration, text))
    }

    async fn read_rsa(&self, pem: Zeroizing<Vec<u8>>) -> Result<OpenedMaterial> {
        let provider = Arc::clone(&self.provider);
        let read = move || {
            let secret = der_of(&pem)?;
            let public_key_pem = Some(provider.rsa_private(&secret)?.public_pem()?);
            Ok(OpenedMaterial { secret, public_key_pem })
        };
        self.workers.run(&self.principal, Length::Short, read).await
    }
}

type Context = Vec<(String, String)>;

/// Parses the wrapping of a version's material; fails if it was wrapped for another version.
fn wrapping_of(of: Of, version: &SourceVersion) -> Result<WrappedJson> {
    let wrapped: WrappedJson =
        serde_json::from_str(&version.wrapped_material).map_err(|_| damaged("is not JSON of the expected form"))?;
    if wrapped.encryption_context.as_ref().is_some_and(|named| *named != BTreeMap::from_iter(context_of(of))) {
        return Err(damaged("was wrapped for another key, version or type"));
    }
    Ok(wrapped)
}

/// Converts a private key from PEM to DER.
fn der_of(pem: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    private_der(std::str::from_utf8(pem).map_err(|_| damaged("is not a private key in PEM"))?)
}

/// The encryption context that the original binds the material of a version to.
fn context_of(of: Of) -> Context {
    let Of { key, key_type, version } = of;
    let entries =
        [("keyId", key.to_string()), ("version", version.to_string()), ("type", key_type.as_str().to_owned())];
    entries.map(|(name, value)| (name.to_owned(), value)).into()
}

/// The error for material wrapped under a master secret that was not given.
pub fn no_secret() -> Error {
    let text = "the source's key material is wrapped under its master secret, which was not given: the original's \
                KMS_MASTER_KEY is needed";
    Error::new(ErrorCode::InvalidRootKey, text)
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorCode::IntegrityFailure, format!("the wrapped material {what}"))
}
