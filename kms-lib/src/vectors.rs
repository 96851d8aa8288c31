//! The test vectors of docs/formats.md, which were computed with Python.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::Path;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::audit::checkpoint::{self, Checkpoint};
use crate::audit::record::{Body, record_hash, record_id};
use crate::audit::tree::Frontier;
use crate::crypto::additional_data::{EncryptionAlgorithm, additional_data};
use crate::crypto::provider::Provider;
use crate::crypto::stream::{Decryptor, Header};
use crate::crypto::{CryptoProvider, ciphertext, provider};
use crate::envelope::{
    Binding, Derivation, LocalRootKey, RootKey, RootKeySource, RowSet, Seals, fingerprint, row, service_fingerprint,
};
use crate::types::audit::hex;
use crate::types::context::Context;
use crate::types::ids::{KeyId, LogId, ServiceKeyId};
use crate::types::key::{KeyType, MaterialId, VersionUsage};
use crate::types::root_key::{ServiceKey, ServiceKeyKind, ServiceKeyState};
use crate::types::tallies::Tallies;
use crate::types::time::Timestamp;

/// The number of the version in all vectors.
const VERSION: u32 = 3;
/// The time in all vectors, in microseconds.
const TIME: i64 = 1_790_000_000_000_000;

/// The table of vectors.
struct Vectors(HashMap<String, String>);

impl Vectors {
    fn read() -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/formats.md");
        let text = std::fs::read_to_string(file).unwrap();
        let (_, section) = text.split_once("## Test vectors").unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix("` |")?.split_once(" | `"));
        let vectors: HashMap<_, _> = rows.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        assert!(vectors.len() >= 30, "{} vectors", vectors.len());
        Self(vectors)
    }
    /// A vector that is text.
    fn text(&self, name: &str) -> &str {
        self.0.get(name).unwrap_or_else(|| panic!("docs/formats.md has no vector {name}"))
    }
    /// A vector that is bytes in hex.
    fn bytes(&self, name: &str) -> Vec<u8> {
        let digits = self.text(name).as_bytes();
        let value = |digit: u8| u8::try_from(char::from(digit).to_digit(16).unwrap()).unwrap();
        digits.chunks(2).map(|pair| value(pair[0]) << 4 | value(pair[1])).collect()
    }
    fn array<const N: usize>(&self, name: &str) -> [u8; N] {
        self.bytes(name).try_into().unwrap()
    }
    fn key(&self) -> KeyId {
        KeyId::from_bytes(self.array("key id"))
    }
    fn log(&self) -> LogId {
        LogId::from_bytes(self.array("log id"))
    }
    fn context(&self) -> Context {
        serde_json::from_str(self.text("context")).unwrap()
    }
    fn material_id(&self) -> MaterialId {
        MaterialId { key: self.key(), version: VERSION, fingerprint: self.array("fingerprint") }
    }
    fn seals(&self) -> Seals {
        Seals::new(1, &self.array("integrity key")).unwrap()
    }
    /// The row of the signing key.
    fn row(&self) -> Vec<u8> {
        row::service_key(&ServiceKey {
            id: ServiceKeyId::from_bytes([0xbb; 16]),
            kind: ServiceKeyKind::Signing,
            number: 1,
            public_key: Some(self.array("public key")),
            fingerprint: [0xcc; 32],
            first_seq: 1,
            state: ServiceKeyState::Current,
            revision: 1,
        })
    }
}

/// Both providers, which must agree.
fn providers() -> impl Iterator<Item = std::sync::Arc<dyn Provider>> {
    [CryptoProvider::default(), CryptoProvider::RustCrypto].into_iter().map(|name| provider(name).unwrap())
}

fn now<T>(future: impl Future<Output = T>) -> T {
    futures_util::FutureExt::now_or_never(future).unwrap()
}

#[test]
fn root_keys_unwrap_the_vectors() {
    let vectors = Vectors::read();
    let (key, log) = (vectors.key(), vectors.log());
    let of_version = Binding::Version { key, version: VERSION, key_type: KeyType::Aes256Gcm };
    assert_eq!(of_version.additional_data(1), vectors.bytes("wrapping binding"));
    for provider in providers() {
        let unwrap = |root: &LocalRootKey, binding: &Binding, name: &str| {
            now(root.unwrap(binding, &vectors.bytes(name))).unwrap().to_vec()
        };
        let source = RootKeySource::from_bytes(vectors.array("root key"));
        let root = LocalRootKey::new(provider.clone(), &source, &Derivation::None, 1).unwrap();
        assert_eq!(unwrap(&root, &of_version, "wrapped material"), vectors.bytes("material"));
        assert_eq!(unwrap(&root, &Binding::CheckValue, "check value"), b"kms check value v1");
        let binding = Binding::IntegrityKey { log, number: 1 };
        assert_eq!(unwrap(&root, &binding, "wrapped integrity key"), vectors.bytes("integrity key"));
        let binding = Binding::SigningKey { log, number: 1 };
        assert_eq!(unwrap(&root, &binding, "wrapped signing key"), vectors.bytes("signing key"));
        let derivation = Derivation::from_stored(vectors.text("derivation"), Some(&vectors.bytes("salt"))).unwrap();
        let source = RootKeySource::parse(vectors.text("passphrase")).unwrap();
        let root = LocalRootKey::new(provider, &source, &derivation, 1).unwrap();
        assert_eq!(unwrap(&root, &Binding::CheckValue, "check value under the passphrase"), b"kms check value v1");
    }
}

