//! Where a root key comes from: the forms of `KMS_MASTER_KEY`, or AWS KMS.

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

/// A root key as it was given: 32 bytes, a passphrase to derive them from, or a key in AWS KMS ([`AwsRootKey`]).
///
/// The form of a local one is named by a prefix, never guessed from what the text looks like:
///
/// | text | meaning |
/// | --- | --- |
/// | `base64:...` | 32 bytes in base64 (RFC 4648, with padding) |
/// | `hex:...` | 32 bytes in hexadecimal |
/// | `file:PATH` | the file's content in one of the other forms |
/// | `passphrase:...`, or no prefix | a passphrase of at least 12 characters (Argon2id, RFC 9106) |
///
/// Line ends at the end of the text or the file are not part of it. The file must be a regular file with mode 0600 or
/// stricter. Modes 0440 and 0640, which a Kubernetes volume gets from `fsGroup`, are accepted with a warning.
#[derive(Clone)]
pub struct RootKeySource(Form);

#[derive(Clone)]
pub(super) enum Form {
    // Behind a pointer: moving the bytes themselves would leave copies of them on the stack.
    Key(Arc<Zeroizing<[u8; 32]>>),
    Passphrase(Arc<Zeroizing<String>>),
    Aws(Arc<AwsRootKey>),
}

impl RootKeySource {
    /// Reads a root key in one of its forms; a file is read at once. `InvalidRootKey` if it is malformed.
    pub fn parse(text: &str) -> Result<Self> {
        let text = without_line_end(text);
        match text.strip_prefix("file:") {
            Some(path) => Self::parse_content(without_line_end(&Self::read(path)?)),
            None => Self::parse_content(text),
        }
    }

    /// A new root key of 32 random bytes, as the text `base64:...` that [`RootKeySource::parse`] reads. Whoever keeps
    /// it keeps the store: without it, everything in the store is lost.
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

    /// Reads 32 bytes.
    pub fn from_bytes(key: [u8; 32]) -> Self {
        let key = Zeroizing::new(key);
        Self(Form::Key(on_heap(key.as_slice()).unwrap_or_default()))
    }

    /// A key in AWS KMS.
    pub fn aws(root: AwsRootKey) -> Self {
        Self(Form::Aws(Arc::new(root)))
    }

    /// Whether it can be used at all; asks nobody. `InvalidConfiguration` if not.
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
            return Err(invalid("file names another file"));
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

/// Compares two root keys in constant time. Only whether their forms or lengths differ shows in the time.
impl PartialEq for RootKeySource {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Form::Key(one), Form::Key(other)) => one.as_slice().ct_eq(other.as_slice()).into(),
            (Form::Passphrase(one), Form::Passphrase(other)) => one.as_bytes().ct_eq(other.as_bytes()).into(),
            // Names of a key hold no secret.
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

/// Copies 32 bytes from where they are to the heap, and nowhere else.
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
    // With room for all: growing would leave a copy of what was there.
    let mut bytes = Zeroizing::new(Vec::with_capacity(digits.len() / 2));
    for pair in digits.chunks_exact(2) {
        bytes.push(value(pair[0])? << 4 | value(pair[1])?);
    }
    Some(bytes)
}

/// Editors and `echo` end a text with a line end, and so do secrets that are made of such files.
fn without_line_end(text: &str) -> &str {
    text.trim_end_matches(['\r', '\n'])
}
