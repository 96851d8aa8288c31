//! The location of a store, as given by `store_url`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::Store;
use super::url::invalid;
pub use super::url::{Url, redact};
use crate::types::error::{Error, Result};

/// The location of a store.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// The path of a SQLite file.
    Sqlite(PathBuf),
    /// A database on a MySQL or MariaDB server.
    Mysql(Url),
    /// A database on a PostgreSQL server.
    Postgres(Url),
}

impl Location {
    /// Parses a `store_url`.
    pub fn parse(url: &str) -> Result<Self> {
        match url.split_once(':') {
            Some(("sqlite", path)) => sqlite(path),
            Some(("mysql" | "mariadb", _)) => Ok(Self::Mysql(Url::parse(url, "mysql")?)),
            Some(("postgres" | "postgresql", _)) => Ok(Self::Postgres(Url::parse(url, "postgres")?)),
            _ => Err(invalid("store_url: sqlite:PATH, mysql://... or postgres://... is expected")),
        }
    }

    /// Parses the URL of a server that names a user, and inserts this password, which is not percent-encoded.
    pub fn parse_with_password(url: &str, password: &str) -> Result<Self> {
        let wrong = || {
            invalid("store_password_file needs a store_url of a database server, with a user and without a password")
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let (user, place) = rest.split_once('@').ok_or_else(wrong)?;
        if user.contains([':', '/']) || scheme == "sqlite" {
            return Err(wrong());
        }
        let mut whole = Zeroizing::new(format!("{scheme}://{user}:"));
        for byte in password.bytes() {
            match byte {
                b'-' | b'.' | b'_' | b'~' => whole.push(char::from(byte)),
                _ if byte.is_ascii_alphanumeric() => whole.push(char::from(byte)),
                _ => whole.push_str(&format!("%{byte:02X}")),
            }
        }
        whole.push('@');
        whole.push_str(place);
        Self::parse(&whole)
    }

    /// Opens the store at this location.
    pub async fn open(&self) -> Result<Arc<dyn Store>> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(path) => Ok(Arc::new(super::sqlite::SqliteStore::open(path).await?)),
            #[cfg(feature = "mysql")]
            Self::Mysql(url) => {
                url.check_files()?;
                super::mysql::open(url).await
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(url) => {
                url.check_files()?;
                super::postgres::open(url).await
            }
            #[allow(unreachable_patterns, reason = "which engines are left depends on the features")]
            _ => Err(unsupported()),
        }
    }

    /// The path of a SQLite store; an error for a database server.
    pub fn file(&self) -> Result<&PathBuf> {
        match self {
            Self::Sqlite(path) => Ok(path),
            _ => Err(Error::invalid(
                "this operation is for SQLite stores; back up and restore a database server with its own tools",
            )),
        }
    }
}

/// Opens the file of a SQLite store, such as a backup, without writing to it.
#[cfg(feature = "sqlite")]
pub async fn open_file_read_only(path: &Path) -> Result<Arc<dyn Store>> {
    Ok(Arc::new(super::sqlite::SqliteStore::open_read_only(path).await?))
}

/// Opens no file: this build does not have SQLite.
#[cfg(not(feature = "sqlite"))]
pub async fn open_file_read_only(_: &Path) -> Result<Arc<dyn Store>> {
    Err(unsupported())
}

/// Whether this is the file of a SQLite store that this process has open and may write.
#[cfg(feature = "sqlite")]
pub fn is_open_file(path: &Path) -> Result<bool> {
    super::sqlite::is_open(path)
}

/// Whether this is the file of an open store: never, since this build does not have SQLite.
#[cfg(not(feature = "sqlite"))]
pub fn is_open_file(_: &Path) -> Result<bool> {
    Ok(false)
}

fn unsupported() -> Error {
    invalid("store_url: this build does not support that engine; enable the crate's feature for it")
}

fn sqlite(path: &str) -> Result<Location> {
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path.starts_with(":memory:") || path.contains(['?', '\0']) {
        return Err(invalid("store_url: sqlite:PATH must name a file, without parameters"));
    }
    Ok(Location::Sqlite(PathBuf::from(path)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::error::ErrorCode;

    #[test]
    fn what_is_not_understood_is_refused() {
        for url in [
            "",
            "kms.db",
            "sqlite",
            "mysql",
            "sqlite:",
            "sqlite::memory:",
            "sqlite:x?mode=ro",
            "mysql:",
            "mysql://db",
            "mysql://db/",
            "mysql://db/a/b",
            "mysql://kms:12/34?56@db/kms",
            "postgres://kms:12/34@db",
            "mysql://db/kms?charset=latin1",
            "postgres://db/kms?options=-csynchronous_commit%3Doff",
            "oracle://db/kms",
        ] {
            assert_eq!(Location::parse(url).err().unwrap().code(), ErrorCode::InvalidConfiguration, "{url}");
        }
        assert!(matches!(Location::parse("mariadb://u:p@db/kms?ssl-ca=/ca.pem"), Ok(Location::Mysql(url))
            if url.to_string() == "mysql://u:***@db/kms?ssl-ca=/ca.pem" && !url.has_ssl_mode()));
        assert!(matches!(Location::parse("postgresql://u:p@db/kms?sslmode=disable"), Ok(Location::Postgres(url))
            if url.has_ssl_mode()));
    }
}