#[test]
fn fingerprints_are_those_of_the_vectors() {
    let vectors = Vectors::read();
    let made = fingerprint(vectors.key(), VERSION, KeyType::Aes256Gcm, &vectors.bytes("material")).unwrap();
    assert_eq!(hex(&made), vectors.text("fingerprint"));
    let made = service_fingerprint(ServiceKeyKind::Integrity, vectors.log(), 1, &vectors.bytes("integrity key"));
    assert_eq!(hex(&made.unwrap()), vectors.text("fingerprint of the integrity key"));
}

#[test]
fn ciphertexts_and_streams_of_the_vectors_are_decrypted() {
    let vectors = Vectors::read();
    let (id, context) = (vectors.material_id(), vectors.context());
    let additional = additional_data(EncryptionAlgorithm::Aes256Gcm, &id, &context);
    assert_eq!(additional, vectors.bytes("additional data"));
    for provider in providers() {
        let aead = provider.aes(&Zeroizing::new(vectors.array("material"))).unwrap();
        let open = |bytes: &[u8]| {
            let blob = ciphertext::Ciphertext::parse(bytes).unwrap();
            ciphertext::open(aead.as_ref(), &id, &blob, &context).unwrap()
        };
        assert_eq!(*open(&vectors.bytes("ciphertext")), vectors.bytes("plaintext"));
        let stream = vectors.bytes("stream");
        let (header, length) = Header::parse(&stream).unwrap().unwrap();
        let mut plaintext = Zeroizing::default();
        let mut decryptor = Decryptor::new(provider.as_ref(), &header, &open(&header.data_key)).unwrap();
        decryptor.update(&stream[length..], &mut plaintext).unwrap();
        decryptor.finish(&mut plaintext).unwrap();
        assert_eq!(*plaintext, vectors.bytes("plaintext"));
    }
}

#[test]
fn seals_and_commitments_are_those_of_the_vectors() {
    let vectors = Vectors::read();
    let (seals, row) = (vectors.seals(), vectors.row());
    assert_eq!(row, vectors.bytes("row of service_keys"));
    assert_eq!(hex(&seals.seal(&row)), vectors.text("seal"));
    assert_eq!(hex(&seals.commitment(1, &RowSet::of(&seals, &row))), vectors.text("row commitment"));
    let canonical = crate::ledger::context_json(&vectors.context());
    assert_eq!(canonical, vectors.text("context"));
    assert_eq!(hex(&seals.context_mac(canonical.as_bytes())), vectors.text("hmac of the context"));
}

#[test]
fn records_and_checkpoints_are_those_of_the_vectors() {
    let vectors = Vectors::read();
    let body = Body {
        actor: "alice",
        role: "app",
        action: "ENCRYPT",
        status: "SUCCESS",
        request_id: Some("r-1"),
        key_id: Some(vectors.key()),
        key_version: Some(VERSION),
        details: Some("{\"bytes\":9}"),
    };
    let mut text = String::new();
    body.write_canonical(&mut text);
    assert_eq!(text, vectors.text("body of a record"));
    let header = vectors.bytes("header");
    let hash = record_hash(vectors.log(), 1, Timestamp::from_micros(TIME), &[0; 32], &body.digest());
    assert_eq!(hash, <[u8; 32]>::from(Sha256::digest([&[0][..], &header].concat())));
    assert_eq!(hex(&hash), vectors.text("hash"));
    assert_eq!(record_id(&hash).to_string(), vectors.text("record id"));
    let mut tree = Frontier::new();
    (0..5_u8).for_each(|leaf| tree.push(Sha256::digest([0, leaf]).into()));
    assert_eq!(hex(&tree.root()), vectors.text("root of five leaves"));

    let (name, public_key) = checkpoint::parse_verifier_key(vectors.text("verifier key")).unwrap();
    assert_eq!((name.clone(), public_key), (checkpoint::origin(vectors.log()), vectors.array("public key")));
    let rows = Some(vectors.array("row commitment"));
    let state = Checkpoint { origin: name.clone(), size: 1, root: hash, revision: Some(1), rows };
    for provider in providers() {
        let key = provider.ed25519(&vectors.array("signing key")).unwrap();
        assert_eq!(key.public_key(), public_key);
        let note = checkpoint::sign(&state, &name, &public_key, &|message| key.sign(message));
        assert_eq!(note.into_bytes(), vectors.bytes("checkpoint"));
    }
}

#[test]
fn counters_are_those_of_the_vectors() {
    let vectors = Vectors::read();
    let mut tallies = Tallies::default();
    tallies.add(497_222, "ENCRYPT", "SUCCESS", 7);
    let usage = VersionUsage { encryptions: 9, last_used_at: Some(Timestamp::from_micros(TIME)) };
    tallies.versions.insert((vectors.key(), VERSION), usage);
    assert_eq!(hex(&tallies.to_bytes()), vectors.text("counters"));
    assert_eq!(Tallies::from_bytes(&vectors.bytes("counters")), tallies);
}
