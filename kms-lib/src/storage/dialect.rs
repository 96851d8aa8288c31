//! How engines differ in what they call a column's type and in a few statements.

/// An engine's way of speaking SQL. Everything else is the same text for all.
#[derive(Debug)]
pub struct Dialect {
    /// The engine's name.
    pub name: &'static str,
    /// Type of 64-bit integers.
    pub integer: &'static str,
    /// That type where a value is converted to it.
    pub cast_integer: &'static str,
    /// Type of byte strings of any length.
    pub blob: &'static str,
    /// Type of byte strings of at most 64 bytes that are keys or indexed.
    pub short_blob: &'static str,
    /// Type of text of any length, compared by its bytes.
    pub text: &'static str,
    /// Type of text of at most 512 bytes that is a key or indexed, compared by its bytes.
    pub short_text: &'static str,
    /// What stands before and after the hexadecimal digits of text.
    pub text_literal: (&'static str, &'static str),
    /// What stands before and after the hexadecimal digits of bytes.
    pub blob_literal: (&'static str, &'static str),
    /// Ends `INSERT ... VALUES (...)` into `usage_hourly` so that an existing row is counted up.
    pub count_up: &'static str,
    /// Ends a `SELECT` so that the row is locked for this transaction; empty where the transaction locks by itself.
    pub lock_row: &'static str,
    /// The database's own clock, in microseconds since 1970; `NULL` where it is this machine's.
    pub now: &'static str,
    /// Ends the index over versions that are near their limit, so that it holds only these. Empty where indexes always
    /// hold all rows.
    pub near_limit: &'static str,
    /// Whether a transaction that changes the schema can be rolled back. If not, it may have been left half done, and
    /// every statement of it must bear being repeated.
    pub schema_rolls_back: bool,
    /// Whether a rollback that succeeds after a commit that failed proves that nothing was committed.
    pub rollback_is_proof: bool,
    /// How many of the tables named in the statement's text (`{tables}`, a list of quoted names) are in the database.
    pub count_tables: &'static str,
}

impl Dialect {
    /// Puts the engine's column types into the text of a migration.
    pub fn ddl(&self, text: &str) -> String {
        text.replace("{int}", self.integer)
            .replace("{short_blob}", self.short_blob)
            .replace("{blob}", self.blob)
            .replace("{short_text}", self.short_text)
            .replace("{text}", self.text)
            .replace("{near_limit}", self.near_limit)
    }
}

/// The condition that a query must repeat to use the index.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
const NEAR_LIMIT: &str = " WHERE near_limit = 1";

/// SQLite 3.35 and later.
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
    count_up: "ON CONFLICT (hour, action, status) DO UPDATE SET count = usage_hourly.count + excluded.count",
    lock_row: "",
    now: "NULL",
    near_limit: NEAR_LIMIT,
    schema_rolls_back: true,
    rollback_is_proof: true,
    count_tables: "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name IN ({tables})",
};

/// PostgreSQL 13 and later.
#[cfg(feature = "postgres")]
pub static POSTGRES: Dialect = Dialect {
    name: "postgres",
    integer: "BIGINT",
    cast_integer: "BIGINT",
    blob: "BYTEA",
    short_blob: "BYTEA",
    text: "TEXT",
    // The database's collation would compare by a language's rules, which also change with the system's libraries.
    short_text: "TEXT COLLATE \"C\"",
    text_literal: ("convert_from('\\x", "', 'UTF8')"),
    blob_literal: ("'\\x", "'::bytea"),
    count_up: "ON CONFLICT (hour, action, status) DO UPDATE SET count = usage_hourly.count + excluded.count",
    lock_row: " FOR UPDATE",
    now: "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)",
    near_limit: NEAR_LIMIT,
    schema_rolls_back: true,
    rollback_is_proof: false,
    // In every schema where the statements find them; the information schema hides what one has no rights to.
    count_tables: "SELECT COUNT(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                   WHERE c.relkind IN ('r', 'p') AND c.relname IN ({tables}) AND n.nspname = ANY (current_schemas(false))",
};

/// MySQL 8 and MariaDB 10.6, and later.
#[cfg(feature = "mysql")]
pub static MYSQL: Dialect = Dialect {
    name: "mysql",
    integer: "BIGINT",
    cast_integer: "SIGNED",
    blob: "LONGBLOB",
    short_blob: "VARBINARY(64)",
    text: "LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    // As bytes: collations ignore blanks at the end, or differ between MySQL and MariaDB.
    short_text: "VARBINARY(512)",
    text_literal: ("_utf8mb4 x'", "'"),
    blob_literal: ("x'", "'"),
    count_up: "ON DUPLICATE KEY UPDATE count = usage_hourly.count + VALUES(count)",
    lock_row: " FOR UPDATE",
    now: "CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)",
    near_limit: "",
    schema_rolls_back: false,
    rollback_is_proof: false,
    count_tables: "SELECT COUNT(*) FROM information_schema.tables \
                   WHERE table_schema = DATABASE() AND table_name IN ({tables})",
};
