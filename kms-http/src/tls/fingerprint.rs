//! Detects changes of the TLS files.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::pem;
use crate::settings::TlsSettings;

/// A hash of the content of the files, to detect changes within one process. It is not cryptographic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint(u64);

impl Fingerprint {
    pub(super) fn of(settings: &TlsSettings) -> Self {
        let mut hasher = DefaultHasher::new();
        for file in settings.files() {
            pem::read(file).ok().as_deref().hash(&mut hasher);
        }
        Self(hasher.finish())
    }
}
