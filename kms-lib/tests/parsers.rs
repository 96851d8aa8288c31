//! Every parser of outside bytes, fed with what it knows, altered at random: no panic, no hang, and what it accepts it
//! reads the same way twice. `KMS_TEST_MODE=full` (tests/run --full) makes it a long run.

#![allow(clippy::unwrap_used)]

use kms_lib::audit::checkpoint;
use kms_lib::crypto::ciphertext::Blob;
use kms_lib::crypto::provider::{Provider, ProviderName};
use kms_lib::crypto::stream::Header;
use kms_lib::envelope::{Derivation, RootKeySource};
use kms_lib::scheduler::Schedule;
use kms_lib::session::KeyRef;
use kms_lib::{Conditions, Config, Context, CreateKey, GrantScope, Timestamp};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

fn rounds() -> usize {
    if std::env::var("KMS_TEST_MODE").is_ok_and(|mode| mode == "full") { 400_000 } else { 4_000 }
}

/// Alters bytes: flips, cuts, doubles, inserts, splices with another of the corpus.
fn alter(random: &mut StdRng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[random.random_range(0..corpus.len())].clone();
    for _ in 0..random.random_range(0..4) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes.truncate(at),
            2 => bytes.insert(at, [0, 0xff, b'"', b'{', b'\n', b' ', b'9', b'-'][random.random_range(0..8)]),
            3 => {
                let other = &corpus[random.random_range(0..corpus.len())];
                let from = random.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            4 => {
                let piece = bytes[at..(at + 8).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let mut noise = [0; 8];
                random.fill_bytes(&mut noise);
                bytes.splice(at..at, noise);
            }
        }
    }
    bytes
}

