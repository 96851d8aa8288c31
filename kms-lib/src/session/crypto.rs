//! Encrypting, decrypting, signing, verifying, data keys, re-encrypting; one at a time or many in a call.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::imported::ImportedCiphertext;
use super::item::{Done, Item, Target, share};
use super::items::{DecryptItem, EncryptItem, ReencryptItem, SignItem, VerifyItem};
use super::job::{Job, Product};
use super::operate::only;
use super::{KeyRef, Session};
use crate::crypto::ciphertext::Ciphertext;
use crate::crypto::provider::SignatureAlgorithm;
use crate::types::audit::{Action, Receipt};
use crate::types::context::Context;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;
use crate::types::key::KeyType;
use crate::types::limits::{BATCH_ITEMS, DATA_KEY_BYTES, PAYLOAD_BYTES, PLAINTEXT_BYTES};

/// A ciphertext.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Encrypted {
    /// Self-describing: names format, algorithm, key and version.
    pub ciphertext: Vec<u8>,
    /// The key.
    pub key: KeyId,
    /// Its type.
    pub key_type: KeyType,
    /// The version.
    pub version: u32,
    /// Where the operation stands in the log.
    pub receipt: Receipt,
}

/// A plaintext. Wiped when dropped; its `Debug` hides it. It cannot be compared: comparing secrets byte by byte tells
/// by its time where they differ.
#[derive(Clone)]
#[non_exhaustive]
pub struct Decrypted {
    /// What was encrypted.
    pub plaintext: Zeroizing<Vec<u8>>,
    /// The key.
    pub key: KeyId,
    /// The version.
    pub version: u32,
    /// Where the operation stands in the log.
    pub receipt: Receipt,
}

/// A data key: use `plaintext` to encrypt, keep `ciphertext` beside the data, forget `plaintext`. Wiped when dropped;
/// its `Debug` hides the plaintext. It cannot be compared, as [`Decrypted`] cannot.
#[derive(Clone)]
#[non_exhaustive]
pub struct DataKey {
    /// The data key; none if it was not asked for.
    pub plaintext: Option<Zeroizing<Vec<u8>>>,
    /// The data key under the key: `decrypt` gives it back.
    pub ciphertext: Vec<u8>,
    /// The key.
    pub key: KeyId,
    /// The version.
    pub version: u32,
    /// Where the operation stands in the log.
    pub receipt: Receipt,
}

/// A signature.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Signature {
    /// The signature.
    pub signature: Vec<u8>,
    /// The key.
    pub key: KeyId,
    /// The version.
    pub version: u32,
    /// Where the operation stands in the log.
    pub receipt: Receipt,
}

/// Whether a signature is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SignatureCheck {
    /// Whether it is.
    pub valid: bool,
    /// The version whose signature it is; if it is not valid, the newest that was tried.
    pub version: u32,
    /// Where the operation stands in the log.
    pub receipt: Receipt,
}

