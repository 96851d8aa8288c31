//! Single cryptographic operations: encrypt, decrypt, sign, verify, data keys and re-encryption.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::imported::ImportedCiphertext;
use super::item::{Item, Target, share};
use super::items::{DecryptItem, ReencryptItem};
use super::job::Job;
use super::operate::only;
use super::results::{
    DataKey, Decrypted, Encrypted, Reencrypted, Signature, SignatureCheck, decrypted, encrypted, signature,
    verification,
};
use super::{KeyRef, Session};
use crate::crypto::ciphertext::Ciphertext;
use crate::crypto::provider::SignatureAlgorithm;
use crate::types::audit::Action;
use crate::types::context::Context;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::key::KeyType;
use crate::types::limits::{DATA_KEY_BYTES, PAYLOAD_BYTES, PLAINTEXT_BYTES};

impl Session {
    /// Encrypts up to 64 MiB (RSA: 190 bytes) under the key's current version, bound to `context`.
    ///
    /// Cancellation: before the operation is submitted, dropping the future does nothing; afterwards the operation is
    /// recorded and its result is lost.
    pub async fn encrypt(&self, key: impl Into<KeyRef>, plaintext: &[u8], context: &Context) -> Result<Encrypted> {
        check_plaintext(plaintext)?;
        context.check()?;
        let context = share(context);
        let item = Item::new(Target::Current(key.into()), Job::Encrypt(plaintext, &context));
        only(self.operate(Action::Encrypt, &[item], false).await?).map(encrypted)
    }

    /// Decrypts what [`Session::encrypt`] made; `context` must be the same. The ciphertext names its key and version.
    ///
    /// Cancellation: before the operation is submitted, dropping the future does nothing; afterwards the operation is
    /// recorded and its result is lost.
    pub async fn decrypt(&self, ciphertext: &[u8], context: &Context) -> Result<Decrypted> {
        self.decrypt_item(DecryptItem::new(ciphertext, context.clone())).await
    }

    /// Decrypts a ciphertext of this key; refuses that of another key with `InvalidCiphertext`.
    ///
    /// Cancellation: before the operation is submitted, dropping the future does nothing; afterwards the operation is
    /// recorded and its result is lost.
    pub async fn decrypt_with(
        &self,
        key: impl Into<KeyRef>,
        ciphertext: &[u8],
        context: &Context,
    ) -> Result<Decrypted> {
        self.decrypt_item(DecryptItem::new(ciphertext, context.clone()).key(key)).await
    }

    /// Decrypts a ciphertext and checks every value given with it; or decrypts an imported one
    /// ([`DecryptItem::imported`]).
    ///
    /// Cancellation: before the operation is submitted, dropping the future does nothing; afterwards the operation is
    /// recorded and its result is lost.
    pub async fn decrypt_item(&self, item: DecryptItem<'_>) -> Result<Decrypted> {
        item.context.check()?;
        let inputs = DecryptInputs::of(&item)?;
        let item = decryption(&item, &inputs)?;
        only(self.operate(Action::Decrypt, &[item], false).await?).map(decrypted)
    }

    /// Decrypts a ciphertext that another tool made with a version's public key: RSA-OAEP with SHA-256, without a
    /// label. Grants with a condition on the context do not allow this.
    ///
    /// Cancellation: before the operation is submitted, dropping the future does nothing; afterwards the operation is
    /// recorded and its result is lost.
    pub async fn decrypt_oaep(&self, key: impl Into<KeyRef>, version: u32, ciphertext: &[u8]) -> Result<Decrypted> {
        let item = Item::rsa(Target::Version(key.into(), version), Job::DecryptOaep(ciphertext));
        only(self.operate(Action::Decrypt, &[item], false).await?).map(decrypted)
    }

    /// Signs with the key's current version: RSASSA-PKCS1-v1_5 or PSS, with SHA-256.
    ///
    /// Cancellation: before the operation is submitted, dropping the future does nothing; afterwards the operation is
    /// recorded and its result is lost.
    pub async fn sign(
        &self,
        key: impl Into<KeyRef>,
        payload: &[u8],
        algorithm: SignatureAlgorithm,
    ) -> Result<Signature> {
        check_payload(payload)?;
        let item = Item::rsa(Target::Current(key.into()), Job::Sign(payload, algorithm));
        only(self.operate(Action::Sign, &[item], false).await?).map(signature)
    }

