//! The encryption context: names and values bound to a ciphertext as additional authenticated data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::limits::{CONTEXT_BYTES, CONTEXT_ENTRIES};

/// Names and values that a ciphertext is bound to, at most 64 entries and 8 KiB. Decryption needs exactly the same
/// entries, in any order. Not secret: audit records contain them, unless the [`AuditContext`](crate::AuditContext)
/// of the key is `Hmac`.
///
/// ```
/// let context = kms_lib::Context::from([("tenant", "acme"), ("table", "users")]);
/// assert_eq!(context.get("tenant"), Some("acme"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Context(BTreeMap<String, String>);

impl Context {
    /// The empty context.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }
    /// Sets an entry, replacing one with the same name.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) -> &mut Self {
        self.0.insert(name.into(), value.into());
        self
    }
    /// The value of the entry with this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
    /// The entries, ordered by the UTF-8 bytes of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// The number of entries.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Length of all names and values together, in bytes of UTF-8.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
    /// Checks the limits, and refuses U+0000, which PostgreSQL cannot store. Fails with `InvalidArgument`.
    pub fn check(&self) -> Result<()> {
        if self.len() > CONTEXT_ENTRIES {
            return Err(Error::invalid(format!(
                "the context has {} entries; at most {CONTEXT_ENTRIES} are allowed",
                self.len()
            )));
        }
        if self.bytes() > CONTEXT_BYTES {
            return Err(Error::invalid(format!(
                "the context has {} bytes; at most {CONTEXT_BYTES} are allowed",
                self.bytes()
            )));
        }
        if self.iter().any(|(name, value)| name.contains('\0') || value.contains('\0')) {
            return Err(Error::invalid("the context contains U+0000"));
        }
        Ok(())
    }
}

impl<N: Into<String>, V: Into<String>, const K: usize> From<[(N, V); K]> for Context {
    fn from(entries: [(N, V); K]) -> Self {
        entries.into_iter().collect()
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Context {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(entries: I) -> Self {
        Self(entries.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}
