//! Tests that the schema is not trusted: alterations that could change the effect of statements are refused when the
//! store is opened, used or verified; others cause a warning. Verification finds damaged pages and surplus rows.

use crate::common::{Place, actor, admin, check_usable, code};
use kms_lib::{AuditQuery, Context, ErrorCode, Finding, Kms, NewGrant, NewKey, Paging, Permission, Report, Role};

/// Creates a closed store with a key, a grant and some records of two actors.
pub(super) async fn prepared(place: &Place) {
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let granted = [Permission::Encrypt];
    session.put_grant(NewGrant::new("app", Role::App).on_all_keys().allow(granted)).await.unwrap();
    let app = kms.session(actor("app", Role::App));
    for _ in 0..30 {
        session.encrypt("k", b"x", &Context::new()).await.unwrap();
        app.encrypt("k", b"x", &Context::new()).await.unwrap();
    }
    kms.close().await.unwrap();
}

fn names(report: &Report, object: &str) -> bool {
    report.faults.iter().any(|fault| match &fault.finding {
        Finding::SchemaAltered { object: found, .. } => found.contains(object),
        _ => false,
    })
}

/// Alterations for the engine, each with the text that the finding contains.
fn alterations() -> Vec<(&'static str, &'static str)> {
    const COMMON: [(&str, &str); 8] = [
        ("DROP INDEX key_versions_revision{on key_versions}", "key_versions_revision"),
        (
            "DROP INDEX grants_revision{on grants}; CREATE INDEX grants_revision ON grants (principal)",
            "grants_revision",
        ),
        ("CREATE UNIQUE INDEX mine ON usage_hourly (hour, action, status, count)", "mine"),
        ("ALTER TABLE grants ADD COLUMN more {int}", "grants"),
        ("ALTER TABLE usage_hourly RENAME TO other", "usage_hourly"),
        ("ALTER TABLE meta RENAME TO other; CREATE VIEW meta AS SELECT * FROM other", "meta"),
        ("DROP TABLE usage_hourly", "usage_hourly"),
        ("ALTER TABLE audit_logs DROP COLUMN request_id", "audit_logs"),
    ];
    const SQLITE: [(&str, &str); 10] = [
        ("ALTER TABLE audit_keys RENAME TO other; CREATE VIEW audit_keys AS SELECT * FROM other", "audit_keys"),
        ("CREATE TRIGGER t BEFORE INSERT ON audit_actors BEGIN SELECT RAISE(IGNORE); END", "trigger t"),
        (
            "DROP TABLE audit_actors; CREATE TABLE audit_actors (actor TEXT NOT NULL, seq INTEGER NOT NULL,
             PRIMARY KEY (actor, seq))",
            "audit_actors",
        ),
        ("DROP TABLE audit_keys; CREATE TABLE audit_keys (key_id BLOB NOT NULL, seq INTEGER NOT NULL)", "audit_keys"),
        ("CREATE TRIGGER t BEFORE UPDATE ON grants BEGIN SELECT RAISE(IGNORE); END", "trigger t"),
        ("CREATE TABLE x (a); CREATE TRIGGER t AFTER INSERT ON x BEGIN DELETE FROM grants; END", "trigger t"),
        (
            "DROP INDEX grants_revision; CREATE INDEX grants_revision ON grants (revision) WHERE revision > 40",
            "grants_revision",
        ),
        (
            "DROP INDEX grants_revision; CREATE INDEX grants_revision ON grants (revision COLLATE NOCASE)",
            "grants_revision",
        ),
        (
            // SQLite ignores the comment and does not notice that the text was changed.
            "CREATE UNIQUE INDEX mine ON usage_hourly (hour, action, status, count); PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET sql = 'CREATE/**/UNIQUE INDEX mine ON usage_hourly (hour, action, status, count)'
             WHERE name = 'mine'",
            "mine",
        ),
        ("DROP INDEX grants_revision; CREATE INDEX grants_revision ON grants (abs(revision))", "grants_revision"),
    ];
    const POSTGRES: [(&str, &str); 21] = [
        (
            // The name is like the definition of the constraint's index.
            "ALTER TABLE key_versions DROP CONSTRAINT key_versions_key_id_version_key;
             CREATE UNIQUE INDEX \"x USING btree (key_id, version) WITH (\" ON key_versions (id)",
            "key_id, version",
        ),
        ("ALTER TABLE audit_checkpoints DROP CONSTRAINT audit_checkpoints_pkey", "audit_checkpoints"),
        ("ALTER TABLE audit_checkpoints SET UNLOGGED", "audit_checkpoints"),
        ("CREATE RULE r AS ON INSERT TO audit_logs DO INSTEAD NOTHING", "audit_logs"),
        ("ALTER TABLE audit_logs ALTER actor TYPE TEXT COLLATE \"und-x-icu\"", "audit_logs.actor"),
        ("DROP INDEX audit_logs_actor", "audit_logs_actor"),
        (
            "DROP INDEX audit_logs_key_id; CREATE INDEX audit_logs_key_id ON audit_logs (key_id, seq) WHERE seq > 40",
            "audit_logs_key_id",
        ),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER t BEFORE UPDATE ON grants FOR EACH ROW EXECUTE FUNCTION f()",
            "trigger t",
        ),
        (
            "DROP INDEX grants_revision;
             CREATE INDEX grants_revision ON grants (revision) WITH (fillfactor = 90) WHERE (revision > 40)",
            "grants_revision",
        ),
        ("CREATE RULE r AS ON UPDATE TO grants DO INSTEAD NOTHING", "grants"),
        ("ALTER TABLE grants ENABLE ROW LEVEL SECURITY", "grants"),
        ("CREATE TABLE heir () INHERITS (grants)", "grants"),
        ("ALTER TABLE usage_hourly SET UNLOGGED", "usage_hourly"),
        ("ALTER TABLE grants ADD CHECK (withdrawn_at IS NULL) NOT VALID", "constraint"),
        ("ALTER TABLE grants ALTER withdrawn_at SET DEFAULT 5", "grants.withdrawn_at"),
        ("ALTER TABLE grants ALTER principal TYPE TEXT COLLATE \"und-x-icu\"", "grants.principal"),
        ("ALTER TABLE usage_hourly ALTER count DROP NOT NULL", "usage_hourly.count"),
        (
            "DROP INDEX grants_revision; CREATE INDEX grants_revision ON grants (revision) WHERE revision > 40",
            "grants_revision",
        ),
        ("DROP INDEX grants_revision; CREATE INDEX grants_revision ON grants (abs(revision))", "grants_revision"),
        (
            // The usual search path begins with the schema that has the user's name.
            "DO $$ BEGIN EXECUTE format('CREATE SCHEMA %I', current_user);
             EXECUTE format('CREATE TABLE %I.meta (name TEXT, value TEXT)', current_user); END $$",
            "meta",
        ),
        ("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'keys_revision'::regclass", "keys_revision"),
    ];
    const MYSQL: [(&str, &str); 13] = [
        ("CREATE TRIGGER t BEFORE INSERT ON audit_logs FOR EACH ROW SET NEW.seq = 0", "trigger t"),
        ("ALTER TABLE audit_checkpoints DROP PRIMARY KEY", "audit_checkpoints"),
        (
            "ALTER TABLE audit_logs
             MODIFY actor VARCHAR(512) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NOT NULL",
            "audit_logs.actor",
        ),
        ("DROP INDEX audit_logs_actor ON audit_logs", "audit_logs_actor"),
        (
            "DROP INDEX audit_logs_key_id ON audit_logs;
             CREATE INDEX audit_logs_key_id ON audit_logs (key_id(4), seq)",
            "audit_logs_key_id",
        ),
        ("CREATE TRIGGER t BEFORE UPDATE ON grants FOR EACH ROW SET NEW.withdrawn_at = NULL", "trigger t"),
        ("ALTER TABLE meta ENGINE = MyISAM", "table meta"),
        ("ALTER TABLE usage_hourly PARTITION BY HASH (hour) PARTITIONS 2", "usage_hourly"),
        ("ALTER TABLE grants ADD CONSTRAINT c CHECK (withdrawn_at IS NULL)", "constraint c"),
        ("ALTER TABLE grants MODIFY withdrawn_at BIGINT DEFAULT 5", "grants.withdrawn_at"),
        (
            "ALTER TABLE grants MODIFY allowed_ops LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NOT NULL",
            "allowed_ops",
        ),
        (
            // The server does not use the index, and refuses statements that require it.
            "ALTER TABLE key_versions ALTER INDEX key_versions_not_after IGNORED",
            "key_versions_not_after",
        ),
        (
            "ALTER TABLE key_versions DROP INDEX key_versions_not_after;
             CREATE INDEX key_versions_not_after ON key_versions (state(4), not_after)",
            "key_versions_not_after",
        ),
    ];
    let mut all = COMMON.to_vec();
    match crate::common::engine::name().as_str() {
        "sqlite" => all.extend(SQLITE),
        "postgres" => all.extend(POSTGRES),
        _ => all.extend(MYSQL),
    }
    all
}

