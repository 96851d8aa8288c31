//! Sources of root keys: the forms of `KMS_MASTER_KEY`, and AWS KMS.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::aws::AwsRootKey;
use super::secret_file::read_secret_file;
use crate::types::error::{Error, ErrorCode, Result};

/// Shortest passphrase, in characters.
const PASSPHRASE_CHARS: usize = 12;

/// A configured root key: 32 bytes, a passphrase from which they are derived, or a key in AWS KMS ([`AwsRootKey`]).
///
/// The form of a local root key is given by a prefix, never guessed from the text:
///
/// | text | meaning |
/// | --- | --- |
/// | `base64:...` | 32 bytes in base64 (RFC 4648, with padding) |
/// | `hex:...` | 32 bytes in hexadecimal |
/// | `file:PATH` | a file whose content has one of the other forms |
/// | `passphrase:...`, or no prefix | a passphrase of at least 12 characters (Argon2id, RFC 9106) |
///
/// Trailing line ends of the text or the file are ignored. The file must be a regular file with mode 0600 or stricter.
/// Modes 0440 and 0640, which a Kubernetes volume gets from `fsGroup`, are accepted with a warning.
#[derive(Clone)]
pub struct RootKeySource(Form);

#[derive(Clone)]
pub(super) enum Form {
    // Behind a pointer, because moving the bytes would leave copies on the stack.
    Key(Arc<Zeroizing<[u8; 32]>>),
    Passphrase(Arc<Zeroizing<String>>),
    Aws(Arc<AwsRootKey>),
}

impl RootKeySource {
    /// Parses a root key in one of the forms above; a file is read at once. Fails with `InvalidRootKey` if it is
    /// malformed.
    pub fn parse(text: &str) -> Result<Self> {
        let text = without_line_end(text);
        match text.strip_prefix("file:") {
            Some(path) => Self::parse_content(without_line_end(&Self::read(path)?)),
            None => Self::parse_content(text),
        }
    }

    /// Generates a root key of 32 random bytes, as the text `base64:...` that [`RootKeySource::parse`] reads. Keep a
    /// copy of it: without the root key, everything in the store is lost.
    pub fn generate() -> Result<Zeroizing<String>> {
        let mut key = Zeroizing::new([0; 32]);
        crate::crypto::provider(crate::crypto::CryptoProvider::default())?.random(key.as_mut_slice())?;
        let mut text = Zeroizing::new(String::with_capacity(64));
        text.push_str("base64:");
        STANDARD.encode_string(key.as_slice(), &mut text);
        Ok(text)
    }

    fn read(path: &str) -> Result<Zeroizing<String>> {
        read_secret_file(Path::new(path)).map_err(|why| invalid(&why.to_string()).with_source(why))
    }

    /// A local root key with these 32 bytes.
    pub fn from_bytes(key: [u8; 32]) -> Self {
        let key = Zeroizing::new(key);
        Self(Form::Key(on_heap(key.as_slice()).unwrap_or_default()))
    }

    /// A key in AWS KMS.
    pub fn aws(root: AwsRootKey) -> Self {
        Self(Form::Aws(Arc::new(root)))
    }

    /// Checks the settings of a key in AWS KMS without calling it. Fails with `InvalidConfiguration`.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.0 {
            Form::Aws(root) if cfg!(feature = "aws-kms") => root.check(),
            Form::Aws(_) => Err(Self::no_aws()),
            Form::Key(_) | Form::Passphrase(_) => Ok(()),
        }
    }

    pub(super) fn no_aws() -> Error {
        let text = "this program was built without AWS KMS; build it with the feature aws-kms";
        Error::new(ErrorCode::InvalidConfiguration, text)
    }

    fn parse_content(text: &str) -> Result<Self> {
        if let Some(encoded) = text.strip_prefix("base64:") {
            let decoded = STANDARD.decode(encoded).map(Zeroizing::new);
            return Self::from_decoded(decoded.map_err(|_| invalid("is not valid base64"))?);
        }
        if let Some(encoded) = text.strip_prefix("hex:") {
            return Self::from_decoded(decode_hex(encoded).ok_or_else(|| invalid("is not valid hexadecimal"))?);
        }
        if text.starts_with("file:") {
            return Err(invalid("file names another file; write the root key itself into it"));
        }
        let passphrase = text.strip_prefix("passphrase:").unwrap_or(text);
        if passphrase.is_empty() {
            return Err(invalid("is empty"));
        }
        if passphrase.chars().count() < PASSPHRASE_CHARS {
            return Err(invalid(&format!("is a passphrase of fewer than {PASSPHRASE_CHARS} characters")));
        }
        Ok(Self(Form::Passphrase(Arc::new(Zeroizing::new(passphrase.to_owned())))))
    }

    fn from_decoded(bytes: Zeroizing<Vec<u8>>) -> Result<Self> {
        let length = bytes.len();
        on_heap(&bytes)
            .map(|key| Self(Form::Key(key)))
            .ok_or_else(|| invalid(&format!("has {length} bytes instead of 32")))
    }

    pub(super) fn form(&self) -> &Form {
        &self.0
    }
}

/// Compares two root keys in constant time. The time reveals only whether their forms or lengths differ.
impl PartialEq for RootKeySource {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Form::Key(one), Form::Key(other)) => one.as_slice().ct_eq(other.as_slice()).into(),
            (Form::Passphrase(one), Form::Passphrase(other)) => one.as_bytes().ct_eq(other.as_bytes()).into(),
            // Names of keys are not secret.
            (Form::Aws(one), Form::Aws(other)) => one == other,
            (Form::Key(_) | Form::Passphrase(_) | Form::Aws(_), _) => false,
        }
    }
}

impl Eq for RootKeySource {}

impl fmt::Debug for RootKeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Key(_) => f.write_str("RootKeySource(32 bytes, hidden)"),
            Form::Passphrase(_) => f.write_str("RootKeySource(passphrase, hidden)"),
            Form::Aws(root) => write!(f, "RootKeySource(AWS KMS, {})", root.key_id()),
        }
    }
}

/// Copies 32 bytes to the heap without further copies on the stack.
fn on_heap(bytes: &[u8]) -> Option<Arc<Zeroizing<[u8; 32]>>> {
    let mut key = Arc::new(Zeroizing::new([0; 32]));
    let place = Arc::get_mut(&mut key)?;
    if bytes.len() != place.len() {
        return None;
    }
    place.copy_from_slice(bytes);
    Some(key)
}

fn invalid(why: &str) -> Error {
    Error::new(ErrorCode::InvalidRootKey, format!("the root key {why}"))
}

fn decode_hex(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let value = |c: u8| (c as char).to_digit(16).and_then(|d| u8::try_from(d).ok());
    // The capacity is sufficient for all bytes, because growing would leave a copy.
    let mut bytes = Zeroizing::new(Vec::with_capacity(digits.len() / 2));
    for pair in digits.chunks_exact(2) {
        bytes.push(value(pair[0])? << 4 | value(pair[1])?);
    }
    Some(bytes)
}

/// Removes trailing line ends, which editors and `echo` add.
fn without_line_end(text: &str) -> &str {
    text.trim_end_matches(['\r', '\n'])
}
