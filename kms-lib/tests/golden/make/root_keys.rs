//! A store under a passphrase and a further root key, after a replacement of the first root key, which leaked.

use kms_lib::{Config, Context, ErrorCode, NewKey, RetireOptions, RootKeyJob, RootKeySource};

use super::{Maker, ROOT_KEY};
use crate::common::code;
use crate::facts::RootKey;

/// The root key of generation 2, which is derived from a passphrase (Argon2id).
const PASSPHRASE: &str = "passphrase:correct horse battery staple, for golden stores";
/// The root key of generation 3.
const THIRD: &str = "hex:676f6c64656e2073746f7265732c207465737420726f6f74206b657920332121";

/// A local root key of this generation.
pub fn local(generation: u32, key: &str) -> RootKey {
    RootKey::Local { generation, key: key.to_owned() }
}

/// Creates a key of every type, with ciphertexts and signatures.
pub async fn fill(maker: &mut Maker) {
    let session = maker.session.clone();
    session.create_key(NewKey::aes("users")).await.unwrap();
    session.create_key(NewKey::rsa_encryption("letters")).await.unwrap();
    session.create_key(NewKey::rsa_signing("invoices")).await.unwrap();
    use_keys(maker).await;
}

/// Encrypts and signs with the keys.
async fn use_keys(maker: &mut Maker) {
    let context = Context::from([("table", "users")]);
    maker.encrypt("users", &context).await;
    maker.encrypt("letters", &context).await;
    maker.stream("users", &context, 100).await;
    maker.sign("invoices").await;
}

/// Adds a root key and wraps everything under it.
pub async fn add(maker: &mut Maker, source: &RootKeySource, root_key: RootKey) -> u32 {
    let generation = maker.session.add_root_key(source).await.unwrap().generation;
    assert!(maker.session.rewrap(&RootKeyJob::default()).await.unwrap().is_complete());
    maker.facts.root_keys.push(root_key);
    generation
}

/// Makes the store: the first root key leaked, and a passphrase replaced it, with new keys of the service. Then a third
/// root key was added, and both are in use. The store is not closed.
pub async fn make() -> Maker {
    let config = |config: Config| config.root_key(ROOT_KEY).unwrap().add_root_key(PASSPHRASE).unwrap();
    let mut maker = Maker::new(local(1, ROOT_KEY), config).await;
    fill(&mut maker).await;
    add(&mut maker, &RootKeySource::parse(PASSPHRASE).unwrap(), local(2, PASSPHRASE)).await;
    let session = maker.session.clone();
    let leaked = RetireOptions::default().compromised(true).verify_new(true);
    // From this refusal on nothing is wrapped under the leaked root key.
    assert_eq!(code(session.retire_root_key(1, &leaked).await), ErrorCode::WrongState);
    session.replace_signing_key().await.unwrap();
    session.replace_integrity_key().await.unwrap();
    session.rewrap(&RootKeyJob::default()).await.unwrap();
    session.retire_root_key(1, &leaked).await.unwrap();
    maker.facts.root_keys.remove(0);

    maker.reopen(|config| config.root_key(PASSPHRASE).unwrap().add_root_key(THIRD).unwrap()).await;
    add(&mut maker, &RootKeySource::parse(THIRD).unwrap(), local(3, THIRD)).await;
    for name in ["users", "letters", "invoices"] {
        maker.session.rotate_key(name, None).await.unwrap();
    }
    use_keys(&mut maker).await;
    maker
}