/// Adapts a statement to the engine's dialect.
fn spelled(sql: &str) -> String {
    let is_mysql = crate::common::engine::name() == "mysql";
    let mut text = sql.replace("{int}", if crate::common::engine::name() == "sqlite" { "INTEGER" } else { "BIGINT" });
    for table in ["key_versions", "grants"] {
        let on = if is_mysql { format!(" ON {table}") } else { String::new() };
        text = text.replace(&format!("{{on {table}}}"), &on);
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_alter_statements_is_refused() {
    for (sql, object) in alterations() {
        let place = Place::new();
        prepared(&place).await;
        let kms = place.open().await;
        let report = admin(&kms).verify_audit().await.unwrap();
        assert!(report.ok && report.warnings.is_empty(), "{report:?}");
        place.tamper(&spelled(sql)).await;
        // While the service is running, verification reports the alteration.
        let report = admin(&kms).verify_audit().await.unwrap();
        assert!(!report.ok && names(&report, object), "{sql}: {report:?}");
        kms.close().await.unwrap();
        let error = Kms::open(place.config()).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::StoreCorrupt, "{sql}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_objects_are_warned_of() {
    let place = Place::new();
    prepared(&place).await;
    let mut statements = vec!["CREATE INDEX mine ON audit_logs (timestamp)", "CREATE TABLE notes (a INTEGER)"];
    if crate::common::engine::name() != "mysql" {
        // ANALYZE's tables on SQLite.
        statements.push("ANALYZE");
    }
    for sql in statements {
        place.tamper(sql).await;
    }
    let kms = place.open().await;
    let report = admin(&kms).verify_audit().await.unwrap();
    assert!(report.ok, "{:?}", report.faults);
    let warnings = report.warnings.join("\n");
    assert!(warnings.contains("mine") && warnings.contains("notes"), "{warnings}");
    if place.is_a_file() {
        assert!(warnings.contains("sqlite_stat1"), "{warnings}");
    }
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

/// Permitted changes by an operator are neither refused nor reported as faults.
#[tokio::test(flavor = "multi_thread")]
async fn maintenance_is_accepted() {
    let statements: &[&str] = match crate::common::engine::name().as_str() {
        "sqlite" => &[
            "ANALYZE; REINDEX; PRAGMA optimize = 0x10002",
            "VACUUM",
            "ALTER TABLE grants RENAME TO other; ALTER TABLE other RENAME TO grants",
            "PRAGMA journal_mode = DELETE; PRAGMA page_size = 8192; PRAGMA auto_vacuum = FULL; VACUUM",
            "CREATE TABLE notes (id INTEGER PRIMARY KEY AUTOINCREMENT, a TEXT UNIQUE); CREATE VIEW v AS SELECT 1",
            "create  index\n mine on audit_logs (lower(action)) where seq > 5",
        ],
        "postgres" => &[
            "ALTER INDEX key_versions_not_after SET (fillfactor = 80); ALTER INDEX keys_pkey SET (fillfactor = 80)",
            "ALTER INDEX version_usage_near_limit SET (fillfactor = 70)",
            "ALTER TABLE audit_logs SET (autovacuum_enabled = false); ALTER TABLE audit_logs REPLICA IDENTITY FULL",
            "CLUSTER key_versions USING key_versions_not_after",
            "REINDEX INDEX CONCURRENTLY key_versions_not_after",
            "CREATE MATERIALIZED VIEW v AS SELECT * FROM grants; CREATE TABLE r (id BYTEA REFERENCES keys (id))",
        ],
        _ => &[
            "ANALYZE TABLE audit_logs; OPTIMIZE TABLE audit_logs",
            "ALTER TABLE \"keys\" RENAME INDEX name TO \"na\"\"me\"",
            "ALTER TABLE key_versions RENAME INDEX key_id TO number",
            "ALTER DATABASE CHARACTER SET utf8mb4; ALTER TABLE meta DEFAULT CHARACTER SET latin1, COMMENT = 'x'",
            "CREATE TABLE r (id VARBINARY(64), CHECK (id <> ''), FOREIGN KEY (id) REFERENCES \"keys\" (id))",
        ],
    };
    for sql in statements {
        let place = Place::new();
        prepared(&place).await;
        place.tamper(sql).await;
        let opened = Kms::open(place.config()).await;
        let kms = opened.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let report = admin(&kms).verify_audit().await.unwrap();
        assert!(report.ok, "{sql}: {:?}", report.faults);
        check_usable(&kms).await;
        kms.close().await.unwrap();
    }
}

/// An unknown schema version excuses what migrations do, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_newer_version_excuses_no_trigger() {
    let newer = "UPDATE kms_schema SET version = 99; CREATE TABLE added (id INTEGER NOT NULL PRIMARY KEY);
                 ALTER TABLE grants ADD COLUMN more BIGINT;
                 ALTER TABLE audit_checkpoints ADD COLUMN more BIGINT; DROP INDEX grants_revision{on grants};
                 CREATE INDEX grants_revision_2 ON grants (revision)";
    let trigger = match crate::common::engine::name().as_str() {
        "sqlite" => {
            "CREATE TRIGGER t AFTER UPDATE ON \"keys\" BEGIN
             UPDATE \"keys\" SET state = OLD.state WHERE id = OLD.id; END"
        }
        "postgres" => {
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER t BEFORE UPDATE ON keys FOR EACH ROW EXECUTE FUNCTION f()"
        }
        _ => "CREATE TRIGGER t BEFORE UPDATE ON \"keys\" FOR EACH ROW SET NEW.state = OLD.state",
    };
    let altered = match crate::common::engine::name().as_str() {
        "mysql" => {
            "DROP INDEX credentials_revision ON credentials;
             CREATE INDEX credentials_revision ON credentials (principal(4))"
        }
        _ => {
            "DROP INDEX credentials_revision;
             CREATE INDEX credentials_revision ON credentials (revision) WHERE revision > 40"
        }
    };
    let place = Place::new();
    prepared(&place).await;
    let kms = place.open().await;
    place.tamper(&spelled(newer)).await;
    let report = admin(&kms).verify_audit().await.unwrap();
    assert!(report.ok && report.warnings.iter().any(|warning| warning.contains("99")), "{report:?}");
    admin(&kms).encrypt("k", b"x", &Context::new()).await.unwrap();
    place.tamper(&format!("{trigger}; {altered}")).await;
    let report = admin(&kms).verify_audit().await.unwrap();
    assert!(!report.ok && names(&report, "trigger t") && names(&report, "credentials_revision"), "{report:?}");
    if place.is_a_file() {
        assert_eq!(code(admin(&kms).disable_key("k").await), ErrorCode::StoreCorrupt);
    }
    kms.close().await.unwrap();
    assert_eq!(code(Kms::open(place.config()).await.map(drop)), ErrorCode::SchemaTooNew);
}

/// The functions and operators in the service's statements are the server's own.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_path_with_the_catalog_at_its_end_is_refused() {
    if crate::common::engine::name() != "postgres" {
        return;
    }
    let place = Place::new();
    prepared(&place).await;
    let set = |path: &str| {
        let sql = format!("ALTER DATABASE %I SET search_path = {path}");
        format!("DO $$ BEGIN EXECUTE format('{sql}', current_database()); END $$")
    };
    for (path, is_sound) in [("public, pg_catalog", false), ("pg_catalog, public", true), ("public", true)] {
        place.tamper(&set(path)).await;
        match Kms::open(place.config()).await {
            Ok(kms) if is_sound => kms.close().await.unwrap(),
            Err(error) if !is_sound => assert!(error.message().contains("search_path"), "{path}: {error}"),
            other => panic!("{path}: {other:?}"),
        }
    }
}

/// SQLite's schema change counter can be set back. A connection that parses the schema again is not deceived by that.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_counter_that_was_put_back_hides_no_trigger() {
    let place = Place::in_a_file();
    prepared(&place).await;
    let kms = place.open().await;
    let counter = place.number("PRAGMA schema_version").await;
    place
        .tamper(&format!(
            "CREATE TRIGGER undo AFTER UPDATE ON \"keys\" BEGIN
             UPDATE \"keys\" SET state = OLD.state WHERE id = OLD.id; END; PRAGMA schema_version = {counter}"
        ))
        .await;
    // The service has not written yet, and opens a connection for it.
    assert_eq!(code(admin(&kms).disable_key("k").await), ErrorCode::StoreCorrupt);
    kms.close().await.unwrap();
}

/// A trigger that is added while the service runs cannot affect any acknowledged change.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_service_does_not_write_through_a_trigger() {
    let place = Place::in_a_file();
    prepared(&place).await;
    let kms = place.open().await;
    let session = admin(&kms);
    session.encrypt("k", b"x", &Context::new()).await.unwrap();
    let undo = "CREATE TRIGGER undo AFTER UPDATE ON \"keys\" BEGIN
                UPDATE \"keys\" SET state = OLD.state WHERE id = OLD.id; END";
    place.tamper(undo).await;
    assert_eq!(code(session.disable_key("k").await), ErrorCode::StoreCorrupt);
    assert_eq!(code(session.list_audit(&AuditQuery::new(), &Paging::default()).await), ErrorCode::StoreCorrupt);
    place.tamper("DROP TRIGGER undo").await;
    // An operator's index is a schema change too, which is inspected and accepted.
    place.tamper("CREATE INDEX mine ON audit_logs (timestamp)").await;
    session.disable_key("k").await.unwrap();
    session.list_audit(&AuditQuery::new(), &Paging::default()).await.unwrap();
    kms.close().await.unwrap();
}

