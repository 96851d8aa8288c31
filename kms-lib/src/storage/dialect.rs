//! The differences between engines: column types and a few statements.

use crate::types::tallies::COUNT_MAX;

/// The SQL dialect of an engine. All other SQL is the same text for every engine.
#[derive(Debug)]
pub struct Dialect {
    /// The engine's name: `sqlite`, `mysql` or `postgres`.
    pub name: &'static str,
    /// The type of 64-bit integers.
    pub integer: &'static str,
    /// The type name for casts to a 64-bit integer.
    pub cast_integer: &'static str,
    /// The type of byte strings of any length.
    pub blob: &'static str,
    /// The type of byte strings of at most 64 bytes that are keys or indexed.
    pub short_blob: &'static str,
    /// The type of text of any length, compared bytewise.
    pub text: &'static str,
    /// The type of text of at most 512 bytes that is a key or indexed, compared bytewise.
    pub short_text: &'static str,
    /// The prefix and suffix of a text literal in hexadecimal digits.
    pub text_literal: (&'static str, &'static str),
    /// The prefix and suffix of a byte string literal in hexadecimal digits.
    pub blob_literal: (&'static str, &'static str),
    /// The end of `INSERT ... VALUES (...)` into `usage_hourly` that adds to the count of an existing row (`{count}`).
    pub count_up: &'static str,
    /// The functions for the smaller and the larger of two numbers.
    pub least_greatest: (&'static str, &'static str),
    /// Whether the indexes of the log are indexes of the engine. If not, they are tables of our own: an index of the
    /// engine costs every commit a page in SQLite, and servers add rows to tables several times more slowly than to
    /// their indexes.
    pub keeps_log_indexes: bool,
    /// The end of a `SELECT` that locks the row for this transaction; empty where the transaction locks automatically.
    pub lock_row: &'static str,
    /// An expression for the database's own clock, in microseconds since 1970; `NULL` where that is this machine's
    /// clock.
    pub now: &'static str,
    /// The end of a definition of a table that is stored in the order of its primary key, if the engine needs one.
    pub clustered: &'static str,
    /// The end of the index over versions near their limit, which restricts it to these. Empty where the engine has no
    /// partial indexes.
    pub near_limit: &'static str,
    /// Whether a transaction that changes the schema can be rolled back. If not, such a transaction may be half done,
    /// and each of its statements must be repeatable.
    pub schema_rolls_back: bool,
    /// Whether a successful rollback after a failed commit proves that nothing was committed.
    pub rollback_is_proof: bool,
    /// A query for the number of the named tables that exist (`{tables}`: a list of quoted names).
    pub count_tables: &'static str,
}

impl Dialect {
    /// Inserts the engine's column types into the text of a migration.
    pub fn ddl(&self, text: &str) -> String {
        text.replace("{int}", self.integer)
            .replace("{short_blob}", self.short_blob)
            .replace("{blob}", self.blob)
            .replace("{short_text}", self.short_text)
            .replace("{text}", self.text)
            .replace("{near_limit}", self.near_limit)
            .replace("{clustered}", self.clustered)
    }

    /// An expression for the value of a counter's column, limited to 0 to `COUNT_MAX`, so that no sum overflows even if
    /// an attacker altered the column.
    pub fn counter(&self, column: &str) -> String {
        let (least, greatest) = self.least_greatest;
        format!("CAST({least}({greatest}({column}, 0), {COUNT_MAX}) AS {})", self.cast_integer)
    }
}

/// The condition that a query must repeat for the engine to use the index.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
const NEAR_LIMIT: &str = " WHERE near_limit = 1";

/// The dialect of SQLite 3.35 and later.
#[cfg(feature = "sqlite")]
pub static SQLITE: Dialect = Dialect {
    name: "sqlite",
    integer: "INTEGER",
    cast_integer: "INTEGER",
    blob: "BLOB",
    short_blob: "BLOB",
    text: "TEXT",
    short_text: "TEXT",
    text_literal: ("CAST(x'", "' AS TEXT)"),
    blob_literal: ("x'", "'"),
    count_up: "ON CONFLICT (hour, action, status) DO UPDATE SET count = {count} + excluded.count",
    least_greatest: ("MIN", "MAX"),
    keeps_log_indexes: false,
    lock_row: "",
    now: "NULL",
    clustered: " WITHOUT ROWID",
    near_limit: NEAR_LIMIT,
    schema_rolls_back: true,
    rollback_is_proof: true,
    count_tables: "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name IN ({tables})",
};

/// The dialect of PostgreSQL 13 and later.
#[cfg(feature = "postgres")]
pub static POSTGRES: Dialect = Dialect {
    name: "postgres",
    integer: "BIGINT",
    cast_integer: "BIGINT",
    blob: "BYTEA",
    short_blob: "BYTEA",
    text: "TEXT",
    // The database's collation would use language rules, which also change with the system's libraries.
    short_text: "TEXT COLLATE \"C\"",
    text_literal: ("convert_from('\\x", "', 'UTF8')"),
    blob_literal: ("'\\x", "'::bytea"),
    count_up: "ON CONFLICT (hour, action, status) DO UPDATE SET count = {count} + excluded.count",
    least_greatest: ("LEAST", "GREATEST"),
    keeps_log_indexes: true,
    lock_row: " FOR UPDATE",
    now: "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)",
    clustered: "",
    near_limit: NEAR_LIMIT,
    schema_rolls_back: true,
    rollback_is_proof: false,
    // Covers every schema in which statements find tables; the information schema hides tables without privileges.
    count_tables: "SELECT COUNT(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                   WHERE c.relkind IN ('r', 'p') AND c.relname IN ({tables}) \
                   AND n.nspname = ANY (current_schemas(false))",
};

/// The dialect of MySQL 8, MariaDB 10.6, and later versions.
#[cfg(feature = "mysql")]
pub static MYSQL: Dialect = Dialect {
    name: "mysql",
    integer: "BIGINT",
    cast_integer: "SIGNED",
    blob: "LONGBLOB",
    short_blob: "VARBINARY(64)",
    text: "LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    // Stored as bytes: collations ignore trailing blanks, or differ between MySQL and MariaDB.
    short_text: "VARBINARY(512)",
    text_literal: ("_utf8mb4 x'", "'"),
    blob_literal: ("x'", "'"),
    count_up: "ON DUPLICATE KEY UPDATE count = {count} + VALUES(count)",
    least_greatest: ("LEAST", "GREATEST"),
    keeps_log_indexes: true,
    lock_row: " FOR UPDATE",
    now: "CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)",
    clustered: "",
    near_limit: "",
    schema_rolls_back: false,
    rollback_is_proof: false,
    count_tables: "SELECT COUNT(*) FROM information_schema.tables \
                   WHERE table_schema = DATABASE() AND table_name IN ({tables})",
};
