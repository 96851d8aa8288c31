#![allow(clippy::unwrap_used)]

use super::*;
use crate::crypto::{ProviderName, provider};
use crate::types::ids::KeyId;
use crate::types::key::KeyType;

async fn root(text: &str, derivation: &Derivation) -> Result<LocalRootKey> {
    LocalRootKey::new(provider(ProviderName::RustCrypto)?, &RootKeySource::parse(text)?, derivation, 3)
}

const HEX: &str = "hex:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

#[tokio::test]
async fn wraps_and_binds() {
    let root = root(HEX, &Derivation::None).await.unwrap();
    let key = KeyId::random();
    let binding = |version| Binding::Version { key, version, key_type: KeyType::Aes256Gcm };
    let wrapped = root.wrap(&binding(1), b"secret material").await.unwrap();
    assert_eq!(generation_of(&wrapped).unwrap(), 3);
    assert_eq!(root.unwrap(&binding(1), &wrapped).await.unwrap().as_slice(), b"secret material");
    assert_eq!(root.unwrap(&binding(2), &wrapped).await.unwrap_err().code(), ErrorCode::IntegrityFailure);
    for at in 0..wrapped.len() {
        let mut altered = wrapped.clone();
        altered[at] ^= 1;
        if at >= HEADER {
            assert!(root.unwrap(&binding(1), &altered).await.is_err());
        }
        assert!(root.unwrap(&binding(1), &wrapped[..at]).await.is_err());
    }
}

#[tokio::test]
async fn forms_of_the_root_key_are_named_not_guessed() {
    let base64 = "base64:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let value = make_check_value(&root(HEX, &Derivation::None).await.unwrap()).await.unwrap();
    check(&root(base64, &Derivation::None).await.unwrap(), &value).await.unwrap();
    let other = root(&HEX.replace("00", "ff"), &Derivation::None).await.unwrap();
    assert_eq!(check(&other, &value).await.unwrap_err().code(), ErrorCode::WrongRootKey);

    for bad in ["", "short", "passphrase:short", "base64:AAECAw==", "base64:!!", "hex:00", "hex:zz", "hex:0"] {
        assert_eq!(RootKeySource::parse(bad).unwrap_err().code(), ErrorCode::InvalidRootKey, "{bad}");
    }
    // Looks like base64, but has no prefix: a passphrase.
    let bare = root(&base64[7..], &Derivation::None).await;
    assert_eq!(bare.err().unwrap().code(), ErrorCode::WrongRootKey);
}

#[tokio::test]
async fn a_passphrase_is_derived_with_its_salt() {
    let cheap = |salt| Derivation::Argon2id { salt: [salt; 16], memory_kib: 64, passes: 1 };
    let value = make_check_value(&root("correct horse battery", &cheap(1)).await.unwrap()).await.unwrap();
    check(&root("passphrase:correct horse battery", &cheap(1)).await.unwrap(), &value).await.unwrap();
    for (text, salt) in [("correct horse batterz", 1), ("correct horse battery", 2)] {
        let wrong = root(text, &cheap(salt)).await.unwrap();
        assert_eq!(check(&wrong, &value).await.unwrap_err().code(), ErrorCode::WrongRootKey);
    }
    let (text, salt) = cheap(7).to_stored();
    assert_eq!(Derivation::from_stored(&text, salt.as_ref().map(<[u8; 16]>::as_slice)).unwrap(), cheap(7));
    for bad in ["argon2id:m=4000000000,t=1,p=1", "argon2id:m=64,t=0,p=1", "argon2id", "scrypt:1"] {
        assert!(Derivation::from_stored(bad, Some(&[0; 16])).is_err());
    }
}

#[cfg(unix)]
#[test]
fn a_root_key_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("root.key");
    std::fs::write(&path, format!("{HEX}\n")).unwrap();
    let text = format!("file:{}", path.display());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(RootKeySource::parse(&text).unwrap_err().message().contains("0600"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    RootKeySource::parse(&text).unwrap();
    std::fs::write(&path, "x".repeat(5000)).unwrap();
    assert!(RootKeySource::parse(&text).is_err());
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(RootKeySource::parse(&text).is_err());
    std::fs::write(&path, "file:elsewhere").unwrap();
    assert!(RootKeySource::parse(&text).is_err());
    assert!(RootKeySource::parse("file:/nowhere/at/all").is_err());
    assert!(!format!("{:?}", RootKeySource::parse(HEX).unwrap()).contains("0001"));
}
