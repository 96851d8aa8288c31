//! When a certificate ends.

use std::time::SystemTime;

use x509_cert::Certificate;
use x509_cert::der::{Decode, Reader, SliceReader};

/// When a certificate (DER) ends.
pub(crate) fn expiry(certificate: &[u8]) -> Option<SystemTime> {
    // Servers' certificates may be stranger than RFC 5280 allows; only what is asked for is read.
    let mut reader = SliceReader::new(certificate).ok()?;
    let certificate = Certificate::decode(&mut reader).ok()?;
    reader.is_finished().then(|| certificate.tbs_certificate().validity().not_after.to_system_time())
}
