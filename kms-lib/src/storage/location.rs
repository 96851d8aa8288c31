//! Where a store is, as `store_url` says it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::Store;
use crate::types::error::{Error, ErrorCode, Result};

/// Parameters that the URL of a server may have.
const PARAMETERS: [&str; 5] = ["ssl-mode", "ssl-ca", "ssl-cert", "ssl-key", "socket"];

/// Where a store is.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// A database of a MySQL or MariaDB server.
    Mysql(Url),
    /// A database of a PostgreSQL server.
    Postgres(Url),
}

/// The URL of a database on a server. It holds a password: only [`fmt::Display`] is to be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    text: String,
    has_mode: bool,
    /// Certificates and keys that it names.
    files: Vec<String>,
}

impl Url {
    /// Whether the files it names can be read: of a connection that fails for this reason nobody could tell.
    fn check_files(&self) -> Result<()> {
        for file in self.files.iter().filter(|file| !file.contains('%')) {
            std::fs::File::open(file).map_err(|e| invalid(format!("store_url: {file} cannot be read: {e}")))?;
        }
        Ok(())
    }
    /// The whole URL, with the password.
    #[cfg(any(feature = "mysql", feature = "postgres"))]
    pub(super) fn secret(&self) -> &str {
        &self.text
    }
    /// Whether it says how far TLS is to be checked.
    #[cfg(any(feature = "mysql", feature = "postgres"))]
    pub(super) fn has_ssl_mode(&self) -> bool {
        self.has_mode
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact(&self.text))
    }
}

/// A URL without the password in it, if it has one.
pub fn redact(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => match rest[..at].split_once(':') {
            Some((user, _)) => format!("{scheme}://{user}:***{}", &rest[at..]),
            None => url.to_owned(),
        },
        // A password with a slash in it that was not written as %2F: where it ends cannot be known.
        None if rest.contains('@') => format!("{scheme}://***"),
        None => url.to_owned(),
    }
}

impl Location {
    /// Understands a URL.
    pub fn parse(url: &str) -> Result<Self> {
        match url.split_once(':') {
            Some(("sqlite", path)) => sqlite(path),
            Some(("mysql" | "mariadb", _)) => Ok(Self::Mysql(server(url, "mysql")?)),
            Some(("postgres" | "postgresql", _)) => Ok(Self::Postgres(server(url, "postgres")?)),
            _ => Err(invalid("store_url: sqlite:PATH, mysql://... or postgres://... is expected")),
        }
    }

    /// Understands the URL of a server that names a user, with the password for it, as it is.
    pub fn parse_with_password(url: &str, password: &str) -> Result<Self> {
        let wrong =
            || invalid("store_password_file: the store_url of a server that names a user and no password is needed");
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

    /// Opens the store there.
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
            _ => Err(invalid("store_url: this build does not have that engine (a feature of the crate)")),
        }
    }

    /// The file of a SQLite store.
    pub fn file(&self) -> Result<&PathBuf> {
        match self {
            Self::Sqlite(path) => Ok(path),
            _ => Err(Error::invalid(
                "this is for SQLite stores; a database server is backed up and restored with its own tools",
            )),
        }
    }
}

fn sqlite(path: &str) -> Result<Location> {
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path.starts_with(":memory:") || path.contains(['?', '\0']) {
        return Err(invalid("store_url: sqlite:PATH names a file, without parameters"));
    }
    Ok(Location::Sqlite(PathBuf::from(path)))
}

/// Holds the URL of a server against what we know of such URLs: what would be ignored is refused.
fn server(url: &str, scheme: &str) -> Result<Url> {
    let rest = url.split_once("://").map(|(_, rest)| rest);
    let rest = rest.ok_or_else(|| invalid(format!("store_url: {scheme}://USER:PASSWORD@HOST/DATABASE is expected")))?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let database = place.split_once('/').map_or("", |(_, database)| database);
    if database.is_empty() || database.contains(['/', '@']) || query.contains('@') || url.contains(['#', '\0']) {
        return Err(invalid(
            "store_url: no database is named, or a character is not written as it must be in a URL (%2F for a slash)",
        ));
    }
    let (mut has_mode, mut files) = (false, Vec::new());
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let name = match name {
            "sslmode" => "ssl-mode",
            "sslrootcert" | "sslca" => "ssl-ca",
            other => other,
        };
        if !PARAMETERS.contains(&name) {
            // What it is may be a part of the password.
            return Err(invalid(format!("store_url: an unknown parameter; there are {}", PARAMETERS.join(", "))));
        }
        has_mode |= name == "ssl-mode";
        if matches!(name, "ssl-ca" | "ssl-cert" | "ssl-key") {
            files.push(value.to_owned());
        }
    }
    Ok(Url { text: format!("{scheme}://{rest}"), has_mode, files })
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidConfiguration, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn passwords_are_never_shown() {
        for (url, shown) in [
            ("mysql://kms:secret@db/kms", "mysql://kms:***@db/kms"),
            ("mysql://kms:se@cret@db/kms", "mysql://kms:***@db/kms"),
            ("postgres://kms@db:5432/kms?ssl-mode=disable", "postgres://kms@db:5432/kms?ssl-mode=disable"),
            ("postgres://kms:se/cret@db/kms", "postgres://***"),
            ("postgres://kms:se?cret@db/kms", "postgres://***"),
            ("sqlite:kms.db", "sqlite:kms.db"),
        ] {
            assert_eq!(redact(url), shown);
        }
    }

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
