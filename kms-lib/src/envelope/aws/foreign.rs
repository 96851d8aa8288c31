//! Unwraps material that another system wrapped with AWS KMS; each wrapping names its key.
//!
//! The wrappings come from a database that is not trusted to choose which keys, accounts and regions are called: only
//! keys that the operator allowed are, and by the operator's name for them.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::client::{AwsKms, refused};
use super::context::EncryptionContext;
use super::key_name::{KeyArn, KeyName};
use super::settings::AwsRootKey;
use crate::types::error::{Error, ErrorCode, Result};

/// The number of calls in succession that a key may leave without a response until it is not called any more: each
/// takes as long as the timeout.
const UNANSWERED: u32 = 3;
/// The number of characters of a key name of the source that are shown.
const SHOWN: usize = 256;

/// Decrypts with the keys in AWS KMS that were allowed, with one client for each.
pub struct ForeignKeys {
    settings: Option<AwsRootKey>,
    allowed: Vec<KeyName>,
    clients: Mutex<HashMap<String, Arc<AwsKms>>>,
    /// The number of unanswered calls since the last response, by key.
    unanswered: std::sync::Mutex<HashMap<String, u32>>,
}

impl ForeignKeys {
    /// Allows these keys. Uses the settings, apart from the name of the key, or without them those of the SDK's own
    /// chain.
    pub fn new(settings: Option<AwsRootKey>, allowed: Vec<KeyName>) -> Self {
        Self { settings, allowed, clients: Mutex::default(), unanswered: std::sync::Mutex::default() }
    }

    /// Decrypts a ciphertext of this context, wrapped by the key with this name. `RootKeyRefused` without a call if the
    /// key is not allowed; `RootKeyUnavailable` without a call if it left several calls without a response.
    pub async fn decrypt(
        &self,
        key: &str,
        context: EncryptionContext,
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>> {
        let allowed = allowed(&self.allowed, key).ok_or_else(|| {
            let shown: String = key.chars().take(SHOWN).collect();
            let text = format!(
                "the source's key material is wrapped by the AWS KMS key {shown:?}, which the import may not use; if \
                 it is yours, allow it (--aws-key, KMS_IMPORT_AWS_KEYS, awsKeys)"
            );
            Error::new(ErrorCode::RootKeyRefused, text)
        })?;
        let name = allowed.as_str();
        if self.unanswered(name) >= UNANSWERED {
            let text = format!(
                "AWS KMS key {name}: {UNANSWERED} calls in succession had no response, so this run does not call it \
                 again; import again later"
            );
            return Err(Error::new(ErrorCode::RootKeyUnavailable, text));
        }
        let answer = match self.client(name).await {
            Ok(client) => client.decrypt(name, context, ciphertext).await,
            // Neither region nor endpoint of the key can be determined.
            Err(error) => return Err(refused(name, error.message()).with_source(error)),
        };
        let is_unanswered = answer.as_ref().is_err_and(|error| error.code() == ErrorCode::RootKeyUnavailable);
        let mut calls = self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        let count = calls.entry(name.to_owned()).or_default();
        *count = if is_unanswered { *count + 1 } else { 0 };
        answer
    }

    fn unanswered(&self, name: &str) -> u32 {
        let calls = self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        calls.get(name).copied().unwrap_or_default()
    }

    async fn client(&self, key: &str) -> Result<Arc<AwsKms>> {
        let mut clients = self.clients.lock().await;
        if let Some(client) = clients.get(key) {
            return Ok(Arc::clone(client));
        }
        let settings = match &self.settings {
            Some(settings) => settings.clone().with_key_id(key),
            None => AwsRootKey::new(key),
        };
        let client = Arc::new(AwsKms::new(&settings).await?);
        clients.insert(key.to_owned(), Arc::clone(&client));
        Ok(client)
    }
}

/// The allowed key that a wrapping names: by the same text, or by the id in an ARN where the other side has an id only.
fn allowed<'a>(keys: &'a [KeyName], named: &str) -> Option<&'a KeyName> {
    let arn = KeyArn::read(named);
    keys.iter().find(|key| {
        let is_arn = || arn.as_ref().is_some_and(|arn| key.names(arn) == Some(true));
        key.as_str() == named || is_arn() || matches!(key, KeyName::KeyArn(own) if own.id() == named)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ID: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";

    #[test]
    fn only_allowed_keys_are_found_and_by_the_operators_name() {
        let arn = format!("arn:aws:kms:eu-central-1:111122223333:key/{ID}");
        let elsewhere = format!("arn:aws:kms:us-east-1:999999999999:key/{ID}");
        let find = |keys: &[&str], named: &str| {
            let keys: Vec<KeyName> = keys.iter().map(|key| KeyName::parse(key).unwrap()).collect();
            allowed(&keys, named).map(|key| key.as_str().to_owned())
        };
        assert_eq!(find(&[], &arn), None);
        assert_eq!(find(&["alias/a", &arn], &arn), Some(arn.clone()));
        assert_eq!(find(&[&arn], ID), Some(arn.clone()));
        assert_eq!(find(&[&arn], &elsewhere), None, "another account or region");
        // An id is one in the configured region and the account of the credentials, whatever the source says of them.
        assert_eq!(find(&[ID], &elsewhere), Some(ID.to_owned()));
        assert_eq!(find(&["alias/a"], "alias/a"), Some("alias/a".to_owned()));
        for named in ["alias/b", "alias/a ", "", "ALIAS/A", &arn] {
            assert_eq!(find(&["alias/a"], named), None, "{named:?}");
        }
    }
}
