//! Material that another system had AWS KMS wrap: every wrapping names its key.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::client::AwsKms;
use super::context::EncryptionContext;
use super::settings::AwsRootKey;
use crate::types::error::Result;

/// Opens wrappings of any key in AWS KMS that the process may use, with one client for each key.
pub struct ForeignKeys {
    settings: Option<AwsRootKey>,
    clients: Mutex<HashMap<String, Arc<AwsKms>>>,
}

impl ForeignKeys {
    /// With these settings but for the name of the key; without them, with those of the SDK's own chain.
    pub fn new(settings: Option<AwsRootKey>) -> Self {
        Self { settings, clients: Mutex::default() }
    }

    /// Decrypts what this key encrypted with this context.
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