/// An index of PostgreSQL lacks rows, by a user who may write to its catalogs.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_a_server_that_lacks_rows_is_found() {
    if crate::common::engine::name() != "postgres" {
        return;
    }
    let (index, on, keeps) = ("grants_revision", "grants (revision)", "revision < 0");
    let place = Place::new();
    prepared(&place).await;
    place
        .tamper(&format!(
            "DROP INDEX {index}; CREATE INDEX {index} ON {on} WHERE {keeps};
             UPDATE pg_index SET indpred = NULL WHERE indexrelid = '{index}'::regclass"
        ))
        .await;
    let kms = place.open().await;
    let report = admin(&kms).verify_audit().await.unwrap();
    let text = report.faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(!report.ok && text.contains(index), "{index}: {text}");
    kms.close().await.unwrap();
}

/// Bits are flipped at many places in pages of indexes and tables: verification finds them, or they have no effect.
#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_are_found() {
    use sqlx::{Connection, Row, SqliteConnection};
    let place = Place::in_a_file();
    prepared(&place).await;
    let mut raw = SqliteConnection::connect(&place.url()).await.unwrap();
    let size: i64 = sqlx::query_scalar("PRAGMA page_size").fetch_one(&mut raw).await.unwrap();
    let size = usize::try_from(size).unwrap();
    let sql = "SELECT d.pageno FROM dbstat d JOIN sqlite_schema s ON s.name = d.name
               WHERE s.tbl_name IN ('audit_logs', 'audit_head', 'audit_actors', 'audit_keys', 'keys',
                                  'key_versions', 'grants')";
    let pages = sqlx::query(sql).fetch_all(&mut raw).await.unwrap();
    raw.close().await.unwrap();
    let good = std::fs::read(place.file()).unwrap();
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let expected = answers(&place).await.unwrap();
    let (mut found, mut harmless) = (0, 0);
    for page in &pages {
        let page = usize::try_from(page.get::<i64, _>(0)).unwrap();
        // Only used bytes are flipped; free space is zero.
        let used: Vec<usize> = (0..size).filter(|at| good[(page - 1) * size + at] != 0).collect();
        for _ in 0..12 {
            let offset = used[random(used.len())];
            let mut bytes = good.clone();
            bytes[(page - 1) * size + offset] ^= 1 << random(8);
            let flipped = Place::in_a_file();
            std::fs::write(flipped.file(), &bytes).unwrap();
            match answers(&flipped).await {
                None => found += 1,
                Some(answers) => {
                    assert_eq!(answers, expected, "page {page}, byte {offset}");
                    harmless += 1;
                }
            }
        }
    }
    assert!(found > 100, "{found} found, {harmless} harmless");
}

