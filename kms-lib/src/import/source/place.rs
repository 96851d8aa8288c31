//! The location of the data of Mini KMS on Node, and the secrets to read it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::envelope::{AwsRootKey, KeyName, read_secret_file};
use crate::storage::{Location, Url};
use crate::types::error::{Error, ErrorCode, Result};

/// The location of the data of Mini KMS on Node, with the master secret that unwraps its key material.
///
/// ```
/// use kms_lib::ImportSource;
/// let source = ImportSource::parse("mysql://kms:secret@db.example.com/kms")?.master_secret("the old KMS_MASTER_KEY");
/// assert!(!format!("{source:?}").contains("secret@"));
/// # Ok::<(), kms_lib::Error>(())
/// ```
#[derive(Clone)]
pub struct ImportSource {
    form: Form,
    root: Option<Arc<Zeroizing<[u8; 32]>>>,
    aws: Option<AwsRootKey>,
    aws_keys: Vec<KeyName>,
}

/// The kinds of source.
#[derive(Clone)]
pub(super) enum Form {
    /// A MySQL or MariaDB database.
    Database(Url),
    /// A JSON file, or a folder with JSON files.
    Json(PathBuf),
}

impl ImportSource {
    /// Accepts the URL of a database (`mysql://` or `mariadb://`), with the parameters of a store's URL; or the path of
    /// an older version's folder with `keys.json`, `key_versions.json`, `grants.json` and `audit_logs.json`; or the
    /// path of its log alone.
    ///
    /// `InvalidConfiguration` for anything else. An SQL dump is refused: load it into a database first.
    pub fn parse(from: &str) -> Result<Self> {
        if from.contains("://") {
            return Self::at(Location::parse(from).map_err(about_source)?);
        }
        let path = Path::new(from);
        let is_dump = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("sql"));
        if is_dump {
            return Err(invalid(format!(
                "{from}: an SQL dump cannot be read directly; load it into an empty database (mariadb \
                 --init-command='SET FOREIGN_KEY_CHECKS=0' kms_old < {from}), then import from \
                 mysql://USER@HOST/kms_old"
            )));
        }
        Ok(Self::of(Form::Json(path.to_owned())))
    }

    /// The database of a URL without a password, with the user's password given separately and unencoded.
    pub fn with_password(from: &str, password: &str) -> Result<Self> {
        Self::at(Location::parse_with_password(from, password).map_err(about_source)?)
    }

    fn at(location: Location) -> Result<Self> {
        match location {
            Location::Mysql(url) => Ok(Self::of(Form::Database(url))),
            _ => Err(invalid("Mini KMS on Node keeps its data in MySQL or MariaDB: mysql://... is expected")),
        }
    }

    fn of(form: Form) -> Self {
        Self { form, root: None, aws: None, aws_keys: Vec::new() }
    }

    /// The master secret: the text of the original's `KMS_MASTER_KEY`.
    #[must_use]
    pub fn master_secret(mut self, secret: &str) -> Self {
        self.root = Some(Arc::new(Zeroizing::new(Sha256::digest(secret.as_bytes()).into())));
        self
    }

    /// Reads the master secret from a file of mode 0600. Trailing line ends are removed.
    ///
    /// `InvalidConfiguration` if a master secret was given before, `InvalidRootKey` if the file cannot be used.
    pub fn master_secret_file(self, path: impl AsRef<Path>) -> Result<Self> {
        if self.root.is_some() {
            return Err(invalid("the master secret is given twice: give either the secret or a file with it"));
        }
        let text = read_secret_file(path.as_ref()).map_err(|why| {
            Error::new(ErrorCode::InvalidRootKey, format!("the master secret's {why}")).with_source(why)
        })?;
        let secret = text.trim_end_matches(['\r', '\n']);
        if secret.is_empty() {
            return Err(Error::new(ErrorCode::InvalidRootKey, "the master secret's file is empty"));
        }
        Ok(self.master_secret(secret))
    }

    /// Settings for AWS KMS, for material that it wrapped. Their key name is ignored, see
    /// [`aws_key`](Self::aws_key). Without settings, the SDK's default chain determines region and endpoint.
    #[must_use]
    pub fn aws(mut self, settings: AwsRootKey) -> Self {
        self.aws = Some(settings);
        self
    }

    /// Allows the import to decrypt with a key in AWS KMS: an ARN, a key id, or an alias if the wrappings name one.
    /// Without this, AWS is never called, because the source must not choose the keys, accounts and regions that this
    /// process calls. Versions wrapped by a key that is not allowed are refused and listed.
    ///
    /// `InvalidConfiguration` if it is not the name of a key.
    pub fn aws_key(mut self, key: &str) -> Result<Self> {
        self.aws_keys.push(KeyName::parse(key)?);
        Ok(self)
    }

    pub(super) fn form(&self) -> &Form {
        &self.form
    }
    /// The original's root key, if the master secret was given.
    pub(crate) fn root(&self) -> Option<&[u8; 32]> {
        self.root.as_deref().map(|root| &**root)
    }
    /// The settings for AWS KMS, if given.
    #[cfg_attr(not(feature = "aws-kms"), expect(dead_code, reason = "only AWS KMS uses them"))]
    pub(crate) fn aws_settings(&self) -> Option<&AwsRootKey> {
        self.aws.as_ref()
    }
    /// The keys in AWS KMS that the import may use.
    #[cfg(feature = "aws-kms")]
    pub(crate) fn aws_keys(&self) -> &[KeyName] {
        &self.aws_keys
    }
}

impl fmt::Display for ImportSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.form {
            Form::Database(url) => url.fmt(f),
            Form::Json(path) => path.display().fmt(f),
        }
    }
}

impl fmt::Debug for ImportSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImportSource({self})")
    }
}

/// An error about a URL in the terms of an import: it is not the store's, and neither is the password.
fn about_source(error: Error) -> Error {
    let text = error.message().replace("the store_url", "the URL").replace("store_url", "the source's URL");
    error.with_message(text.replace("store_password_file", "the source's password"))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidConfiguration, message)
}
