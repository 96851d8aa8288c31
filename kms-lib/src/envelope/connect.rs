//! Root keys made of what is configured: the one place that knows every kind of source.

use std::sync::Arc;

#[cfg(feature = "aws-kms")]
use super::aws::AwsKmsRootKey;
use super::local::{Derivation, LocalRootKey};
use super::local_source::{Form, RootKeySource};
use super::{RootKey, check};
use crate::crypto::provider::Provider;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::root_key::{RootKeyGeneration, RootKeyProvider};

/// A root key for a new generation, with what its row says of it.
pub struct NewRootKey {
    /// The key, ready to wrap.
    pub key: Arc<dyn RootKey>,
    /// What holds it.
    pub provider: RootKeyProvider,
    /// Its name at its provider.
    pub reference: Option<String>,
    /// How it is derived from the source.
    pub derivation: String,
    /// The salt of the derivation.
    pub salt: Option<[u8; 16]>,
}

/// The root key of a source, as a new generation.
pub async fn connect_new(source: &RootKeySource, generation: u32, crypto: &Arc<dyn Provider>) -> Result<NewRootKey> {
    match source.form() {
        Form::Key(_) | Form::Passphrase(_) => {
            let mut salt = [0; 16];
            crypto.random(&mut salt)?;
            let derivation = Derivation::for_new(source, salt);
            let key = local(source, derivation.clone(), generation, crypto).await?;
            let (derivation, salt) = derivation.to_stored();
            Ok(NewRootKey { key, provider: RootKeyProvider::Local, reference: None, derivation, salt })
        }
        #[cfg(feature = "aws-kms")]
        Form::Aws(settings) => {
            // In a box: the SDK's futures are nested so deeply that programs around them would not compile.
            let key = Box::pin(AwsKmsRootKey::create(settings, generation)).await?;
            let reference = Some(key.arn().to_owned());
            let (key, derivation) = (Arc::new(key), "none".to_owned());
            Ok(NewRootKey { key, provider: RootKeyProvider::AwsKms, reference, derivation, salt: None })
        }
        #[cfg(not(feature = "aws-kms"))]
        Form::Aws(_) => Err(RootKeySource::no_aws()),
    }
}

/// The root key of a source as the generation that this row describes. `WrongRootKey` if the source is of another kind,
/// or does not open the row's check value.
pub async fn connect(
    source: &RootKeySource,
    row: &RootKeyGeneration,
    crypto: &Arc<dyn Provider>,
) -> Result<Arc<dyn RootKey>> {
    let key: Arc<dyn RootKey> = match (source.form(), row.provider) {
        (Form::Key(_) | Form::Passphrase(_), RootKeyProvider::Local) => {
            let derivation = Derivation::from_stored(&row.derivation, row.salt.as_deref())?;
            local(source, derivation, row.generation, crypto).await?
        }
        (Form::Key(_) | Form::Passphrase(_), provider) => {
            let text =
                format!("generation {} of the root key is held by {provider}, a local key was given", row.generation);
            return Err(Error::new(ErrorCode::WrongRootKey, text));
        }
        #[cfg(feature = "aws-kms")]
        (Form::Aws(settings), RootKeyProvider::AwsKms) => {
            let reference = row.reference.as_deref().unwrap_or_default();
            Arc::new(Box::pin(AwsKmsRootKey::open(settings, reference, row.generation)).await?)
        }
        (Form::Aws(_), provider) => {
            let text = format!(
                "generation {} of the root key is held by {provider}, a key in AWS KMS was given",
                row.generation
            );
            return Err(Error::new(ErrorCode::WrongRootKey, text));
        }
    };
    check(key.as_ref(), &row.check_value).await?;
    Ok(key)
}

/// A passphrase costs a tenth of a second of work and 64 MiB: not on the async threads.
async fn local(
    source: &RootKeySource,
    derivation: Derivation,
    generation: u32,
    crypto: &Arc<dyn Provider>,
) -> Result<Arc<dyn RootKey>> {
    let (source, crypto) = (source.clone(), Arc::clone(crypto));
    let derive = move || -> Result<Arc<dyn RootKey>> {
        Ok(Arc::new(LocalRootKey::new(crypto, &source, &derivation, generation)?))
    };
    let derived = tokio::task::spawn_blocking(derive).await;
    derived.unwrap_or_else(|_| Err(Error::new(ErrorCode::Internal, "the derivation of a root key ended unexpectedly")))
}
