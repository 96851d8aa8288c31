//! A store with keys and logs from Mini KMS on Node: an import that is finalized, and one that is not.

use kms_lib::{ErrorCode, ImportJob, ImportSource};
use kms_test_support::{MariaDb, Server};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Maker, ROOT_KEY};
use crate::facts::{Bytes, Imported, RootKey, folder};

/// What the API of the original answered: `tests/legacy/clean.json`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    master_key: String,
    ciphertexts: Vec<KnownCiphertext>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KnownCiphertext {
    key_id: kms_lib::KeyId,
    version: u32,
    plaintext: String,
    /// The text as it was sent: the order of names matters.
    aad: Option<Box<RawValue>>,
    ciphertext: Bytes,
    iv: Option<Bytes>,
    auth_tag: Option<Bytes>,
}

/// Makes the store, unless MariaDB is not installed. It is not closed.
pub async fn make() -> Option<Maker> {
    let Some(server) = MariaDb::try_new(&[]) else {
        eprintln!("SKIPPED: MariaDB is not installed");
        return None;
    };
    let legacy = folder().join("../legacy");
    let dump = std::fs::read_to_string(legacy.join("clean.sql")).unwrap();
    let url = server.create_database();
    let database = url.rsplit('/').next().unwrap().split('?').next().unwrap();
    server.sql(&format!("USE {database}; SET FOREIGN_KEY_CHECKS = 0; {dump}"));
    let known: Known = serde_json::from_slice(&std::fs::read(legacy.join("clean.json")).unwrap()).unwrap();
    let source = |from: &str| ImportSource::parse(from).unwrap().master_secret(&known.master_key);

    let root_key = RootKey::Local { generation: 1, key: ROOT_KEY.to_owned() };
    let mut maker = Maker::new(root_key, |config| config.root_key(ROOT_KEY).unwrap()).await;
    let session = maker.session.clone();
    let job = ImportJob::default().name("finalized").rotate(true);
    assert!(session.import_mini_kms(&source(&url), &job).await.unwrap().is_complete());
    session.import_mini_kms(&source(&url), &job.finalize(true)).await.unwrap();
    // The log of the older version alone: its keys are those that were imported already.
    let older = legacy.join("older/audit_logs.json");
    let job = ImportJob::default().name("open");
    session.import_mini_kms(&ImportSource::parse(older.to_str().unwrap()).unwrap(), &job).await.unwrap();
    for it in known.ciphertexts {
        let mut item =
            kms_lib::DecryptItem::imported(it.key_id, &it.ciphertext.0, it.aad.as_deref().map(RawValue::get));
        item = item.version(it.version);
        item.iv = it.iv.as_ref().map(|iv| iv.0.as_slice());
        item.auth_tag = it.auth_tag.as_ref().map(|tag| tag.0.as_slice());
        let refused = session.decrypt_item(item).await.err().map(|error| error.code());
        assert!(refused.is_none_or(|refused| refused == ErrorCode::VersionRevoked), "{refused:?}");
        maker.facts.imported.push(Imported {
            key: it.key_id,
            version: it.version,
            aad: it.aad.map(|aad| aad.get().to_owned()),
            iv: it.iv,
            auth_tag: it.auth_tag,
            plaintext: Bytes(it.plaintext.into_bytes()),
            ciphertext: it.ciphertext,
            refused,
        });
    }
    Some(maker)
}
