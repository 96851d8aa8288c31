//! Batches: many cryptographic operations in one call.

use std::sync::Arc;

use super::crypto::{DecryptInputs, check_payload, check_plaintext, decryption, verify_item};
use super::item::{Done, Item, Target, share};
use super::items::{DecryptItem, EncryptItem, ReencryptItem, SignItem, VerifyItem};
use super::job::Job;
use super::results::{
    Decrypted, Encrypted, Reencrypted, Signature, SignatureCheck, decrypted, encrypted, signature, verification,
};
use super::{KeyRef, Session};
use crate::crypto::ciphertext::Ciphertext;
use crate::ledger::Few;
use crate::types::audit::Action;
use crate::types::context::Context;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::limits::BATCH_ITEMS;

impl Session {
    /// Encrypts up to 1,000 plaintexts in one call; each has its own result.
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

    /// Decrypts up to 1,000 ciphertexts in one call; each has its own result.
    ///
    /// Cancellation: before the operation is submitted, dropping the future does nothing; afterwards the operation is
    /// recorded and its result is lost.
    pub async fn decrypt_batch(&self, items: &[DecryptItem<'_>]) -> Result<Vec<Result<Decrypted>>> {
        check_batch(items.len())?;
        let inputs: Vec<Result<DecryptInputs>> = items.iter().map(DecryptInputs::of).collect();
        let prepared: Vec<Result<Item<'_>>> = items
            .iter()
            .zip(&inputs)
            .map(|(item, inputs)| {
                item.context.check()?;
                decryption(item, inputs.as_ref().map_err(Error::clone)?)
            })
            .collect();
        self.operate_checked(Action::Decrypt, prepared, decrypted).await
    }

    /// Signs up to 1,000 payloads in one call; each has its own result.
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

    /// Verifies up to 1,000 signatures in one call; each has its own result. Those without a version share the
    /// [`VERSIONS_TRIED`](crate::limits::VERSIONS_TRIED) of one call: with 1,000 of them, the newest 10 usable versions
    /// are tried for each, and `InvalidArgument` asks for the version of a signature that none of these made.
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

    /// Re-encrypts up to 1,000 ciphertexts in one call; each has its own result.
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
        let done =
            if pairs.is_empty() { Few::default() } else { self.operate(Action::Reencrypt, &pairs, true).await? };
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

    /// Performs the items that passed their checks, and returns all results and check errors in order.
    async fn operate_checked<T>(
        &self,
        action: Action,
        prepared: Vec<Result<Item<'_>>>,
        finish: fn(Done) -> T,
    ) -> Result<Vec<Result<T>>> {
        let mut good = Vec::with_capacity(prepared.len());
        let checks: Vec<Result<()>> = prepared.into_iter().map(|item| item.map(|item| good.push(item))).collect();
        let mut done =
            if good.is_empty() { Few::default() } else { self.operate(action, &good, false).await? }.into_iter();
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

fn check_batch(items: usize) -> Result<()> {
    if items == 0 || items > BATCH_ITEMS {
        return Err(Error::invalid(format!("a batch has 1 to {BATCH_ITEMS} items, not {items}")));
    }
    Ok(())
}
