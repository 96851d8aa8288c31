//! Makes root keys from configured sources. The only module that distinguishes all kinds of sources.

use std::sync::Arc;

#[cfg(feature = "aws-kms")]
use super::aws::AwsKmsRootKey;
use super::local::{Derivation, LocalRootKey};
use super::local_source::{Form, RootKeySource};
use super::{RootKey, check};
use crate::crypto::provider::Provider;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::root_key::{RootKeyGeneration, RootKeyProvider};
use crate::workers::run_blocking;

/// A root key for a new generation, with the values for its row.
pub struct NewRootKey {
    /// The key, ready to wrap.
    pub key: Arc<dyn RootKey>,
    /// The provider of the key.
    pub provider: RootKeyProvider,
    /// The key's name at its provider; `None` for a local key.
    pub reference: Option<String>,
    /// The stored form of its [`Derivation`].
    pub derivation: String,
    /// The salt of the derivation, if it uses one.
    pub salt: Option<[u8; 16]>,
}

/// Makes the root key of a source for a new generation.
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
            // Boxed, because the SDK's futures are nested so deeply that programs that contain them do not compile.
            let key = Box::pin(AwsKmsRootKey::create(settings, generation)).await?;
            let reference = Some(key.arn().to_owned());
            let (key, derivation) = (Arc::new(key), "none".to_owned());
            Ok(NewRootKey { key, provider: RootKeyProvider::AwsKms, reference, derivation, salt: None })
        }
        #[cfg(not(feature = "aws-kms"))]
        Form::Aws(_) => Err(RootKeySource::no_aws()),
    }
}

/// Makes the root key of a source for the generation that this row describes. Fails with `WrongRootKey` if the source
/// is of another kind or does not unwrap the row's check value.
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
            let text = format!(
                "generation {} of the root key is of the provider {provider}, but a local key was given",
                row.generation
            );
            return Err(Error::new(ErrorCode::WrongRootKey, text));
        }
        #[cfg(feature = "aws-kms")]
        (Form::Aws(settings), RootKeyProvider::AwsKms) => {
            let reference = row.reference.as_deref().unwrap_or_default();
            Arc::new(Box::pin(AwsKmsRootKey::open(settings, reference, row.generation)).await?)
        }
        (Form::Aws(_), provider) => {
            let text = format!(
                "generation {} of the root key is of the provider {provider}, but a key in AWS KMS was given",
                row.generation
            );
            return Err(Error::new(ErrorCode::WrongRootKey, text));
        }
    };
    check(key.as_ref(), &row.check_value).await?;
    Ok(key)
}

/// Makes a local root key off the async threads, because a passphrase takes a tenth of a second and 64 MiB.
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
    run_blocking(derive).await
}
