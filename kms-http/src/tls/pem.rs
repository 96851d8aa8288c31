//! Certificates and keys out of PEM files (RFC 7468).

use std::fs;
use std::io::Read;
use std::path::Path;

use kms_lib::{Error, Result};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::settings;

/// Longer than any chain or bundle of authorities.
const LARGEST_FILE: u64 = 4 * 1024 * 1024;
/// More room than `read_to_end` asks for when it looks for the end of a file.
const SLACK: usize = 64;

/// A private key: PKCS#8, PKCS#1 or SEC 1.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let text = read(path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|e| invalid(path, &format!("no private key in it: {e}")))
}

/// Certificate authorities to trust.
pub(crate) fn authorities(path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|e| invalid(path, &format!("a certificate in it is of no use: {e}")))?;
    }
    Ok(roots)
}

/// Lists of revoked certificates.
pub(super) fn revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>> {
    all(path, "no revocation list in it")
}

/// Certificates, in their order.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    all(path, "no certificate in it")
}

fn all<T: PemObject>(path: &Path, none: &str) -> Result<Vec<T>> {
    let found: std::result::Result<Vec<T>, _> = T::pem_slice_iter(&read(path)?).collect();
    let found = found.map_err(|e| invalid(path, &format!("not PEM: {e}")))?;
    if found.is_empty() { Err(invalid(path, none)) } else { Ok(found) }
}

/// A file with certificates or a key.
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let unreadable = |e: std::io::Error| invalid(path, &format!("cannot be read: {e}"));
    let file = fs::File::open(path).map_err(unreadable)?;
    // With room for all: a buffer that grew would leave copies of a key behind.
    let mut content = Zeroizing::new(Vec::with_capacity(LARGEST_FILE as usize + SLACK));
    file.take(LARGEST_FILE + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > LARGEST_FILE { Err(invalid(path, "too large")) } else { Ok(content) }
}

fn invalid(path: &Path, problem: &str) -> Error {
    settings::invalid(format!("{}: {problem}", path.display()))
}
