//! Whether the files have changed.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::pem;
use crate::settings::TlsSettings;

/// A digest of the files, to see whether they have changed. It is compared with itself only.
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
