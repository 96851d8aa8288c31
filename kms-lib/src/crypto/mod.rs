//! Cryptography: a trait with two providers, and the ciphertext format with its additional data.
//!
//! Each provider reads the data of the other, so a store can change its provider at any time.

pub(crate) mod additional_data;
#[cfg(feature = "aws-lc")]
pub mod aws_lc;
pub mod ciphertext;
pub(crate) mod nonces;
pub mod provider;
mod rsa_key;
pub mod rust_crypto;
pub mod stream;

use std::sync::Arc;

use crate::types::error::Result;
pub use provider::CryptoProvider;
use provider::Provider;
#[cfg(feature = "import")]
pub use rsa_key::private_der;

/// The provider with this name. Fails with `InvalidConfiguration` if it is not compiled in.
pub fn provider(name: CryptoProvider) -> Result<Arc<dyn Provider>> {
    match name {
        #[cfg(feature = "aws-lc")]
        CryptoProvider::AwsLc => Ok(Arc::new(aws_lc::AwsLc)),
        #[cfg(not(feature = "aws-lc"))]
        CryptoProvider::AwsLc => Err(crate::types::error::Error::new(
            crate::types::error::ErrorCode::InvalidConfiguration,
            "the cryptography provider aws-lc is not compiled in; use rust-crypto",
        )),
        CryptoProvider::RustCrypto => Ok(Arc::new(rust_crypto::RustCrypto)),
    }
}

#[cfg(test)]
mod tests;
