//! Envelope encryption: material is stored only wrapped under a root key that is not in the store.
//!
//! A root key is identified by its generation, which every wrapping names. Material has one wrapping under each
//! generation in use, and any of them is enough to unwrap it, so that a root key can be replaced while the service
//! runs. Rows are sealed under an integrity key that is itself wrapped.

#[cfg_attr(not(feature = "aws-kms"), allow(dead_code, reason = "settings alone"))]
pub(crate) mod aws;
mod binding;
mod calls;
mod connect;
mod fingerprint;
mod local;
mod local_source;
mod registry;
pub mod row;
mod seal;
mod secret_file;

#[cfg(test)]
mod tests;

pub use aws::AwsRootKey;
#[cfg(all(feature = "aws-kms", feature = "import"))]
pub use aws::ForeignKeys;
#[cfg(feature = "import")]
pub use aws::KeyName;
pub use binding::Binding;
pub use calls::{CALL_BOUNDS, CallMetrics, Calls, RootKeyOperation};
pub use connect::{NewRootKey, connect_new};
pub use fingerprint::{fingerprint, service_fingerprint};
pub use local::Derivation;
#[cfg(test)]
pub use local::LocalRootKey;
pub use local_source::RootKeySource;
pub use registry::{Envelope, KnownGeneration};
pub use seal::{INTEGRITY_KEY_BYTES, RowSet, Seals};
pub use secret_file::{check_secret_file, read_secret_file};

use std::future::Future;
use std::pin::Pin;

use zeroize::Zeroizing;

use crate::types::error::{Error, ErrorCode, Result};

/// The future that a root key's operations return. A local key's is ready at once.
pub type RootKeyFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// The root key of one generation.
pub trait RootKey: Send + Sync {
    /// The key's generation, counted from 1.
    fn generation(&self) -> u32;
    /// The key's provider: `local` or `aws-kms`.
    fn provider(&self) -> &'static str {
        "local"
    }
    /// Counters of the calls to the key since it was opened, if they are counted.
    fn calls(&self) -> Option<&Calls> {
        None
    }
    /// Wraps `plaintext` and binds it to its purpose.
    fn wrap<'a>(&'a self, binding: &'a Binding, plaintext: &'a [u8]) -> RootKeyFuture<'a, Vec<u8>>;
    /// Unwraps a result of [`RootKey::wrap`]. Fails with `IntegrityFailure` if it was altered or has another binding.
    fn unwrap<'a>(&'a self, binding: &'a Binding, wrapped: &'a [u8]) -> RootKeyFuture<'a, Zeroizing<Vec<u8>>>;
}

/// The first byte of wrapped material.
const FORMAT: u8 = 1;
/// Bytes of the header: format, provider and generation.
const HEADER: usize = 6;
/// The plaintext of a check value.
const CHECK_TEXT: &[u8] = b"kms check value v1";

/// Makes a check value: a known text wrapped under the root key, by which a wrong root key is recognized at opening.
pub async fn make_check_value(root: &dyn RootKey) -> Result<Vec<u8>> {
    root.wrap(&Binding::CheckValue, CHECK_TEXT).await
}

/// Checks that `root` is the key that made this check value. Fails with `WrongRootKey` if not.
pub async fn check(root: &dyn RootKey, value: &[u8]) -> Result<()> {
    match root.unwrap(&Binding::CheckValue, value).await {
        Ok(text) if text.as_slice() == CHECK_TEXT => Ok(()),
        Err(error) if matches!(error.code(), ErrorCode::RootKeyUnavailable | ErrorCode::RootKeyRefused) => Err(error),
        _ => Err(Error::new(
            ErrorCode::WrongRootKey,
            "the given root key is not one of this store; configure the right one",
        )),
    }
}

/// The generation of the root key that made a wrapping.
#[cfg(test)]
pub fn generation_of(wrapped: &[u8]) -> Result<u32> {
    let damaged = |why: &str| Error::new(ErrorCode::IntegrityFailure, format!("wrapped material {why}"));
    match wrapped {
        [FORMAT, _, a, b, c, d, _, ..] => Ok(u32::from_be_bytes([*a, *b, *c, *d])),
        [FORMAT, ..] | [] => Err(damaged("is cut")),
        _ => Err(damaged("has a format that is newer than this software, or is damaged")),
    }
}
