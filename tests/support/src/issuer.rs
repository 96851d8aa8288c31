//! An OpenID Connect issuer on the loopback interface, with real keys (feature `oidc`). Tests choose its faults.

#![allow(clippy::unwrap_used, reason = "a test may fail by a panic")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair,
};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// These bytes in base64url without padding (RFC 4648).
pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

enum Pair {
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ec(EcdsaKeyPair, &'static str),
    Ed(Ed25519KeyPair),
}

/// A signing key of the issuer, or of an attacker.
pub struct SigningKey {
    /// The key id in headers of tokens and in the key set.
    pub id: String,
    /// The name of the algorithm (RFC 7518).
    pub algorithm: &'static str,
    pair: Pair,
}

impl SigningKey {
    /// An RSA key for PKCS#1 v1.5 with SHA-256.
    pub fn rs256(id: &str) -> Self {
        Self::rsa(id, "RS256", KeySize::Rsa2048, &RSA_PKCS1_SHA256)
    }
    /// An RSA key for PSS with SHA-256.
    pub fn ps256(id: &str) -> Self {
        Self::rsa(id, "PS256", KeySize::Rsa2048, &RSA_PSS_SHA256)
    }
    fn rsa(id: &str, algorithm: &'static str, size: KeySize, encoding: &'static dyn RsaEncoding) -> Self {
        let pair = Pair::Rsa(RsaKeyPair::generate(size).unwrap(), encoding);
        Self { id: id.to_owned(), algorithm, pair }
    }
    /// A key on the curve P-256 with SHA-256.
    pub fn es256(id: &str) -> Self {
        Self::ec(id, "ES256", "P-256", &ECDSA_P256_SHA256_FIXED_SIGNING)
    }
    /// A key on the curve P-384 with SHA-384.
    pub fn es384(id: &str) -> Self {
        Self::ec(id, "ES384", "P-384", &ECDSA_P384_SHA384_FIXED_SIGNING)
    }
    fn ec(id: &str, algorithm: &'static str, curve: &'static str, kind: &'static EcdsaSigningAlgorithm) -> Self {
        let pair = Pair::Ec(EcdsaKeyPair::generate(kind).unwrap(), curve);
        Self { id: id.to_owned(), algorithm, pair }
    }
    /// An Ed25519 key.
    pub fn eddsa(id: &str) -> Self {
        Self { id: id.to_owned(), algorithm: "EdDSA", pair: Pair::Ed(Ed25519KeyPair::generate().unwrap()) }
    }

    /// Signs a message.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, message, &mut signature).unwrap();
                signature
            }
            Pair::Ec(pair, _) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// The public key as a JWK (RFC 7517, RFC 8037), without `alg` and `use`.
    pub fn bare_jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pair::Rsa(pair, _) => {
                let public = pair.public_key();
                let modulus = base64url(public.modulus().big_endian_without_leading_zero());
                json!({"kty": "RSA", "n": modulus, "e": base64url(public.exponent().big_endian_without_leading_zero())})
            }
            Pair::Ec(pair, curve) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y)})
            }
            Pair::Ed(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key().as_ref())}),
        };
        jwk["kid"] = json!(self.id);
        jwk
    }
    /// The public key as a JWK with `alg` and `use`.
    pub fn jwk(&self) -> Value {
        let mut jwk = self.bare_jwk();
        jwk["alg"] = json!(self.algorithm);
        jwk["use"] = json!("sig");
        jwk
    }

    /// All encodings of the public key. An attacker may use any of them as the secret of an HMAC.
    pub fn public_forms(&self) -> Vec<Vec<u8>> {
        let Pair::Rsa(pair, _) = &self.pair else { panic!("the key is not an RSA key") };
        let der = pair.public_key().as_der().unwrap().as_ref().to_vec();
        let text = base64::engine::general_purpose::STANDARD.encode(&der);
        let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"));
        let modulus = pair.public_key().modulus().big_endian_without_leading_zero().to_vec();
        vec![
            der,
            pem.clone().into_bytes(),
            pem.trim_end().as_bytes().to_vec(),
            modulus,
            self.jwk().to_string().into_bytes(),
        ]
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"alg": self.algorithm, "kid": self.id, "typ": "JWT"}), claims)
    }
    /// A token with this header and these claims.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()));
        let signature = base64url(self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }
}

/// A faulty response of the issuer.
#[derive(Clone)]
pub enum Fault {
    /// A response with this status and no body.
    Status(StatusCode),
    /// A redirect to this URL.
    Redirect(String),
    /// This body instead of the document.
    Body(Vec<u8>),
    /// A response of endless chunks, without `content-length`.
    Endless,
    /// No response, ever.
    Silence,
}