/// The results of lists and of the use of keys, or `None` if the store does not open or verification finds a fault.
async fn answers(place: &Place) -> Option<String> {
    let kms = Kms::open(place.config()).await.ok()?;
    let session = admin(&kms);
    let report = session.verify_audit().await;
    let answers = match report {
        Ok(report) if report.ok => {
            let mut text = String::new();
            for actor in ["app", "alice"] {
                let query = AuditQuery::new().oldest_first().actor(actor);
                text.push_str(&format!(
                    "{:?}",
                    session.list_audit(&query, &Paging::new(25)).await.map(|page| page.items)
                ));
            }
            let query = AuditQuery::new().oldest_first().key("k");
            text.push_str(&format!("{:?}", session.list_audit(&query, &Paging::new(20)).await.map(|page| page.items)));
            text.push_str(&format!("{:?}", session.encrypt("k", b"x", &Context::new()).await.is_ok()));
            Some(text)
        }
        _ => None,
    };
    kms.close().await.unwrap();
    answers
}

/// Rows that no statement reaches, or that cannot be read.
#[tokio::test(flavor = "multi_thread")]
async fn surplus_rows_are_found() {
    for (sql, expected) in [
        (
            "INSERT INTO audit_logs SELECT -5, timestamp, actor, role, action, status, request_id, key_id,
             key_version, details, hash, format FROM audit_logs WHERE seq = 2",
            "numbers below 1",
        ),
        ("INSERT INTO audit_head SELECT 2, log_id, seq, hash, timestamp, revision, frontier, checkpoint, tallies,
          indexed FROM audit_head",
         "rows of audit_head"),
        ("INSERT INTO grants SELECT x'01', principal, role, key_id, allowed_ops, conditions, created_at, withdrawn_at,
          grantor, grantor_role, granted_through, cascaded, revision, seal FROM grants", "rows of grants"),
        (
            "INSERT INTO audit_checkpoints SELECT seq + 5, frontier, hash, checkpoint FROM audit_head",
            "stored checkpoint",
        ),
        ("INSERT INTO audit_checkpoints SELECT seq, frontier, hash, checkpoint FROM audit_head", "stored checkpoint"),
    ] {
        let place = Place::in_a_file();
        prepared(&place).await;
        place.tamper(sql).await;
        let kms = place.open().await;
        let report = admin(&kms).verify_audit().await.unwrap();
        let text = report.faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(!report.ok && text.contains(expected), "{sql}: {text}");
        kms.close().await.unwrap();
    }
}
