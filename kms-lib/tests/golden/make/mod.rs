//! Makes stores like the golden ones, and golden stores of new formats.
//!
//! Every run makes all of them in a temporary folder and reads them. With `KMS_TEST_GOLDEN`, the path of a folder
//! that does not exist, they are kept there.

mod half_erased;
mod imported;
mod interrupted;
mod keys;
mod rights;
pub mod root_keys;

use std::path::{Path, PathBuf};

use kms_lib::{
    Config, Context, GrantFilter, KeyFilter, Kms, Paging, Session, SignatureAlgorithm, Timestamp, VerifyOptions,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{Place, admin, whole_log};
use crate::facts::{self, Bytes, Ciphertext, Facts, RootKey, Signed, Stream};
use crate::{inventory, read};

/// The local root key of most golden stores.
pub const ROOT_KEY: &str = "hex:676f6c64656e2073746f7265732c207465737420726f6f74206b657920312121";

/// A store that is being made.
pub struct Maker {
    pub place: Place,
    pub kms: Kms,
    pub session: Session,
    pub facts: Facts,
}

impl Maker {
    /// A new store under the first of these root keys, which `config` configures.
    pub async fn new(root_key: RootKey, config: impl FnOnce(Config) -> Config) -> Self {
        let place = Place::in_a_file();
        set_clock(&place, "2026-11-25T00:00:00Z".parse().unwrap());
        let kms = open(&place, config).await;
        let facts = Facts {
            root_keys: vec![root_key],
            closed_at: place.now(),
            verifier_keys: vec![],
            size: 0,
            checkpoint: String::new(),
            described: Value::Null,
            ciphertexts: vec![],
            streams: vec![],
            signatures: vec![],
            tokens: vec![],
            decisions: vec![],
            repair: None,
            idempotent: None,
            imported: vec![],
        };
        Self { session: admin(&kms), place, kms, facts }
    }

    /// Opens the store again, with the root keys that `config` configures.
    pub async fn reopen(&mut self, config: impl FnOnce(Config) -> Config) {
        self.kms.close().await.unwrap();
        self.kms = open(&self.place, config).await;
        self.session = admin(&self.kms);
    }

    /// Encrypts a message and a data key under the current version of a key.
    pub async fn encrypt(&mut self, key: &str, context: &Context) {
        let plaintext = format!("a message under {key}").into_bytes();
        let sealed = self.session.encrypt(key, &plaintext, context).await.unwrap();
        let data_key = self.session.generate_data_key(key, 32, context).await.unwrap();
        let made = [(sealed.ciphertext, plaintext), (data_key.ciphertext, data_key.plaintext.unwrap().to_vec())];
        self.facts.ciphertexts.extend(made.map(|(ciphertext, plaintext)| Ciphertext {
            key: sealed.key,
            version: sealed.version,
            context: context.clone(),
            plaintext: Bytes(plaintext),
            ciphertext: Bytes(ciphertext),
            refused: None,
        }));
    }

    /// Encrypts a stream of this length.
    pub async fn stream(&mut self, key: &str, context: &Context, length: usize) {
        let mut ciphertext = Vec::new();
        let plaintext = facts::pattern(length);
        let made = self.session.encrypt_reader(key, context, &mut plaintext.as_slice(), &mut ciphertext).await.unwrap();
        let (key, version, context) = (made.key, made.version, context.clone());
        self.facts.streams.push(Stream { key, version, context, length, ciphertext: Bytes(ciphertext) });
    }

    /// Signs with the current version of a key and every algorithm.
    pub async fn sign(&mut self, key: &str) {
        for algorithm in SignatureAlgorithm::ALL {
            let message = format!("a message for {algorithm}").into_bytes();
            let made = self.session.sign(key, &message, *algorithm).await.unwrap();
            self.facts.signatures.push(Signed {
                key: made.key,
                version: made.version,
                algorithm: *algorithm,
                message: Bytes(message),
                signature: Bytes(made.signature),
            });
        }
    }

    /// Verifies the store, closes it and writes its files to a new folder.
    pub async fn finish(mut self, to: &Path) {
        for it in &mut self.facts.ciphertexts {
            it.refused = self.session.decrypt(&it.ciphertext.0, &it.context).await.err().map(|error| error.code());
        }
        let report = self.session.verify_audit_with(&VerifyOptions::new()).await.unwrap();
        assert_eq!(report.ok, self.facts.repair.is_none(), "{}: {:?}", to.display(), report.faults);
        let keys = self.session.audit_public_keys().await.unwrap();
        self.facts.verifier_keys = keys.into_iter().map(|key| key.verifier_key).collect();
        self.facts.described = describe(&self.session).await;
        let export = self.export().await;
        self.kms.close().await.unwrap();
        self.facts.closed_at = self.place.now();

        std::fs::create_dir(to).unwrap();
        std::fs::copy(self.place.file(), to.join("store.sqlite")).unwrap();
        std::fs::copy(self.place.folder.path().join("high-water"), to.join("high-water")).unwrap();
        std::fs::write(to.join("log.jsonl"), export).unwrap();
        std::fs::write(to.join("facts.json"), serde_json::to_string_pretty(&self.facts).unwrap() + "\n").unwrap();
        let log = format!("{}-wal", self.place.file().display());
        assert!(std::fs::metadata(log).map_or(0, |file| file.len()) == 0, "a part of the store is in another file");
    }

    /// The log as `kms-http audit export` writes it: records, the checkpoints at which the signing key was replaced,
    /// and the checkpoint of the whole log.
    async fn export(&mut self) -> String {
        let mut lines = Vec::new();
        let records = whole_log(&self.session).await;
        let keys = self.session.audit_public_keys().await.unwrap();
        for record in &records {
            lines.push(serde_json::to_string(record).unwrap());
            if keys.iter().skip(1).any(|key| key.first_seq == record.seq) {
                let note = self.session.kept_checkpoint(record.seq).await.unwrap().unwrap();
                lines.push(json!({ "checkpoint": note }).to_string());
            }
        }
        self.facts.size = records.len() as u64;
        self.facts.checkpoint = self.session.checkpoint().await.unwrap();
        lines.push(json!({ "checkpoint": self.facts.checkpoint }).to_string());
        lines.join("\n") + "\n"
    }
}

async fn open(place: &Place, config: impl FnOnce(Config) -> Config) -> Kms {
    let config = config(place.config()).high_water(place.folder.path().join("high-water"));
    Kms::open(config).await.unwrap()
}

/// The lists of keys with their versions, grants, credentials, root keys and quarantined rows.
pub async fn describe(session: &Session) -> Value {
    let paging = Paging::new(100);
    let mut keys = Vec::new();
    for key in session.list_keys(&KeyFilter::new(), &paging).await.unwrap().items {
        keys.push(serde_json::to_value(session.get_key(key.id).await.unwrap()).unwrap());
    }
    json!({
        "keys": keys,
        "grants": session.list_grants(&GrantFilter::new(), &paging).await.unwrap().items,
        "credentials": session.list_credentials(&paging).await.unwrap().items,
        "quarantine": session.list_quarantine().await.unwrap(),
    })
}

/// Sets the movable clock of a store.
pub fn set_clock(place: &Place, time: Timestamp) {
    place.pass_seconds((time.micros() - place.now().micros()) / 1_000_000 + 1);
}

/// The folder for new golden stores, which exists afterwards: one that is kept, or a temporary one.
pub fn new_folder() -> (PathBuf, Option<TempDir>) {
    if let Some(kept) = std::env::var_os("KMS_TEST_GOLDEN").map(PathBuf::from) {
        // Both tests write to it.
        let _ = std::fs::create_dir(&kept);
        return (kept, None);
    }
    let folder = tempfile::tempdir().unwrap();
    (folder.path().to_owned(), Some(folder))
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_like_the_golden_ones_are_made_and_read() {
    let (folder, _kept) = new_folder();
    keys::make().await.finish(&folder.join("keys")).await;
    rights::make().await.finish(&folder.join("rights")).await;
    rights::quarantined().await.finish(&folder.join("quarantine")).await;
    root_keys::make().await.finish(&folder.join("root-keys")).await;
    interrupted::make().await.finish(&folder.join("interrupted")).await;
    half_erased::make().await.finish(&folder.join("half-erased")).await;
    if let Some(made) = imported::make().await {
        made.finish(&folder.join("imported")).await;
    }
    for store in folders(&folder) {
        read::check_local(&store).await;
    }
    inventory::compare(&folders(&folder)).await;
}

/// The folders in a folder.
fn folders(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}
