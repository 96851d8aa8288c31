//! A generation of the root key whose key is in AWS KMS.

use std::time::Instant;

use zeroize::Zeroizing;

use super::client::{AwsKms, refused};
use super::context::encryption_context;
use super::key_name::{KeyArn, KeyName};
use super::settings::AwsRootKey;
use crate::envelope::calls::Calls;
use crate::envelope::{Binding, CHECK_TEXT, FORMAT, HEADER, RootKey, RootKeyFuture};
use crate::types::error::{Error, ErrorCode, Result};

/// The provider byte of material that AWS KMS wrapped.
const PROVIDER: u8 = 2;

/// A root key in AWS KMS. Wrapped material is the common header of all providers (format, provider, generation),
/// followed by the opaque `CiphertextBlob` of one Encrypt call.
pub struct AwsKmsRootKey {
    kms: AwsKms,
    arn: KeyArn,
    generation: u32,
}

impl AwsKmsRootKey {
    /// The key of these settings, for a new generation. Unless it is configured by its ARN, the name is resolved with
    /// one Encrypt call.
    pub async fn create(settings: &AwsRootKey, generation: u32) -> Result<Self> {
        let (kms, name) = (AwsKms::new(settings).await?, settings.key_name()?);
        let arn = match name {
            KeyName::KeyArn(arn) => arn,
            name => resolve(&kms, &name).await?,
        };
        Ok(Self { kms, arn, generation })
    }

    /// The key of these settings, for the generation with this ARN. An alias is resolved with one Encrypt call.
    ///
    /// Fails with `WrongRootKey` if the settings name another key, or an alias that now points to another one.
    pub async fn open(settings: &AwsRootKey, reference: &str, generation: u32) -> Result<Self> {
        let arn = KeyArn::read(reference).ok_or_else(|| {
            let text = "the stored reference of the root key is not the ARN of a key in AWS KMS";
            Error::new(ErrorCode::StoreCorrupt, text)
        })?;
        let (name, kms) = (settings.key_name()?, AwsKms::new(settings).await?);
        let wrong = |text: String| Err(Error::new(ErrorCode::WrongRootKey, text));
        match name.names(&arn) {
            Some(true) => {}
            Some(false) => {
                return wrong(format!(
                    "generation {generation} of the root key is {}, but {} was given",
                    arn.as_str(),
                    name.as_str()
                ));
            }
            None => {
                let now = resolve(&kms, &name).await?;
                if now != arn {
                    return wrong(format!(
                        "{} now points to {}, but generation {generation} of the root key is {}; add the other key as \
                         a root key before the alias points to it",
                        name.as_str(),
                        now.as_str(),
                        arn.as_str()
                    ));
                }
            }
        }
        Ok(Self { kms, arn, generation })
    }

    /// The ARN of the key, which is stored as the reference of its generation.
    pub fn arn(&self) -> &str {
        self.arn.as_str()
    }

    async fn wrap_remotely(&self, binding: &Binding, plaintext: &[u8]) -> Result<Vec<u8>> {
        let (arn, ciphertext) = self.kms.encrypt(self.arn.as_str(), encryption_context(binding), plaintext).await?;
        if arn != self.arn {
            return Err(refused(self.arn.as_str(), "the response is from another key; check the endpoint"));
        }
        let mut wrapped = Vec::with_capacity(HEADER + ciphertext.len());
        wrapped.extend_from_slice(&[FORMAT, PROVIDER]);
        wrapped.extend_from_slice(&self.generation.to_be_bytes());
        wrapped.extend_from_slice(&ciphertext);
        Ok(wrapped)
    }

    async fn unwrap_remotely(&self, binding: &Binding, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let ciphertext = match wrapped {
            [FORMAT, PROVIDER, _, _, _, _, ciphertext @ ..] if !ciphertext.is_empty() => ciphertext,
            _ => return Err(Error::new(ErrorCode::IntegrityFailure, "the material was not wrapped by AWS KMS")),
        };
        self.kms.decrypt(self.arn.as_str(), encryption_context(binding), ciphertext).await
    }
}

/// The ARN of the key that this name refers to now. Determined by encrypting a text that is not secret, because that
/// needs only the action that wrapping needs, unlike DescribeKey.
async fn resolve(kms: &AwsKms, name: &KeyName) -> Result<KeyArn> {
    let began = Instant::now();
    let (arn, _) = kms.encrypt(name.as_str(), encryption_context(&Binding::CheckValue), CHECK_TEXT).await?;
    tracing::debug!(key = name.as_str(), arn = arn.as_str(), took = ?began.elapsed(), "resolved a root key in AWS KMS");
    Ok(arn)
}

impl RootKey for AwsKmsRootKey {
    fn generation(&self) -> u32 {
        self.generation
    }
    fn provider(&self) -> &'static str {
        "aws-kms"
    }
    fn calls(&self) -> Option<&Calls> {
        Some(self.kms.calls())
    }
    fn wrap<'a>(&'a self, binding: &'a Binding, plaintext: &'a [u8]) -> RootKeyFuture<'a, Vec<u8>> {
        Box::pin(self.wrap_remotely(binding, plaintext))
    }
    fn unwrap<'a>(&'a self, binding: &'a Binding, wrapped: &'a [u8]) -> RootKeyFuture<'a, Zeroizing<Vec<u8>>> {
        Box::pin(self.unwrap_remotely(binding, wrapped))
    }
}
