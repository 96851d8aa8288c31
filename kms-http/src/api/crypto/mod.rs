//! Encrypting, decrypting, signing, verifying, data keys, re-encrypting; one at a time or many in a call.

mod codec;
mod data_key;
mod decrypt;
mod encrypt;
mod many;
mod reencrypt;
mod sign;

use axum::http::Method;

use super::{Doc, Route};
use many::OneOrMany;

/// The routes.
pub(super) fn routes() -> Vec<Route> {
    let doc = |summary| Doc::new("Cryptography", summary).errors(&[404, 409]);
    vec![
        Route::new(
            Method::POST,
            "/v1/crypto/encrypt",
            "encrypt",
            doc("Encrypt under the current version")
                .takes::<OneOrMany<encrypt::Item<'static>>>()
                .gives::<OneOrMany<encrypt::Answer>>(),
            encrypt::encrypt,
        ),
        Route::new(
            Method::POST,
            "/v1/crypto/decrypt",
            "decrypt",
            doc("Decrypt; the context must be the same")
                .takes::<OneOrMany<decrypt::Item<'static>>>()
                .gives::<OneOrMany<decrypt::Answer<'static>>>(),
            decrypt::decrypt,
        ),
        Route::new(
            Method::POST,
            "/v1/crypto/sign",
            "sign",
            doc("Sign with the current version")
                .takes::<OneOrMany<sign::SignItem<'static>>>()
                .gives::<OneOrMany<sign::SignAnswer>>(),
            sign::sign,
        ),
        Route::new(
            Method::POST,
            "/v1/crypto/verify",
            "verify",
            doc("Verify a signature")
                .takes::<OneOrMany<sign::VerifyItem<'static>>>()
                .gives::<OneOrMany<sign::VerifyAnswer>>(),
            sign::verify,
        ),
        Route::new(
            Method::POST,
            "/v1/crypto/generate-data-key",
            "generateDataKey",
            doc("Generate a data key").takes::<data_key::Request<'static>>().gives::<data_key::Answer<'static>>(),
            data_key::generate,
        ),
        Route::new(
            Method::POST,
            "/v1/crypto/reencrypt",
            "reencrypt",
            doc("Encrypt anew what a ciphertext holds; the plaintext does not leave")
                .takes::<OneOrMany<reencrypt::Item<'static>>>()
                .gives::<OneOrMany<encrypt::Answer>>(),
            reencrypt::reencrypt,
        ),
    ]
}
