//! Unwraps material that another system wrapped with AWS KMS; each wrapping names its key.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::client::AwsKms;
use super::context::EncryptionContext;
use super::settings::AwsRootKey;
use crate::types::error::Result;

/// Decrypts with any key in AWS KMS that the process may use, with one client for each key.
pub struct ForeignKeys {
    settings: Option<AwsRootKey>,
    clients: Mutex<HashMap<String, Arc<AwsKms>>>,
}

impl ForeignKeys {
    /// Uses these settings, apart from the name of the key, or without them those of the SDK's own chain.
    pub fn new(settings: Option<AwsRootKey>) -> Self {
        Self { settings, clients: Mutex::default() }
    }

    /// Decrypts a ciphertext of this key and context.
    pub async fn decrypt(
        &self,
        key: &str,
        context: EncryptionContext,
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>> {
        self.client(key).await?.decrypt(key, context, ciphertext).await
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