/// A new ciphertext of what another held.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reencrypted {
    /// The new ciphertext.
    pub encrypted: Encrypted,
    /// The key of the old one.
    pub source_key: KeyId,
    /// The version of the old one.
    pub source_version: u32,
}

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

    /// Decrypts, and refuses (`InvalidCiphertext`) what another key than this one encrypted.
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

    /// Decrypts a ciphertext, with all that must agree with it; or one that was imported ([`DecryptItem::imported`]).
    ///
    /// Cancellation: before the operation is submitted, dropping the future does nothing; afterwards the operation is
    /// recorded and its result is lost.
    pub async fn decrypt_item(&self, item: DecryptItem<'_>) -> Result<Decrypted> {
        item.context.check()?;
        let beside = Beside::of(&item)?;
        let item = decryption(&item, &beside)?;
        only(self.operate(Action::Decrypt, &[item], false).await?).map(decrypted)
    }

    /// Decrypts what another tool encrypted with a version's public key: RSA-OAEP with SHA-256, without a label.
    /// Grants with a condition on the context do not allow it.
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

    /// Verifies a signature, with the public key: no root key is needed. Without a version, the usable ones are tried,
    /// newest first, at most [`VERSIONS_TRIED`](crate::limits::VERSIONS_TRIED). If the key has more and none of these
    /// made the signature, the call fails with `InvalidArgument`: name the version.
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

    /// Generates a data key and gives only its ciphertext: for whoever stores what another will decrypt.
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
            return Err(Error::invalid(format!("a data key has 1 to {DATA_KEY_BYTES} bytes")));
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

    /// Encrypts what a ciphertext holds anew, under the current version of its key or another key. The plaintext
    /// does not leave. Needs `decrypt` on the source and `encrypt` on the destination.
    ///
    /// Cancellation: before the operation is submitted, dropping the future does nothing; afterwards the operation is
    /// recorded and its result is lost.
    pub async fn reencrypt(&self, item: ReencryptItem<'_>) -> Result<Reencrypted> {
        only(self.reencrypt_batch(&[item]).await?)
    }

    /// Encrypts up to 1,000 plaintexts in one call; each fails alone.
    ///
    /// Cancellation: before the operation is submitted, dropping the future does nothing; afterwards the operation is
    /// recorded and its result is lost.
    pub async fn encrypt_batch(&self, items: &[EncryptItem<'_>]) -> Result<Vec<Result<Encrypted>>> {
        check_batch(items.len())?;
        let contexts: Vec<Arc<Context>> = items.iter().map(|item| share(&item.context)).collect();
        let checks = items.iter().map(|item| check_plaintext(item.plaintext).and_then(|()| item.context.check()));
        let prepared: Vec<Result<Item<'_>>> = checks
            .zip(items.iter().zip(&contexts))
            .map(|(check, (item, context))| {
                check.map(|()| Item::new(Target::Current(item.key.clone()), Job::Encrypt(item.plaintext, context)))
            })
            .collect();
        self.operate_checked(Action::Encrypt, prepared, encrypted).await
    }

    /// Decrypts up to 1,000 ciphertexts in one call; each fails alone.
    ///
    /// Cancellation: before the operation is submitted, dropping the future does nothing; afterwards the operation is
    /// recorded and its result is lost.
    pub async fn decrypt_batch(&self, items: &[DecryptItem<'_>]) -> Result<Vec<Result<Decrypted>>> {
        check_batch(items.len())?;
        let beside: Vec<Result<Beside>> = items.iter().map(Beside::of).collect();
        let prepared: Vec<Result<Item<'_>>> = items
            .iter()
            .zip(&beside)
            .map(|(item, beside)| {
                item.context.check()?;
                decryption(item, beside.as_ref().map_err(Error::clone)?)
            })
            .collect();
        self.operate_checked(Action::Decrypt, prepared, decrypted).await
    }

    /// Signs up to 1,000 payloads in one call; each fails alone.
    ///
    /// Cancellation: before the operation is submitted, dropping the future does nothing; afterwards the operation is
    /// recorded and its result is lost.
    pub async fn sign_batch(&self, items: &[SignItem<'_>]) -> Result<Vec<Result<Signature>>> {
        check_batch(items.len())?;
        let prepared: Vec<Result<Item<'_>>> = items
            .iter()
            .map(|item| {
                let target = match item.version {
                    Some(version) => Target::Version(item.key.clone(), version),
                    None => Target::Current(item.key.clone()),
                };
                check_payload(item.payload).map(|()| Item::rsa(target, Job::Sign(item.payload, item.algorithm)))
            })
            .collect();
        self.operate_checked(Action::Sign, prepared, signature).await
    }

    /// Verifies up to 1,000 signatures in one call; each fails alone. Those without a version share the
    /// [`VERSIONS_TRIED`](crate::limits::VERSIONS_TRIED) that one call tries: with 1,000 of them, the newest 10 usable
    /// versions are tried for each, and `InvalidArgument` asks for the version of a signature that none of these made.
    ///
    /// Cancellation: before the operation is submitted, dropping the future does nothing; afterwards the operation is
    /// recorded and its result is lost.
    pub async fn verify_batch(&self, items: &[VerifyItem<'_>]) -> Result<Vec<Result<SignatureCheck>>> {
        check_batch(items.len())?;
        let prepared: Vec<Result<Item<'_>>> = items
            .iter()
            .map(|item| {
                check_payload(item.payload)
                    .map(|()| verify_item(item.key.clone(), item.payload, item.signature, item.algorithm, item.version))
            })
            .collect();
        self.operate_checked(Action::Verify, prepared, verification).await
    }

    /// Encrypts up to 1,000 ciphertexts anew in one call; each fails alone.
    ///
    /// Cancellation: before the operation is submitted, dropping the future does nothing; afterwards the operation is
    /// recorded and its result is lost.
    pub async fn reencrypt_batch(&self, items: &[ReencryptItem<'_>]) -> Result<Vec<Result<Reencrypted>>> {
        check_batch(items.len())?;
        let contexts: Vec<(Arc<Context>, Arc<Context>)> = items
            .iter()
            .map(|item| (share(&item.context), share(item.destination_context.as_ref().unwrap_or(&item.context))))
            .collect();
        let mut pairs = Vec::with_capacity(items.len() * 2);
        let mut checks = Vec::with_capacity(items.len());
        for (item, (source, destination)) in items.iter().zip(&contexts) {
            let check = source.check().and_then(|()| destination.check());
            let is_good = check.is_ok();
            checks.push(check);
            if !is_good {
                continue;
            }
            let blob = Ciphertext::parse(item.ciphertext).map(|blob| (blob.key, blob.version));
            let onto = match (&item.destination, &blob) {
                (Some(key), _) => Target::Current(key.clone()),
                (None, Ok((key, _))) => Target::Current(KeyRef::Id(*key)),
                (None, Err(error)) => Target::Sealed(Err(error.clone()), None),
            };
            pairs.push(Item::new(Target::Sealed(blob, None), Job::Decrypt(item.ciphertext, source)));
            pairs.push(Item::new(onto, Job::Encrypt(&[], destination)));
        }
        let done = if pairs.is_empty() { Vec::new() } else { self.operate(Action::Reencrypt, &pairs, true).await? };
        let mut results = done.into_iter();
        let mut answers = Vec::with_capacity(items.len());
        for check in checks {
            answers.push(check.and_then(|()| {
                let missing = || Error::new(ErrorCode::Internal, "an operation without a result");
                let (source, destination) = results.next().zip(results.next()).ok_or_else(missing)?;
                let source = source?;
                let encrypted = encrypted(destination?);
                Ok(Reencrypted { encrypted, source_key: source.key, source_version: source.version })
            }));
        }
        Ok(answers)
    }

    /// Does the items that passed their checks, and puts the results in order with the errors of the others.
    async fn operate_checked<T>(
        &self,
        action: Action,
        prepared: Vec<Result<Item<'_>>>,
        finish: fn(Done) -> T,
    ) -> Result<Vec<Result<T>>> {
        let mut good = Vec::with_capacity(prepared.len());
        let checks: Vec<Result<()>> = prepared.into_iter().map(|item| item.map(|item| good.push(item))).collect();
        let mut done = if good.is_empty() { Vec::new() } else { self.operate(action, &good, false).await? }.into_iter();
        Ok(checks
            .into_iter()
            .map(|check| {
                check.and_then(|()| {
                    let missing = || Err(Error::new(ErrorCode::Internal, "an operation without a result"));
                    done.next().unwrap_or_else(missing).map(finish)
                })
            })
            .collect())
    }
}

fn verify_item<'a>(
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

/// What is kept beside a ciphertext while it is decrypted.
struct Beside {
    context: Arc<Context>,
    /// A ciphertext of Mini KMS on Node that has a nonce and a tag.
    imported: Option<Arc<ImportedCiphertext>>,
}

impl Beside {
    fn of(item: &DecryptItem<'_>) -> Result<Self> {
        let is_whole = item.is_imported && (item.iv.is_some() || item.auth_tag.is_some());
        let imported = if is_whole { Some(Arc::new(ImportedCiphertext::of(item)?)) } else { None };
        Ok(Self { context: share(&item.context), imported })
    }
}

fn decryption<'a>(item: &DecryptItem<'a>, beside: &'a Beside) -> Result<Item<'a>> {
    if item.is_imported {
        return imported(item, beside);
    }
    let Some(version) = item.oaep_version else {
        return Ok(Item::new(sealed(item), Job::Decrypt(item.ciphertext, &beside.context)));
    };
    let is_alone = item.context.is_empty()
        && item.iv.is_none()
        && item.auth_tag.is_none()
        && item.version.is_none_or(|named| named == version);
    match &item.key {
        Some(key) if is_alone => {
            Ok(Item::rsa(Target::Version(key.clone(), version), Job::DecryptOaep(item.ciphertext)))
        }
        _ => Err(Error::invalid("raw RSA-OAEP needs the key named, and has no context, nonce, tag or second version")),
    }
}

/// A ciphertext of Mini KMS on Node. Without a nonce and a tag it is one of an RSA key, which binds no additional data.
fn imported<'a>(item: &DecryptItem<'a>, beside: &'a Beside) -> Result<Item<'a>> {
    let Some(key) = item.key.clone().filter(|_| item.context.is_empty() && item.oaep_version.is_none()) else {
        let text =
            "an imported ciphertext needs the key named, and has its additional data as JSON instead of a context";
        return Err(Error::invalid(text));
    };
    let target = Target::Imported(key, item.version);
    Ok(match &beside.imported {
        // Only AES binds the additional data, and with it the context that grants may require.
        Some(imported) => {
            let item = Item::new(target, Job::DecryptImported(imported));
            Item { key_type: Some(KeyType::Aes256Gcm), ..item }
        }
        None => Item::rsa(target, Job::DecryptOaep(item.ciphertext)),
    })
}

/// What a ciphertext says of itself, held against what was passed beside it; the key is held against it with the
/// decision.
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
    Error::new(ErrorCode::InvalidCiphertext, format!("{field}: not what the ciphertext itself says"))
}

fn encrypted(done: Done) -> Encrypted {
    let Done { product, key, key_type, version, receipt } = done;
    // A ciphertext is no secret: it leaves its wiping behind without a copy.
    let ciphertext = std::mem::take(&mut *product.into_bytes());
    Encrypted { ciphertext, key, key_type, version, receipt }
}

fn decrypted(done: Done) -> Decrypted {
    Decrypted { plaintext: done.product.into_bytes(), key: done.key, version: done.version, receipt: done.receipt }
}

fn signature(done: Done) -> Signature {
    let signature = std::mem::take(&mut *done.product.into_bytes());
    Signature { signature, key: done.key, version: done.version, receipt: done.receipt }
}

fn verification(done: Done) -> SignatureCheck {
    let valid = matches!(done.product, Product::Valid(true));
    SignatureCheck { valid, version: done.version, receipt: done.receipt }
}

fn check_plaintext(plaintext: &[u8]) -> Result<()> {
    if plaintext.len() > PLAINTEXT_BYTES {
        return Err(Error::new(
            ErrorCode::PlaintextTooLong,
            format!("one message has at most {PLAINTEXT_BYTES} bytes"),
        ));
    }
    Ok(())
}

fn check_payload(payload: &[u8]) -> Result<()> {
    if payload.len() > PAYLOAD_BYTES {
        return Err(Error::invalid(format!("a payload has at most {PAYLOAD_BYTES} bytes")));
    }
    Ok(())
}

fn check_batch(items: usize) -> Result<()> {
    if items == 0 || items > BATCH_ITEMS {
        return Err(Error::invalid(format!("a batch has 1 to {BATCH_ITEMS} items")));
    }
    Ok(())
}