/// The state that the issuer shares with the test.
pub struct Shared {
    /// The key set.
    pub keys: Mutex<Value>,
    /// The discovery document.
    pub discovery: Mutex<Value>,
    /// The fault of responses with the key set.
    pub key_fault: Mutex<Option<Fault>>,
    /// The fault of responses with the discovery document.
    pub discovery_fault: Mutex<Option<Fault>>,
    /// The number of requests for the key set.
    pub key_requests: AtomicUsize,
    /// One permit for each request for the key set.
    pub arrived: Semaphore,
    /// If set, each response with the key set takes one permit.
    pub gate: Mutex<Option<Arc<Semaphore>>>,
}

/// A running issuer.
pub struct Issuer {
    /// The issuer's identifier, which is also its URL.
    pub url: String,
    /// The address on which it listens.
    pub address: SocketAddr,
    /// Its documents and faults, which the test may change at any time.
    pub shared: Arc<Shared>,
    running: Option<JoinHandle<()>>,
}

impl Issuer {
    /// Starts an issuer that publishes these keys.
    pub async fn start(keys: &[&SigningKey]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut issuer = Self::prepare(url, listener.local_addr().unwrap(), keys);
        issuer.serve(listener);
        issuer
    }

    /// Starts an issuer at `https://HOST:PORT`. Its certificate, which signs itself, is `server.pem` in `folder`.
    pub async fn start_https(host: &str, folder: &Path, keys: &[&SigningKey]) -> Self {
        let generated = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
        std::fs::write(folder.join("server.pem"), generated.cert.pem()).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(generated.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![generated.cert.der().clone()], key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut issuer = Self::prepare(format!("https://{host}:{}", address.port()), address, keys);
        issuer.serve(TlsListener { listener, tls: TlsAcceptor::from(Arc::new(config)) });
        issuer
    }

    fn prepare(url: String, address: SocketAddr, keys: &[&SigningKey]) -> Self {
        let discovery = json!({"issuer": url, "jwks_uri": format!("{url}/keys"), "scopes_supported": ["openid"]});
        let shared = Shared {
            keys: Mutex::default(),
            discovery: Mutex::new(discovery),
            key_fault: Mutex::default(),
            discovery_fault: Mutex::default(),
            key_requests: AtomicUsize::new(0),
            arrived: Semaphore::new(0),
            gate: Mutex::default(),
        };
        let issuer = Self { url, address, shared: Arc::new(shared), running: None };
        issuer.publish(keys);
        issuer
    }

    /// Replaces the published keys.
    pub fn publish(&self, keys: &[&SigningKey]) {
        self.publish_raw(json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()}));
    }
    /// Replaces the key set.
    pub fn publish_raw(&self, keys: Value) {
        *self.shared.keys.lock().unwrap() = keys;
    }
    /// The number of requests for the key set so far.
    pub fn key_requests(&self) -> usize {
        self.shared.key_requests.load(Ordering::SeqCst)
    }

    fn serve<L: Listener<Addr = SocketAddr>>(&mut self, listener: L) {
        let routes = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(keys))
            .with_state(self.shared.clone());
        self.running = Some(tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() }));
    }

    /// Stops listening, so connections are refused.
    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
            let _ = running.await;
        }
    }
    /// Listens again at the same address.
    pub async fn start_again(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.serve(listener);
    }
}

/// A listener whose connections have completed their TLS handshakes.
struct TlsListener {
    listener: TcpListener,
    tls: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.listener.accept().await.unwrap();
            if let Ok(stream) = self.tls.accept(stream).await {
                return (stream, address);
            }
        }
    }
    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

async fn discovery(State(shared): State<Arc<Shared>>) -> Response {
    let fault = shared.discovery_fault.lock().unwrap().clone();
    let document = shared.discovery.lock().unwrap().to_string();
    answer(fault, document).await
}

async fn keys(State(shared): State<Arc<Shared>>) -> Response {
    shared.key_requests.fetch_add(1, Ordering::SeqCst);
    shared.arrived.add_permits(1);
    let gate = shared.gate.lock().unwrap().clone();
    if let Some(gate) = gate {
        gate.acquire().await.unwrap().forget();
    }
    let fault = shared.key_fault.lock().unwrap().clone();
    let document = shared.keys.lock().unwrap().to_string();
    answer(fault, document).await
}

async fn answer(fault: Option<Fault>, document: String) -> Response {
    match fault {
        None => ([(header::CONTENT_TYPE, "application/json")], document).into_response(),
        Some(Fault::Status(status)) => status.into_response(),
        Some(Fault::Redirect(to)) => (StatusCode::FOUND, [(header::LOCATION, to)]).into_response(),
        Some(Fault::Body(body)) => body.into_response(),
        Some(Fault::Endless) => {
            let chunks = futures_util::stream::repeat_with(|| Ok::<_, Infallible>(vec![b' '; 8192]));
            axum::body::Body::from_stream(chunks).into_response()
        }
        Some(Fault::Silence) => std::future::pending().await,
    }
}
