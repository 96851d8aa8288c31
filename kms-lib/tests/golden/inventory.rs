//! The forms in golden stores: what this version writes must be in one of them, and they must have every type and
//! state.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kms_lib::{AuditContext, DisabledReason, KeyPurpose, KeyState, KeyType, Origin, RootKeyState, VersionState};
use sqlx::{Connection, Row, SqliteConnection};

use crate::facts;

/// Each query lists the forms of something that is stored.
const QUERIES: &[(&str, &str)] = &[
    ("schema", "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL"),
    ("schema version", "SELECT CAST(version AS TEXT) FROM kms_schema"),
    ("wrapping", "SELECT hex(substr(wrapped, 1, 2)) FROM wrappings"),
    ("check value", "SELECT provider || ' ' || derivation || ' ' || hex(substr(check_value, 1, 2)) FROM root_keys"),
    ("root key state", "SELECT state FROM root_keys"),
    ("service key", "SELECT kind || ' ' || state FROM service_keys"),
    ("record", "SELECT CAST(format AS TEXT) FROM audit_logs"),
    ("checkpoint", "SELECT substr(checkpoint, 1, instr(checkpoint, '/log/')) FROM audit_head"),
    ("counters", "SELECT hex(substr(tallies, 1, 1)) FROM audit_head"),
    ("small value", "SELECT substr(name, 1, instr(name || '.', '.')) FROM meta"),
    ("imported row", "SELECT DISTINCT json_extract(body, '$.format') || '' FROM legacy_rows"),
    ("key type", "SELECT type FROM \"keys\""),
    ("key purpose", "SELECT purpose FROM \"keys\""),
    ("key state", "SELECT state FROM \"keys\""),
    ("state before deletion", "SELECT state_before_deletion FROM \"keys\" WHERE state = 'PENDING_DELETION'"),
    ("disabled reason", "SELECT disabled_reason FROM \"keys\" WHERE disabled_reason IS NOT NULL"),
    ("audit context", "SELECT audit_context FROM \"keys\""),
    ("version state", "SELECT state FROM key_versions"),
    ("origin", "SELECT origin FROM key_versions"),
    ("condition", "SELECT DISTINCT key FROM grants, json_each(conditions)"),
    (
        "quarantined",
        "SELECT entity_table || (CASE WHEN released_at IS NULL THEN ' ' ELSE ' released' END) FROM quarantine",
    ),
];

/// The forms in a store and in the ciphertexts beside it, each with its kind.
async fn of(folder: &Path) -> BTreeSet<(&'static str, String)> {
    let facts = facts::of(folder);
    let mut forms: BTreeSet<_> = facts
        .ciphertexts
        .iter()
        .map(|it| &it.ciphertext)
        .chain(facts.streams.iter().map(|it| &it.ciphertext))
        .map(|ciphertext| ("ciphertext", format!("{:?}", &ciphertext.0[..2])))
        .collect();
    let copy = tempfile::tempdir().unwrap();
    let file = copy.path().join("store.sqlite");
    std::fs::copy(folder.join("store.sqlite"), &file).unwrap();
    let mut raw = SqliteConnection::connect(&format!("sqlite:{}", file.display())).await.unwrap();
    for (kind, query) in QUERIES {
        for row in sqlx::query(*query).fetch_all(&mut raw).await.unwrap() {
            forms.insert((kind, row.get(0)));
        }
    }
    raw.close().await.unwrap();
    forms
}

/// The forms in all golden stores.
async fn golden() -> BTreeSet<(&'static str, String)> {
    let mut forms = BTreeSet::new();
    for folder in facts::golden() {
        forms.extend(of(&folder).await);
    }
    forms
}

/// Fails if a store that this version made has a form that no golden store has.
pub async fn compare(made: &[PathBuf]) {
    let golden = golden().await;
    for folder in made {
        let new: Vec<_> = of(folder).await.difference(&golden).cloned().collect();
        assert!(new.is_empty(), "{}: no golden store has {new:?}; see tests/golden/README.md", folder.display());
    }
}

/// A new type or state needs a golden store that has it.
#[tokio::test]
async fn golden_stores_have_every_type_and_state() {
    let golden = golden().await;
    let names = |names: &[&'static str]| names.to_vec();
    macro_rules! all {
        ($type:ty) => {
            names(&<$type>::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>())
        };
    }
    for (kind, expected) in [
        ("root key state", all!(RootKeyState)),
        ("key type", all!(KeyType)),
        ("key purpose", all!(KeyPurpose)),
        ("key state", all!(KeyState)),
        // `DESTROYED` says that the key is being erased.
        ("state before deletion", names(&["ENABLED", "REVOKED", "DESTROYED"])),
        ("disabled reason", all!(DisabledReason)),
        ("audit context", all!(AuditContext)),
        // Destroying a key leaves the rows of its versions as they are; the key's row decides.
        ("version state", all!(VersionState)),
        ("origin", all!(Origin)),
    ] {
        for name in expected {
            assert!(golden.contains(&(kind, name.to_owned())), "no golden store has a {kind} {name}");
        }
    }
}