    /// Signs with this version, which must be the current one (`VersionNotCurrent`).
    ///
    /// Cancellation: before the operation is submitted, dropping the future does nothing; afterwards the operation is
    /// recorded and its result is lost.
    pub async fn sign_with_version(
        &self,
        key: impl Into<KeyRef>,
        version: u32,
        payload: &[u8],
        algorithm: SignatureAlgorithm,
    ) -> Result<Signature> {
        check_payload(payload)?;
        let item = Item::rsa(Target::Version(key.into(), version), Job::Sign(payload, algorithm));
        only(self.operate(Action::Sign, &[item], false).await?).map(signature)
    }

    /// Verifies a signature with the public key; no root key is needed. Without a version, the usable versions are
    /// tried, newest first, at most [`VERSIONS_TRIED`](crate::limits::VERSIONS_TRIED). If the key has more and none of
    /// those tried made the signature, the call fails with `InvalidArgument`; name the version then.
    ///
    /// Cancellation: before the operation is submitted, dropping the future does nothing; afterwards the operation is
    /// recorded and its result is lost.
    pub async fn verify(
        &self,
        key: impl Into<KeyRef>,
        payload: &[u8],
        signature: &[u8],
        algorithm: SignatureAlgorithm,
        version: Option<u32>,
    ) -> Result<SignatureCheck> {
        check_payload(payload)?;
        let item = verify_item(key.into(), payload, signature, algorithm, version);
        only(self.operate(Action::Verify, &[item], false).await?).map(verification)
    }

    /// Generates a data key of 1 to 1,024 bytes, and encrypts it under the key.
    ///
    /// Cancellation: before the operation is submitted, dropping the future does nothing; afterwards the operation is
    /// recorded and its result is lost.
    pub async fn generate_data_key(&self, key: impl Into<KeyRef>, bytes: usize, context: &Context) -> Result<DataKey> {
        let (plaintext, encrypted) = self.data_key(key.into(), bytes, context, true).await?;
        let Encrypted { ciphertext, key, version, receipt, .. } = encrypted;
        Ok(DataKey { plaintext: Some(plaintext), ciphertext, key, version, receipt })
    }

    /// Generates a data key and returns only its ciphertext, for a caller that stores it for another to decrypt.
    ///
    /// Cancellation: before the operation is submitted, dropping the future does nothing; afterwards the operation is
    /// recorded and its result is lost.
    pub async fn generate_data_key_without_plaintext(
        &self,
        key: impl Into<KeyRef>,
        bytes: usize,
        context: &Context,
    ) -> Result<DataKey> {
        let (_, encrypted) = self.data_key(key.into(), bytes, context, false).await?;
        let Encrypted { ciphertext, key, version, receipt, .. } = encrypted;
        Ok(DataKey { plaintext: None, ciphertext, key, version, receipt })
    }

    async fn data_key(
        &self,
        key: KeyRef,
        bytes: usize,
        context: &Context,
        is_returned: bool,
    ) -> Result<(Zeroizing<Vec<u8>>, Encrypted)> {
        if bytes == 0 || bytes > DATA_KEY_BYTES {
            return Err(Error::invalid(format!("a data key has 1 to {DATA_KEY_BYTES} bytes, not {bytes}")));
        }
        context.check()?;
        let mut plaintext = Zeroizing::new(vec![0; bytes]);
        self.shared.provider.random(&mut plaintext)?;
        let context = share(context);
        let item = Item::new(Target::Current(key), Job::Encrypt(&plaintext, &context));
        let item = Item { data_key: Some(is_returned), ..item };
        let done = only(self.operate(Action::GenerateDataKey, &[item], false).await?)?;
        Ok((plaintext, encrypted(done)))
    }

    /// Encrypts the plaintext of a ciphertext again, under the current version of its key or of another key. The
    /// plaintext is not returned. Needs `decrypt` on the source and `encrypt` on the destination.
    ///
    /// Cancellation: before the operation is submitted, dropping the future does nothing; afterwards the operation is
    /// recorded and its result is lost.
    pub async fn reencrypt(&self, item: ReencryptItem<'_>) -> Result<Reencrypted> {
        only(self.reencrypt_batch(&[item]).await?)
    }
}

