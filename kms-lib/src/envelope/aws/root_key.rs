//! A generation of the root key that AWS KMS holds.

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

/// A root key in AWS KMS. Wrapped material is the header that all providers share (format, provider, generation),
/// followed by the `CiphertextBlob` of one Encrypt call, which is opaque.
pub struct AwsKmsRootKey {
    kms: AwsKms,
    arn: KeyArn,
    generation: u32,
}

impl AwsKmsRootKey {
    /// The key of these settings, for a generation that is to be added. Unless it is configured by its ARN, AWS KMS is
    /// asked for that, with one Encrypt call.
    pub async fn create(settings: &AwsRootKey, generation: u32) -> Result<Self> {
        let (kms, name) = (AwsKms::new(settings).await?, settings.key_name()?);
        let arn = match name {
            KeyName::KeyArn(arn) => arn,
            name => resolve(&kms, &name).await?,
        };
        Ok(Self { kms, arn, generation })
    }

    /// The key of these settings as the generation with this ARN. An alias is resolved with one Encrypt call.
    ///
    /// `WrongRootKey` if the settings name another key, or an alias that points to another one now.
    pub async fn open(settings: &AwsRootKey, reference: &str, generation: u32) -> Result<Self> {
        let arn = KeyArn::read(reference).ok_or_else(|| {
            let text = "the stored name of the root key is not the ARN of a key in AWS KMS";
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
                        "{} points to {} now, but generation {generation} of the root key is {}; add the other key as \
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

    /// The ARN of the key: the reference of its generation.
    pub fn arn(&self) -> &str {
        self.arn.as_str()
    }

    async fn wrap_remotely(&self, binding: &Binding, plaintext: &[u8]) -> Result<Vec<u8>> {
        let (arn, ciphertext) = self.kms.encrypt(self.arn.as_str(), encryption_context(binding), plaintext).await?;
        if arn != self.arn {
            return Err(refused(self.arn.as_str(), "another key answered; check the endpoint"));
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
            _ => return Err(Error::new(ErrorCode::IntegrityFailure, "wrapped material is not of AWS KMS")),
        };
        self.kms.decrypt(self.arn.as_str(), encryption_context(binding), ciphertext).await
    }
}

/// The ARN of the key that this name stands for now. Encrypting something that is no secret needs no other right than
/// wrapping does; DescribeKey would.
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
