//! The limit that the service is measured against: axum, JSON, one AES-256-GCM or RSA operation, and nothing else. No
//! names, no rights, no versions, no log. See `tests/bench`.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

struct Keys {
    aes: RandomizedNonceKey,
    rsa: RsaKeyPair,
}

#[derive(Deserialize)]
struct Encrypt {
    plaintext: String,
}
#[derive(Deserialize)]
struct EncryptMany {
    items: Vec<Encrypt>,
}
#[derive(Serialize)]
struct Encrypted {
    ciphertext: String,
}
#[derive(Deserialize)]
struct Sign {
    payload: String,
}
#[derive(Serialize)]
struct Signed {
    signature: String,
}

type Answer<T> = Result<Json<T>, StatusCode>;

fn seal(keys: &Keys, plaintext: &str) -> Result<Encrypted, StatusCode> {
    let failed = |_| StatusCode::INTERNAL_SERVER_ERROR;
    let mut body = plaintext.as_bytes().to_vec();
    let nonce: Nonce = keys.aes.seal_in_place_append_tag(Aad::empty(), &mut body).map_err(failed)?;
    let mut blob = nonce.as_ref().to_vec();
    blob.extend(body);
    Ok(Encrypted { ciphertext: STANDARD.encode(blob) })
}

async fn encrypt(State(keys): State<Arc<Keys>>, Json(request): Json<Encrypt>) -> Answer<Encrypted> {
    seal(&keys, &request.plaintext).map(Json)
}

async fn encrypt_many(State(keys): State<Arc<Keys>>, Json(request): Json<EncryptMany>) -> Answer<Vec<Encrypted>> {
    request.items.iter().map(|item| seal(&keys, &item.plaintext)).collect::<Result<_, _>>().map(Json)
}

async fn sign(State(keys): State<Arc<Keys>>, Json(request): Json<Sign>) -> Answer<Signed> {
    let signature = tokio::task::spawn_blocking(move || {
        let mut signature = vec![0; keys.rsa.public_modulus_len()];
        keys.rsa.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), request.payload.as_bytes(), &mut signature)?;
        Ok::<_, aws_lc_rs::error::Unspecified>(signature)
    });
    match signature.await {
        Ok(Ok(signature)) => Ok(Json(Signed { signature: STANDARD.encode(signature) })),
        _ => Err(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).ok_or("usage: bare ADDRESS")?;
    let mut key = [0; 32];
    aws_lc_rs::rand::fill(&mut key)?;
    let keys = Keys { aes: RandomizedNonceKey::new(&AES_256_GCM, &key)?, rsa: RsaKeyPair::generate(KeySize::Rsa2048)? };
    let routes = Router::new()
        .route("/encrypt", post(encrypt))
        .route("/encrypt-many", post(encrypt_many))
        .route("/sign", post(sign))
        .with_state(Arc::new(keys));
    let listener = tokio::net::TcpListener::bind(address).await?;
    axum::serve(listener, routes).await?;
    Ok(())
}
