//! Routes for cryptography: encrypt, decrypt, sign, verify, data keys and re-encryption, single or in batches.

mod codec;
mod data_key;
mod decrypt;
mod encrypt;
mod many;
mod reencrypt;
mod sign;

use utoipa::ToSchema;

use super::{Doc, Route};
use many::{Item, Items, Results, each};

/// All routes for cryptography.
pub(super) fn routes() -> Vec<Route> {
    let data_key = doc("Generate a data key").takes::<data_key::Request<'static>>().gives::<data_key::Answer>();
    vec![
        of::<encrypt::Item<'static>>("/v1/crypto/encrypt", "encrypt", "Encrypt under the current version of a key"),
        of::<decrypt::Item<'static>>("/v1/crypto/decrypt", "decrypt", "Decrypt with the same context"),
        of::<sign::SignItem<'static>>("/v1/crypto/sign", "sign", "Sign with the current version of a key"),
        of::<sign::VerifyItem<'static>>("/v1/crypto/verify", "verify", "Verify a signature"),
        Route::post("/v1/crypto/generate-data-key", "generateDataKey", data_key::generate).doc(data_key),
        of::<reencrypt::Item<'static>>(
            "/v1/crypto/reencrypt",
            "reencrypt",
            "Re-encrypt a ciphertext without revealing the plaintext",
        ),
    ]
}

fn doc(summary: &'static str) -> Doc {
    Doc::new("Cryptography", summary).errors(&[404, 409])
}

/// A route for a single item or a batch.
fn of<T: Item + ToSchema>(path: &'static str, operation: &'static str, summary: &'static str) -> Route
where
    T::Answer: ToSchema,
{
    let doc = doc(summary).takes::<Items<T>>().gives::<Results<T::Answer>>();
    Route::post(path, operation, each::<T>).doc(if T::RETURNED { doc.returning() } else { doc })
}
