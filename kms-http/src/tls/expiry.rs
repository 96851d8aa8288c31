//! The expiry time of certificates.

use std::time::SystemTime;

use x509_cert::Certificate;
use x509_cert::der::{Decode, Reader, SliceReader};

/// Expiry time of a certificate (DER); None if it cannot be parsed.
pub(crate) fn expiry(certificate: &[u8]) -> Option<SystemTime> {
    // Be lenient: certificates may deviate from RFC 5280, and only the validity is needed.
    let mut reader = SliceReader::new(certificate).ok()?;
    let certificate = Certificate::decode(&mut reader).ok()?;
    reader.is_finished().then(|| certificate.tbs_certificate().validity().not_after.to_system_time())
}
