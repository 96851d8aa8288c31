//! Encrypting, decrypting, signing, verifying, data keys, re-encrypting; one at a time or many in a call.

mod codec;
mod data_key;
mod decrypt;
mod encrypt;
mod many;
mod reencrypt;
mod sign;

use super::{Doc, Route};
use many::{Items, Results, each};

/// The routes.
pub(super) fn routes() -> Vec<Route> {
    let doc = |summary| Doc::new("Cryptography", summary).errors(&[404, 409]);
    vec![
        Route::post("/v1/crypto/encrypt", "encrypt", each::<encrypt::Item<'static>>).doc(
            doc("Encrypt under the current version")
                .takes::<Items<encrypt::Item<'static>>>()
                .gives::<Results<encrypt::Answer>>(),
        ),
        Route::post("/v1/crypto/decrypt", "decrypt", each::<decrypt::Item<'static>>).doc(
            doc("Decrypt; the context must be the same")
                .takes::<Items<decrypt::Item<'static>>>()
                .gives::<Results<decrypt::Answer>>()
                .returning(),
        ),
        Route::post("/v1/crypto/sign", "sign", each::<sign::SignItem<'static>>).doc(
            doc("Sign with the current version")
                .takes::<Items<sign::SignItem<'static>>>()
                .gives::<Results<sign::SignAnswer>>(),
        ),
        Route::post("/v1/crypto/verify", "verify", each::<sign::VerifyItem<'static>>).doc(
            doc("Verify a signature")
                .takes::<Items<sign::VerifyItem<'static>>>()
                .gives::<Results<sign::VerifyAnswer>>()
                .returning(),
        ),
        Route::post("/v1/crypto/generate-data-key", "generateDataKey", data_key::generate)
            .doc(doc("Generate a data key").takes::<data_key::Request<'static>>().gives::<data_key::Answer>()),
        Route::post("/v1/crypto/reencrypt", "reencrypt", each::<reencrypt::Item<'static>>).doc(
            doc("Encrypt anew what a ciphertext holds; the plaintext does not leave")
                .takes::<Items<reencrypt::Item<'static>>>()
                .gives::<Results<encrypt::Answer>>()
                .returning(),
        ),
    ]
}
