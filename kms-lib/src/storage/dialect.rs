//! How engines differ in what they call a column's type and in a few statements.

/// An engine's way of speaking SQL. Everything else is the same text for all.
#[derive(Debug)]
pub struct Dialect {
    /// The engine's name.
    pub name: &'static str,
    /// Type of 64-bit integers.
    pub integer: &'static str,
    /// Type of byte strings of any length.
    pub blob: &'static str,
    /// Type of byte strings of at most 64 bytes that are keys or indexed.
    pub short_blob: &'static str,
    /// Type of text of any length, compared by its bytes.
    pub text: &'static str,
    /// Type of text of at most 512 bytes that is a key or indexed, compared by its bytes.
    pub short_text: &'static str,
    /// Ends `INSERT ... VALUES (...)` into `usage_hourly` so that an existing row is counted up.
    pub count_up: &'static str,
    /// Ends a `SELECT` so that the row is locked for this transaction; empty where the transaction locks by itself.
    pub lock_row: &'static str,
}

impl Dialect {
    /// Puts the engine's column types into the text of a migration.
    pub fn ddl(&self, text: &str) -> String {
        text.replace("{int}", self.integer)
            .replace("{short_blob}", self.short_blob)
            .replace("{blob}", self.blob)
            .replace("{short_text}", self.short_text)
            .replace("{text}", self.text)
    }
}

/// SQLite 3.35 and later.
pub static SQLITE: Dialect = Dialect {
    name: "sqlite",
    integer: "INTEGER",
    blob: "BLOB",
    short_blob: "BLOB",
    text: "TEXT",
    short_text: "TEXT",
    count_up: "ON CONFLICT (hour, action, status) DO UPDATE SET count = usage_hourly.count + excluded.count",
    lock_row: "",
};
