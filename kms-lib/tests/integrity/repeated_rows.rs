//! Tests of tables that have a row twice, as a file has in which a block was written to the wrong place.

use std::path::Path;

use crate::common::{Place, actor, admin, check_usable, code};
use kms_lib::{Context, ErrorCode, KeyUpdate, Kms, NewGrant, NewKey, NewToken, Permission, Role};
use rusqlite::{Connection, params};

/// A row of `sqlite_schema`: type, name, table, root page, text.
type Object = (String, String, String, i64, Option<String>);

/// A table, and then its indexes.
fn objects_of(connection: &Connection, table: &str) -> Vec<Object> {
    let sql = "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema WHERE tbl_name = ? ORDER BY type DESC";
    let mut statement = connection.prepare(sql).unwrap();
    let object = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?));
    statement.query_map([table], object).unwrap().collect::<Result<_, _>>().unwrap()
}

/// Executes statements on a table without its constraints and indexes, which then do not have the changed rows.
fn behind_the_indexes(file: &Path, table: &str, sql: &str) {
    let open = || {
        let connection = Connection::open(file).unwrap();
        connection.execute_batch("PRAGMA writable_schema = ON").unwrap();
        connection
    };
    let connection = open();
    let objects = objects_of(&connection, table);
    connection.execute("DELETE FROM sqlite_schema WHERE tbl_name = ? AND type = 'index'", [table]).unwrap();
    let text = objects[0].4.clone().unwrap().replace("UNIQUE (key_id, version)", "CHECK (1)");
    let text = text.replace(" PRIMARY KEY", "").replace(" UNIQUE", "");
    let set_text = "UPDATE sqlite_schema SET sql = ? WHERE name = ?";
    connection.execute(set_text, [&text, table]).unwrap();
    connection.close().unwrap();
    let connection = open();
    connection.execute_batch(sql).unwrap();
    connection.execute(set_text, [objects[0].4.as_deref().unwrap(), table]).unwrap();
    for (kind, name, table, root, sql) in &objects[1..] {
        let insert = "INSERT INTO sqlite_schema (type, name, tbl_name, rootpage, sql) VALUES (?, ?, ?, ?, ?)";
        connection.execute(insert, params![kind, name, table, root, sql]).unwrap();
    }
    connection.close().unwrap();
}

/// A store with three keys, each with its grant and token, and a copy from before the first key was rotated.
struct Made {
    place: Place,
    old: std::path::PathBuf,
    tokens: Vec<String>,
}

async fn made() -> Made {
    let place = Place::in_a_file();
    let kms = place.open().await;
    let session = admin(&kms);
    let mut tokens = Vec::new();
    for name in ["a", "b", "c"] {
        session.create_key(NewKey::aes(name)).await.unwrap();
        let grant = NewGrant::new(name, Role::App).on_all_keys().allow([Permission::Encrypt]);
        session.put_grant(grant).await.unwrap();
        let token = session.create_token(NewToken::new(name, Role::App)).await.unwrap().token.to_string();
        crate::common::output::secret(token.as_bytes());
        tokens.push(token);
    }
    kms.close().await.unwrap();
    let old = place.folder.path().join("old.db");
    std::fs::copy(place.file(), &old).unwrap();
    let kms = place.open().await;
    admin(&kms).rotate_key("a", None).await.unwrap();
    kms.close().await.unwrap();
    Made { place, old, tokens }
}

/// Whether the principal's key, grant and token are good.
async fn are_good(kms: &Kms, tokens: &[String]) -> Vec<(bool, bool, bool)> {
    let mut good = Vec::new();
    for (name, token) in ["a", "b", "c"].iter().zip(tokens) {
        let key = match admin(kms).encrypt(*name, b"x", &Context::new()).await {
            Ok(_) => true,
            Err(error) => error.code() != ErrorCode::IntegrityFailure,
        };
        let app = kms.session(actor(name, Role::App));
        let grant = match app.encrypt("c", b"x", &Context::new()).await {
            Ok(_) => true,
            Err(error) => error.code() != ErrorCode::AccessDenied,
        };
        good.push((key, grant, kms.authenticate(token).await.is_ok()));
    }
    good
}

/// A row that exists twice is quarantined, and so is the row in whose place it is. The rest is used.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_in_the_place_of_another_is_quarantined_with_it() {
    let owner = |table: &str, name: &str| match table {
        "keys" => format!("name = '{name}'"),
        "key_versions" => format!("key_id = (SELECT id FROM \"keys\" WHERE name = '{name}') AND version = 1"),
        _ => format!("principal = '{name}'"),
    };
    for (place, table) in ["keys", "key_versions", "grants", "credentials"].into_iter().enumerate() {
        let Made { place: store, old, tokens } = made().await;
        let (a, b) = (owner(table, "a"), owner(table, "b"));
        // The second copy is from before the rotation in every other table.
        let from = if place % 2 == 0 { "old" } else { "main" };
        let sql = format!(
            "ATTACH '{}' AS old; DELETE FROM main.\"{table}\" WHERE {b};
             INSERT INTO main.\"{table}\" SELECT * FROM {from}.\"{table}\" WHERE {a}",
            old.display()
        );
        behind_the_indexes(&store.file(), table, &sql);
        for _ in 0..2 {
            let kms = store.open().await;
            let good = are_good(&kms, &tokens).await;
            let is = |altered: &str| table != altered;
            let expected = (is("keys") && is("key_versions"), is("grants"), is("credentials"));
            assert_eq!(good, [expected, expected, (true, true, true)], "{table}");
            let report = admin(&kms).verify_audit().await.unwrap();
            let text = report.faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            assert!(text.contains(&format!("of {table} ")), "{table}: {text}");
            kms.close().await.unwrap();
        }
    }
}

/// Nothing is used if two rows contradict each other and the log does not say which one a statement reads.
#[tokio::test(flavor = "multi_thread")]
async fn two_rows_for_one_version_are_not_used() {
    let Made { place, old, tokens } = made().await;
    // The other history, in which the second version is newer.
    let lost = Place::in_a_file();
    std::fs::copy(&old, lost.file()).unwrap();
    let kms = lost.open().await;
    for days in 1..6 {
        admin(&kms).update_key("b", KeyUpdate::new().rotation_period_days(days)).await.unwrap();
    }
    admin(&kms).rotate_key("a", None).await.unwrap();
    kms.close().await.unwrap();
    let sql = format!(
        "ATTACH '{}' AS lost; INSERT INTO main.key_versions SELECT * FROM lost.key_versions WHERE version = 2",
        lost.file().display()
    );
    behind_the_indexes(&place.file(), "key_versions", &sql);
    let kms = place.open().await;
    assert_eq!(code(admin(&kms).encrypt("c", b"x", &Context::new()).await), ErrorCode::IntegrityFailure);
    assert_eq!(code(kms.authenticate(&tokens[2]).await), ErrorCode::NotAuthenticated);
    assert!(!admin(&kms).verify_audit().await.unwrap().ok);
    kms.close().await.unwrap();
    // Without the row, everything is as before.
    behind_the_indexes(
        &place.file(),
        "key_versions",
        "DELETE FROM key_versions WHERE rowid = (SELECT MAX(rowid) FROM key_versions)",
    );
    let kms = place.open().await;
    check_usable(&kms).await;
    kms.close().await.unwrap();
}