pub(super) fn verify_item<'a>(
    key: KeyRef,
    payload: &'a [u8],
    signature: &'a [u8],
    algorithm: SignatureAlgorithm,
    version: Option<u32>,
) -> Item<'a> {
    let target = match version {
        Some(version) => Target::Version(key, version),
        None => Target::AnyUsable(key),
    };
    Item::rsa(target, Job::Verify(payload, signature, algorithm))
}

/// The values that a caller gives with a ciphertext, in the form that decryption needs.
pub(super) struct DecryptInputs {
    context: Arc<Context>,
    /// A ciphertext of Mini KMS on Node with a nonce and a tag; none for every other one.
    imported: Option<Arc<ImportedCiphertext>>,
}

impl DecryptInputs {
    pub fn of(item: &DecryptItem<'_>) -> Result<Self> {
        let is_whole = item.is_imported && (item.iv.is_some() || item.auth_tag.is_some());
        let imported = if is_whole { Some(Arc::new(ImportedCiphertext::of(item)?)) } else { None };
        Ok(Self { context: share(&item.context), imported })
    }
}

pub(super) fn decryption<'a>(item: &DecryptItem<'a>, inputs: &'a DecryptInputs) -> Result<Item<'a>> {
    if item.is_imported {
        return imported(item, inputs);
    }
    let Some(version) = item.oaep_version else {
        return Ok(Item::new(sealed(item), Job::Decrypt(item.ciphertext, &inputs.context)));
    };
    let is_alone = item.context.is_empty()
        && item.iv.is_none()
        && item.auth_tag.is_none()
        && item.version.is_none_or(|named| named == version);
    match &item.key {
        Some(key) if is_alone => {
            Ok(Item::rsa(Target::Version(key.clone(), version), Job::DecryptOaep(item.ciphertext)))
        }
        _ => Err(Error::invalid("raw RSA-OAEP needs a key and one version, and accepts no context, nonce or tag")),
    }
}

/// A ciphertext of Mini KMS on Node. Without nonce and tag it belongs to an RSA key, which binds no additional data.
fn imported<'a>(item: &DecryptItem<'a>, inputs: &'a DecryptInputs) -> Result<Item<'a>> {
    let Some(key) = item.key.clone().filter(|_| item.context.is_empty() && item.oaep_version.is_none()) else {
        let text = "an imported ciphertext needs a named key, and takes additional data as JSON instead of a context";
        return Err(Error::invalid(text));
    };
    let target = Target::Imported(key, item.version);
    Ok(match &inputs.imported {
        // Only AES binds the additional data, and with it a context that grants may require.
        Some(imported) => {
            let item = Item::new(target, Job::DecryptImported(imported));
            Item { key_type: Some(KeyType::Aes256Gcm), ..item }
        }
        None => Item::rsa(target, Job::DecryptOaep(item.ciphertext)),
    })
}

/// Compares the parts of a ciphertext with the values given with it. The key is compared when the item is decided.
fn sealed(item: &DecryptItem<'_>) -> Target {
    let read = Ciphertext::parse(item.ciphertext).and_then(|blob| {
        let (nonce, tag) = (blob.iv(), blob.auth_tag());
        let parts = [("iv", item.iv, nonce), ("authTag", item.auth_tag, tag)];
        if item.version.is_some_and(|version| version != blob.version) {
            return Err(disagrees("version"));
        }
        match parts.into_iter().find(|(_, passed, held)| passed.is_some_and(|passed| passed != *held)) {
            Some((what, ..)) => Err(disagrees(what)),
            None => Ok((blob.key, blob.version)),
        }
    });
    Target::Sealed(read, item.key.clone())
}

fn disagrees(field: &str) -> Error {
    Error::new(ErrorCode::InvalidCiphertext, format!("{field}: differs from the value in the ciphertext"))
}

pub(super) fn check_plaintext(plaintext: &[u8]) -> Result<()> {
    if plaintext.len() > PLAINTEXT_BYTES {
        return Err(Error::new(
            ErrorCode::PlaintextTooLong,
            format!(
                "the plaintext has {} bytes, and a message at most {PLAINTEXT_BYTES}; use a stream",
                plaintext.len()
            ),
        ));
    }
    Ok(())
}

pub(super) fn check_payload(payload: &[u8]) -> Result<()> {
    if payload.len() > PAYLOAD_BYTES {
        let text = format!("the payload has {} bytes; at most {PAYLOAD_BYTES} are allowed", payload.len());
        return Err(Error::invalid(text));
    }
    Ok(())
}
