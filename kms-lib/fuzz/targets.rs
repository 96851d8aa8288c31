// The fuzz targets: every parser of bytes from outside. Each answers what it made of the bytes, in a form that can be
// compared, and asserts what must hold of everything that is accepted. `tests/features/parsers.rs` runs them over the
// kept corpus and alterations of it; `fuzz/run` is to run one of them for as long as one likes, led by coverage.

use kms_lib::audit::checkpoint;
use kms_lib::internals::{Decryptor, Derivation, Header, Provider, RustCrypto, Schedule, StoredConditions};
use kms_lib::{
    Actor, Ciphertext, Conditions, Config, Context, GrantScope, KeyRef, NewKey, Role, RootKeySource, Timestamp,
    Zeroizing,
};

/// What a parser made of some bytes; none if it refused them.
pub type Target = fn(&[u8]) -> Option<String>;

/// All of them, by the name of their corpus.
pub const TARGETS: [(&str, Target); 16] = [
    ("actor", actor),
    ("canonical", canonical),
    ("checkpoint", open_checkpoint),
    ("ciphertext", ciphertext),
    ("conditions", conditions),
    ("config", config),
    ("context", context),
    ("create_key", create_key),
    ("cron", cron),
    ("derivation", derivation),
    ("root_key", root_key),
    ("scope", scope),
    ("stream", stream),
    ("stream_header", stream_header),
    ("timestamp", timestamp),
    ("verifier_key", verifier_key),
];

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn provider() -> Box<dyn Provider> {
    Box::new(RustCrypto)
}

fn ciphertext(bytes: &[u8]) -> Option<String> {
    let blob = Ciphertext::parse(bytes).ok()?;
    assert!(blob.version > 0 && bytes.ends_with(blob.body));
    Some(format!("{} {} {}", blob.key, blob.version, blob.body.len()))
}

fn stream_header(bytes: &[u8]) -> Option<String> {
    let (header, length) = Header::parse(bytes).ok()??;
    assert_eq!(header.to_bytes(), bytes[..length]);
    // More bytes behind it change nothing; fewer are not enough.
    assert_eq!(Header::parse(&bytes[..length - 1]).ok()?, None);
    Some(format!("{header:?}"))
}

/// A header and chunks under a known key. The kept stream holds `genuine`; nothing else is ever released.
fn stream(bytes: &[u8]) -> Option<String> {
    let (header, length) = Header::parse(bytes).ok()??;
    let mut decryptor = Decryptor::new(provider().as_ref(), &header, &[1; 32]).ok()?;
    let mut out = Zeroizing::default();
    let fed = decryptor.update(&bytes[length..], &mut out);
    let finished = fed.and_then(|()| decryptor.finish(&mut out));
    assert!(out.is_empty() || *out == b"genuine");
    finished.ok().map(|()| format!("{out:?}"))
}

fn open_checkpoint(bytes: &[u8]) -> Option<String> {
    let provider = provider();
    let key = provider.ed25519(&[3; 32]).ok()?;
    let verify = |key: &[u8; 32], message: &[u8], signature: &[u8]| provider.ed25519_verify(key, message, signature);
    let opened = checkpoint::open(text(bytes)?, "log", &key.public_key(), &verify).ok()?;
    // Nothing but what was signed is ever accepted: the kept note is the only one under this key.
    let signed = checkpoint::Checkpoint {
        origin: "log".into(),
        size: 12,
        root: [4; 32],
        revision: Some(3),
        rows: Some([9; 32]),
    };
    assert_eq!(opened, signed);
    assert_eq!(checkpoint::claimed(text(bytes)?), Some(signed));
    Some(opened.body())
}

fn verifier_key(bytes: &[u8]) -> Option<String> {
    let (name, public_key) = checkpoint::parse_verifier_key(text(bytes)?).ok()?;
    assert_eq!(checkpoint::verifier_key(&name, &public_key), text(bytes)?);
    Some(name)
}

fn config(bytes: &[u8]) -> Option<String> {
    Config::from_toml(text(bytes)?).ok().map(|config| format!("{config:?}"))
}

fn root_key(bytes: &[u8]) -> Option<String> {
    // Files are another matter than text, and are not looked for here.
    let text = text(bytes).filter(|text| !text.starts_with("file:"))?;
    let shown = RootKeySource::parse(text).ok().map(|source| format!("{source:?}"))?;
    let secret = text.split_once(':').map_or(text, |(_, secret)| secret);
    assert!(secret.len() < 12 || !shown.contains(secret), "the root key is shown");
    Some(shown)
}

fn derivation(bytes: &[u8]) -> Option<String> {
    Derivation::from_stored(text(bytes)?, Some(&[0; 16])).ok().map(|derivation| format!("{derivation:?}"))
}

fn conditions(bytes: &[u8]) -> Option<String> {
    let conditions: Conditions = serde_json::from_slice(bytes).ok()?;
    let again = serde_json::to_string(&conditions).ok()?;
    assert_eq!(serde_json::from_str::<Conditions>(&again).ok(), Some(conditions.clone()));
    // As they come from the store, where what is unknown denies instead of being refused.
    let stored = StoredConditions::Known(conditions);
    assert_eq!(StoredConditions::from_json(&stored.to_json().ok()?), stored);
    Some(again)
}

fn context(bytes: &[u8]) -> Option<String> {
    let context: Context = serde_json::from_slice(bytes).ok()?;
    Some(format!("{context:?} {:?}", context.check()))
}

fn create_key(bytes: &[u8]) -> Option<String> {
    serde_json::from_slice::<NewKey>(bytes).ok().map(|new| format!("{new:?}"))
}

fn cron(bytes: &[u8]) -> Option<String> {
    let schedule = Schedule::parse(text(bytes)?).ok()?;
    let now = Timestamp::from_micros(1_800_000_000_000_000);
    let next = schedule.next_after(now)?;
    assert!(next > now);
    Some(next.to_string())
}

fn timestamp(bytes: &[u8]) -> Option<String> {
    let time: Timestamp = text(bytes)?.parse().ok()?;
    assert_eq!(time.to_string().parse::<Timestamp>().ok(), Some(time));
    Some(time.to_string())
}

fn scope(bytes: &[u8]) -> Option<String> {
    let scope = GrantScope::parse(text(bytes)?).ok()?;
    assert_eq!(GrantScope::parse(&scope.to_string()).ok(), Some(scope));
    Some(format!("{scope} {:?}", KeyRef::from(text(bytes)?)))
}

fn canonical(bytes: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let canonical = kms_lib::audit::canonical::canonical(&value).ok()?;
    // Canonical text is its own canonical form.
    let again: serde_json::Value = serde_json::from_str(&canonical).ok()?;
    assert_eq!(kms_lib::audit::canonical::canonical(&again).ok(), Some(canonical.clone()));
    Some(canonical)
}

/// A principal and a request id, on two lines.
fn actor(bytes: &[u8]) -> Option<String> {
    let (principal, request) = text(bytes)?.split_once('\n')?;
    let actor = Actor::new(principal, Role::App).and_then(|actor| actor.with_request_id(request)).ok()?;
    // What is recorded has one spelling.
    assert_eq!(Actor::new(actor.principal(), Role::App).ok()?.principal(), actor.principal());
    Some(format!("{actor:?}"))
}

/// Feeds one of them.
#[allow(dead_code, reason = "the fuzzer's way in")]
pub fn fuzz(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(target, _)| *target == name).map(|(_, target)| target);
    target.expect("one of the targets")(bytes);
}
