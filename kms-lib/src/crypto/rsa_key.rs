//! Strict parsing of the encodings of RSA keys, the same for both providers.
//!
//! The providers' own parsers differ: one accepts trailing bytes, the other keys that are restricted to PSS. A store
//! must not contain a key that only one of them can load.

use rsa::pkcs1::{ALGORITHM_OID, RsaPrivateKeyRef, RsaPublicKeyRef};
#[cfg(feature = "import")]
use rsa::pkcs8::SecretDocument;
use rsa::pkcs8::der::asn1::{AnyRef, UintRef};
use rsa::pkcs8::der::pem::LineEnding;
use rsa::pkcs8::der::{Decode, pem};
use rsa::pkcs8::spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};
use rsa::pkcs8::{Document, PrivateKeyInfoRef};
#[cfg(feature = "import")]
use zeroize::Zeroizing;

use super::provider::{RSA_BITS, failure};
use crate::types::error::{Error, Result};

const PUBLIC_LABEL: &str = "PUBLIC KEY";
#[cfg(feature = "import")]
const PRIVATE_LABEL: &str = "PRIVATE KEY";

/// Decodes the PEM of a public key and checks that the service supports the key. Returns the DER.
pub(super) fn public_der(spki_pem: &str) -> Result<Vec<u8>> {
    let (label, document) = Document::from_pem(spki_pem).map_err(|_| public_malformed())?;
    if label != PUBLIC_LABEL {
        return Err(public_malformed());
    }
    let info = SubjectPublicKeyInfoRef::from_der(document.as_bytes()).map_err(|_| public_malformed())?;
    check_algorithm(&info.algorithm)?;
    let bits = info.subject_public_key.as_bytes().ok_or_else(public_malformed)?;
    let key = RsaPublicKeyRef::from_der(bits).map_err(|_| public_malformed())?;
    check_modulus(&key.modulus)?;
    Ok(document.into_vec())
}

/// Decodes the PEM of a private key (PKCS#8) to DER, without further checks.
#[cfg(feature = "import")]
pub fn private_der(pkcs8_pem: &str) -> Result<Zeroizing<Vec<u8>>> {
    let (label, document) = SecretDocument::from_pem(pkcs8_pem).map_err(|_| private_malformed())?;
    if label != PRIVATE_LABEL {
        return Err(private_malformed());
    }
    Ok(Zeroizing::new(document.as_bytes().to_vec()))
}

/// Encodes the DER of a public key as PEM.
pub(super) fn public_pem(spki_der: &[u8]) -> Result<String> {
    pem::encode_string(PUBLIC_LABEL, LineEnding::LF, spki_der).map_err(|_| failure("encoding a public key"))
}

/// Checks that the service supports a private key.
pub(super) fn check_private(pkcs8_der: &[u8]) -> Result<()> {
    let info = PrivateKeyInfoRef::from_der(pkcs8_der).map_err(|_| private_malformed())?;
    check_algorithm(&info.algorithm)?;
    let key = RsaPrivateKeyRef::from_der(info.private_key.as_bytes()).map_err(|_| private_malformed())?;
    if key.other_prime_infos.is_some() {
        return Err(Error::invalid("an RSA key with more than two primes is not supported"));
    }
    check_modulus(&key.modulus)
}

fn check_algorithm(algorithm: &AlgorithmIdentifierRef<'_>) -> Result<()> {
    if algorithm.oid == ALGORITHM_OID && algorithm.parameters == Some(AnyRef::NULL) {
        return Ok(());
    }
    Err(Error::invalid("not an RSA key: rsaEncryption (1.2.840.113549.1.1.1) without parameters is expected"))
}

fn check_modulus(modulus: &UintRef<'_>) -> Result<()> {
    let bytes = modulus.as_bytes();
    let bits = bytes.len() * 8 - bytes.first().map_or(0, |first| first.leading_zeros() as usize);
    if bits == RSA_BITS {
        return Ok(());
    }
    Err(Error::invalid(format!("the RSA key has {bits} bits; {RSA_BITS} are expected")))
}

fn public_malformed() -> Error {
    Error::invalid("not an RSA public key: SubjectPublicKeyInfo as PEM (BEGIN PUBLIC KEY) is expected")
}

pub(super) fn private_malformed() -> Error {
    Error::invalid("not a valid RSA private key: PKCS#8 is expected")
}

pub(super) fn public_refused() -> Error {
    Error::invalid("the RSA public key is not usable: the cryptography provider refuses its modulus or exponent")
}
