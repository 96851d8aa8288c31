//! `Debug` shows no secret, and `==` compares none. The tests try each type with a secret, and search the source for
//! types that derive these traits.

#![allow(clippy::unwrap_used)]

mod common;

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use common::{Place, admin};
use kms_lib::{
    Config, Context, EncryptItem, NewKey, NewToken, Role, RootKeySource, SignItem, SignatureAlgorithm, VerifyItem,
};

const SECRET: &str = "hunter2 hunter2 hunter2";

/// Whether the output of `Debug` contains these bytes in any usual form.
fn shows(shown: &str, secret: &[u8]) -> bool {
    let list: Vec<String> = secret.iter().map(u8::to_string).collect();
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let forms = [list.join(", "), hex, String::from_utf8_lossy(secret).into_owned()];
    let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    forms.iter().any(|form| shown.contains(form.as_str()))
}

#[track_caller]
fn hides(value: &impl Debug, secret: &[u8]) {
    for shown in [format!("{value:?}"), format!("{value:#?}")] {
        assert!(!shows(&shown, secret), "{shown}");
    }
}

#[test]
fn the_search_finds_bytes_in_debug_output() {
    let bytes = SECRET.as_bytes();
    assert!(shows(&format!("{bytes:?}"), bytes) && shows(&format!("{SECRET:?}"), bytes));
    assert!(shows(&format!("{:#?}", bytes.to_vec()), bytes));
    assert!(!shows("hidden", bytes));
}

#[tokio::test]
async fn debug_hides_secrets() {
    let bytes = SECRET.as_bytes();
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let sealed = session.encrypt("k", bytes, &Context::new()).await.unwrap();
    let opened = session.decrypt(&sealed.ciphertext, &Context::new()).await.unwrap();
    assert_eq!(opened.plaintext.as_slice(), bytes);
    hides(&opened, bytes);
    let data_key = session.generate_data_key("k", 32, &Context::new()).await.unwrap();
    hides(&data_key, data_key.plaintext.as_deref().unwrap());
    let token = session.create_token(NewToken::new("shop", Role::App)).await.unwrap();
    hides(&token, token.token.as_bytes());
    kms.close().await.unwrap();

    let algorithm = SignatureAlgorithm::RsaPssSha256;
    hides(&EncryptItem::new("k", bytes, Context::new()), bytes);
    hides(&SignItem::new("k", bytes, algorithm), bytes);
    hides(&VerifyItem::new("k", bytes, &[1], algorithm), bytes);
    let passphrase = format!("passphrase:{SECRET}");
    hides(&RootKeySource::parse(&passphrase).unwrap(), bytes);
    hides(&RootKeySource::from_bytes([7; 32]), &[7; 32]);
    let config = Config::new("mysql://kms:hunter2@db/kms").root_key(&passphrase).unwrap();
    hides(&config, b"hunter2");
}

/// Names of fields that contain a secret.
const NAMES: [&str; 9] =
    ["plaintext", "payload", "secret", "token", "password", "passphrase", "master_key", "seed", "store_url"];
/// The types with which such a field counts as a secret.
const TYPES: [&str; 3] = ["u8", "str", "String"];

/// Whether the line declares a field with a secret.
fn is_secret(line: &str) -> bool {
    if line.contains("Zeroizing<") {
        return true;
    }
    let Some((name, kind)) = line.split_once(':') else { return false };
    let name = name.rsplit(' ').next().unwrap_or_default();
    NAMES.contains(&name) && TYPES.iter().any(|text| kind.contains(text))
}

/// Types in a source text that contain a secret and derive a forbidden trait, with the line of the field.
fn careless(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut derives = "";
    let mut declared: Option<&str> = None;
    for line in text.lines() {
        let code = line.trim();
        if code.starts_with("//") {
            continue;
        }
        if code.starts_with("#[derive(") {
            derives = code;
        } else if code.contains("struct ") || code.contains("enum ") {
            let is_shown = derives.contains("Debug") || derives.contains("PartialEq");
            declared = Some(code).filter(|_| is_shown && !code.ends_with(';'));
            if is_shown && code.ends_with(';') && is_secret(code) {
                found.push(code.to_owned());
            }
            derives = "";
        } else if line == "}" {
            declared = None;
        } else if let Some(declaration) = declared.filter(|_| is_secret(code)) {
            found.push(format!("{declaration} {code}"));
        } else if !code.starts_with("#[") {
            derives = "";
        }
    }
    found
}

fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn no_type_with_a_secret_derives_debug_or_comparison() {
    let examples = "#[derive(Clone, Debug)]\npub struct A {\n    /// It.\n    pub plaintext: Zeroizing<Vec<u8>>,\n}\n\
                    #[derive(PartialEq)]\n#[serde(default)]\nstruct B<'a> {\n    payload: &'a [u8],\n}\n\
                    #[derive(Debug)]\nstruct C(Zeroizing<String>);\n\
                    #[derive(Clone)]\nstruct D {\n    token: String,\n}\n\
                    #[derive(Debug)]\nstruct E {\n    payload_bytes: usize,\n}\n";
    assert_eq!(careless(examples).len(), 3, "{:?}", careless(examples));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for folder in std::fs::read_dir(root).unwrap() {
        let source = folder.unwrap().path().join("src");
        if source.is_dir() {
            sources(&source, &mut files);
        }
    }
    assert!(files.len() > 100, "{}", files.len());
    for file in files {
        let found = careless(&std::fs::read_to_string(&file).unwrap());
        assert!(found.is_empty(), "{}: {found:?}", file.display());
    }
}
