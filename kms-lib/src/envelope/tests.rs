#![allow(clippy::unwrap_used)]

use super::local::Derivation;
use super::*;
use crate::crypto::{CryptoProvider, provider};
use crate::types::ids::{KeyId, LogId};
use crate::types::key::KeyType;
use crate::types::root_key::ServiceKeyKind;

async fn root(text: &str, derivation: &Derivation) -> Result<LocalRootKey> {
    LocalRootKey::new(provider(CryptoProvider::RustCrypto)?, &RootKeySource::parse(text)?, derivation, 3)
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

/// Computed with Python's cryptography package: HKDF-SHA256 of the root key with `kms-root-wrap/v1` gives the
/// AES-256-GCM key; additional data is `kms-wrap/v1` and a zero byte, then each field as 01, length (u64) and bytes,
/// the generation last; the wrapping is format 01, provider 01, generation (u32), nonce, ciphertext and tag.
#[tokio::test]
async fn opens_wrappings_that_were_made_elsewhere() {
    let (key, log) = (KeyId::from_bytes([0x11; 16]), LogId::from_bytes([0x22; 16]));
    let version = |key_type| Binding::Version { key, version: 7, key_type };
    let vectors: [(Binding, &[u8], &str); 5] = [
        (
            version(KeyType::Aes256Gcm),
            &[0x33; 32],
            "010100000003a0a1a2a3a4a5a6a7a8a9aaaba4a4ec2e8052311c86e36ef3dae59ed39af8cda9bdd409031d152a68728e020584d0f9e9\
             a20399198624bbd224bb98b3",
        ),
        (
            version(KeyType::Rsa2048),
            b"pkcs8",
            "010100000003a0a1a2a3a4a5a6a7a8a9aaabe7fcbc6e8b75a1590573613d240165ef630b898445",
        ),
        (
            Binding::IntegrityKey { log, number: 1 },
            &[0x44; 32],
            "010100000003a0a1a2a3a4a5a6a7a8a9aaabd3d39b59f725466bf1941984ad92e9a4ed8fbadecaa37e746a625d1f05f97572c819ce9a\
             fe655efd4f413751b9ab1773",
        ),
        (
            Binding::SigningKey { log, number: 2 },
            &[0x55; 32],
            "010100000003a0a1a2a3a4a5a6a7a8a9aaabc2c28a48e634577ae0850895bc83f8b5fc9eabcfdbb26f657b734c0e14e86463376c67e8\
             f275336c20f20a0466fc5858",
        ),
        (
            Binding::CheckValue,
            CHECK_TEXT,
            "010100000003a0a1a2a3a4a5a6a7a8a9aaabfcfaac3dd009674cdef02ba185a3c8c0dffa53255000346fc41f3e85d4fb1a43fcd8",
        ),
    ];
    let given = root(HEX, &Derivation::None).await.unwrap();
    for (binding, plaintext, wrapped) in vectors {
        assert_eq!(given.unwrap(&binding, &bytes(wrapped)).await.unwrap().as_slice(), plaintext, "{binding:?}");
    }
    let derivation = Derivation::Argon2id { salt: [9; 16], memory_kib: 64, passes: 1 };
    let derived = root("correct horse battery staple", &derivation).await.unwrap();
    let value =
        "010100000003a0a1a2a3a4a5a6a7a8a9aaabb6d04ac6c1a96ebe8cfd237a0020ce844628511e6f4c00c453b82f0754e5eb066e74";
    check(&derived, &bytes(value)).await.unwrap();
    let made = service_fingerprint(ServiceKeyKind::Integrity, log, 1, &[0x44; 32]).unwrap();
    assert_eq!(made.as_slice(), bytes("5eca814c251c37de96ada3f469c2d0453d707d08c00b9417658f2623370ac72f"));
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
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
    // Base64 without the prefix is a passphrase.
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

#[cfg(unix)]
#[test]
fn modes_of_root_key_files() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("root.key");
    std::fs::write(&path, HEX).unwrap();
    let parse = |mode: u32| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        RootKeySource::parse(&format!("file:{}", path.display()))
    };
    // `fsGroup` sets modes 0440 and 0640.
    for mode in [0o400, 0o600, 0o700, 0o440, 0o640] {
        parse(mode).unwrap();
    }
    for (mode, why) in [
        (0o444, "readable by other users (mode 0444)"),
        (0o604, "readable by other users (mode 0604)"),
        (0o602, "writable by other users (mode 0602)"),
        (0o601, "readable by other users (mode 0601)"),
        (0o660, "writable by its group (mode 0660)"),
        (0o620, "writable by its group (mode 0620)"),
    ] {
        let error = parse(mode).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidRootKey);
        assert!(error.message().contains(why) && error.message().contains("run chmod 0600"), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn a_root_key_file_that_is_no_file_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").args(["-m", "600"]).arg(&fifo).status().unwrap().success());
    for path in [fifo.as_path(), folder.path(), "/dev/zero".as_ref()] {
        let error = RootKeySource::parse(&format!("file:{}", path.display())).unwrap_err();
        assert!(error.message().contains("not a regular file"), "{error}");
    }
}

#[test]
fn line_ends_are_not_part_of_a_root_key() {
    use super::local_source::Form;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("root.key");
    for end in ["\n", "\r\n", "\n\n"] {
        for text in [HEX, "passphrase:correct horse battery staple", "correct horse battery staple"] {
            let text = format!("{text}{end}");
            std::fs::write(&path, &text).unwrap();
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            }
            for source in [text, format!("file:{}{end}", path.display())] {
                match RootKeySource::parse(&source).unwrap().form() {
                    Form::Aws(_) => panic!("a local key"),
                    Form::Key(_) => assert!(source.starts_with("hex:") || source.starts_with("file:")),
                    Form::Passphrase(passphrase) => {
                        assert_eq!(passphrase.as_str(), "correct horse battery staple");
                    }
                }
            }
        }
    }
    assert!(RootKeySource::parse("\r\n").is_err());
}

#[test]
fn seals_of_a_former_key_count_for_rows_from_before() {
    let former = Seals::new(1, &[1; INTEGRITY_KEY_BYTES]).unwrap();
    let both = Seals::new(2, &[2; INTEGRITY_KEY_BYTES]).unwrap().beside(&former, 100);
    let seal = former.seal(b"row");
    assert!(both.is_row_sealed(b"row", &seal, 99) && both.is_stale(b"row", &seal, 99));
    // Rows of the record of the replacement and of later ones do not have such a seal.
    assert!(!both.is_row_sealed(b"row", &seal, 100) && !both.is_stale(b"row", &seal, 100));
    assert!(!both.is_row_sealed(b"other", &seal, 99));
    // For rows without a revision, it is valid until all rows are resealed.
    assert!(both.is_sealed(b"row", &seal) && !both.alone().is_sealed(b"row", &seal));
    let present = both.seal(b"row");
    assert!(both.is_row_sealed(b"row", &present, 100) && !both.is_stale(b"row", &present, 99));
    assert_eq!(both.seal(b"row"), both.alone().seal(b"row"));
}
