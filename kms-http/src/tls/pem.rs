//! Reads certificates and keys from PEM files (RFC 7468).

use std::fs;
use std::io::Read;
use std::path::Path;

use kms_lib::{Error, Result};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::settings;

/// Maximum size of a file, in bytes.
const LARGEST_FILE: u64 = 4 * 1024 * 1024;
/// Extra capacity, so that `read_to_end` does not grow the buffer when it checks for the end of the file.
const SLACK: usize = 64;

/// Reads a private key: PKCS#8, PKCS#1 or SEC 1.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let text = read(path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|e| invalid(path, &format!("contains no private key: {e}")))
}

/// Reads certificate authorities to trust.
pub(crate) fn authorities(path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|e| invalid(path, &format!("contains a certificate that is not usable: {e}")))?;
    }
    Ok(roots)
}

/// Reads certificate revocation lists.
pub(super) fn revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>> {
    all(path, "contains no certificate revocation list")
}

/// Reads certificates in the order of the file.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    all(path, "contains no certificate")
}

fn all<T: PemObject>(path: &Path, none: &str) -> Result<Vec<T>> {
    let found: std::result::Result<Vec<T>, _> = T::pem_slice_iter(&read(path)?).collect();
    let found = found.map_err(|e| invalid(path, &format!("is not valid PEM: {e}")))?;
    if found.is_empty() { Err(invalid(path, none)) } else { Ok(found) }
}

/// Reads a file with certificates or a key.
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let unreadable = |e: std::io::Error| invalid(path, &format!("cannot be read: {e}"));
    let file = fs::File::open(path).map_err(unreadable)?;
    // Allocate the maximum at once: growing the buffer would leave copies of a key in memory.
    let mut content = Zeroizing::new(Vec::with_capacity(LARGEST_FILE as usize + SLACK));
    file.take(LARGEST_FILE + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > LARGEST_FILE {
        Err(invalid(path, &format!("is larger than {LARGEST_FILE} bytes")))
    } else {
        Ok(content)
    }
}

fn invalid(path: &Path, problem: &str) -> Error {
    settings::invalid(format!("{}: {problem}", path.display()))
}