/// Feeds a parser; `parse` says what it made of the bytes, in a form that can be compared.
fn feed(seed: u64, corpus: &[&[u8]], parse: impl Fn(&[u8]) -> Option<String>) {
    let corpus: Vec<Vec<u8>> = corpus.iter().map(|bytes| bytes.to_vec()).collect();
    let good = corpus.iter().filter(|bytes| parse(bytes).is_some()).count();
    assert!(good > 0, "the parser accepts nothing of its corpus");
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..rounds() {
        let bytes = alter(&mut random, &corpus);
        assert_eq!(parse(&bytes), parse(&bytes));
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

#[test]
fn ciphertexts() {
    let mut aes = vec![1, 1];
    aes.extend_from_slice(&[7; 16]);
    aes.extend_from_slice(&[0, 0, 0, 3]);
    aes.extend_from_slice(&[9; 60]);
    let mut rsa = aes[..22].to_vec();
    rsa[1] = 2;
    rsa.extend_from_slice(&[5; 256]);
    feed(1, &[&aes, &rsa, b""], |bytes| {
        let blob = Blob::parse(bytes).ok()?;
        assert!(blob.version > 0 && bytes.ends_with(blob.body));
        Some(format!("{} {} {}", blob.key, blob.version, blob.body.len()))
    });
}

#[test]
fn stream_headers() {
    let mut header = vec![2, 0, 0, 0, 100];
    header.extend_from_slice(&[1; 116]);
    feed(2, &[&header, b"\x02", b"\x02\xff\xff\xff\xff"], |bytes| {
        let (header, length) = Header::parse(bytes).ok()??;
        assert_eq!(header.to_bytes(), bytes[..length]);
        Some(format!("{header:?}"))
    });
}

#[test]
fn checkpoints_and_verifier_keys() {
    let provider = kms_lib::crypto::provider(ProviderName::default()).unwrap();
    let provider: &dyn Provider = provider.as_ref();
    let key = provider.ed25519(&[3; 32]).unwrap();
    let signed = checkpoint::Checkpoint {
        origin: "log".into(),
        size: 12,
        root: [4; 32],
        revision: Some(3),
        rows: Some([9; 32]),
    };
    let note = checkpoint::sign(&signed, "log", &key.public_key(), &|message| key.sign(message));
    feed(3, &[note.as_bytes(), b"a\n1\n\n\xe2\x80\x94 log AAAA\n", b"\n\n"], |bytes| {
        let verify =
            |key: &[u8; 32], message: &[u8], signature: &[u8]| provider.ed25519_verify(key, message, signature);
        let opened = checkpoint::open(text(bytes)?, "log", &key.public_key(), &verify).ok()?;
        // Nothing but what was signed is ever accepted.
        assert_eq!(opened, signed);
        Some(opened.body())
    });
    let verifier = checkpoint::verifier_key("log", &key.public_key());
    feed(4, &[verifier.as_bytes(), b"a+b+c"], |bytes| {
        let (name, public_key) = checkpoint::parse_verifier_key(text(bytes)?).ok()?;
        assert_eq!(checkpoint::verifier_key(&name, &public_key), text(bytes)?);
        Some(name)
    });
}

#[test]
fn configurations() {
    let full =
        b"store_url = 'sqlite:x'\nmaster_key = 'hex:0001'\ngrace_days = 3\n[audit]\nack = 'queued'\n[scheduler]\n\
                 enabled = true\ncron = '5 4 * * *'\n[cache]\nsize = 5\nttl_seconds = 6\n[deletion]\nwait_days = 9\n\
                 [limits]\noperations = 7\nresult_mib = 8\n";
    feed(5, &[full, b"grace_days = 3", b"store_url = \"sqlite:a\"", b"[scheduler]\nverify = false", b""], |bytes| {
        Config::from_toml(text(bytes)?).ok().map(|config| format!("{config:?}"))
    });
    feed(6, &[b"hex:0001", b"base64:AAAA", b"passphrase:correct horse", b"correct horse battery"], |bytes| {
        let text = text(bytes).filter(|text| !text.starts_with("file:"))?;
        RootKeySource::parse(text).ok().map(|source| format!("{source:?}"))
    });
    feed(7, &[b"none", b"argon2id:m=65536,t=3,p=1"], |bytes| {
        Derivation::from_stored(text(bytes)?, Some(&[0; 16])).ok().map(|derivation| format!("{derivation:?}"))
    });
}

#[test]
fn requests() {
    let conditions = br#"{"notBefore":"2026-01-01T00:00:00Z","sourceIp":["10.0.0.0/8","fd00::/8"],"encryptionContextSubset":{"a":"b"}}"#;
    feed(8, &[conditions, b"{}"], |bytes| {
        let conditions: Conditions = serde_json::from_slice(bytes).ok()?;
        let again = serde_json::to_string(&conditions).unwrap();
        assert_eq!(serde_json::from_str::<Conditions>(&again).unwrap(), conditions);
        Some(again)
    });
    feed(9, &[br#"{"tenant":"acme","table":"users"}"#, b"{}"], |bytes| {
        let context: Context = serde_json::from_slice(bytes).ok()?;
        Some(format!("{context:?} {:?}", context.check()))
    });
    let key =
        br#"{"name":"k","type":"AES256_GCM","purpose":"ENCRYPTION","rotationPeriodDays":9,"metadata":{"a":[1,2.5]}}"#;
    feed(10, &[key], |bytes| serde_json::from_slice::<CreateKey>(bytes).ok().map(|new| format!("{new:?}")));
    feed(11, &[b"0 * * * *", b"*/5 1-3,7 1 JAN MON-FRI", b"@daily", b"59 23 31 12 7"], |bytes| {
        let schedule = Schedule::parse(text(bytes)?).ok()?;
        let now = Timestamp::from_micros(1_800_000_000_000_000);
        let next = schedule.next_after(now)?;
        assert!(next > now);
        Some(next.to_string())
    });
    feed(12, &[b"2026-11-23T18:26:46Z", b"2026-11-23T18:26:46.123456+02:00"], |bytes| {
        let time: Timestamp = text(bytes)?.parse().ok()?;
        assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
        Some(time.to_string())
    });
    feed(13, &[b"*", b"01234567-89ab-4def-8123-456789abcdef"], |bytes| {
        let scope = GrantScope::parse(text(bytes)?).ok()?;
        assert_eq!(GrantScope::parse(&scope.to_string()).unwrap(), scope);
        Some(format!("{scope} {:?}", KeyRef::from(text(bytes)?)))
    });
    feed(14, &[br#"{"a":[1,-2.5e10,"\u00e9\n",null,true,{}]}"#, b"[]"], |bytes| {
        let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
        let canonical = kms_lib::audit::canonical::canonical(&value).ok()?;
        // Canonical text is its own canonical form.
        let again: serde_json::Value = serde_json::from_str(&canonical).unwrap();
        assert_eq!(kms_lib::audit::canonical::canonical(&again).unwrap(), canonical);
        Some(canonical)
    });
}
