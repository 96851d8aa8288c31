//! Identifiers: random UUIDs (RFC 9562, version 4), one type per entity so that they cannot be mixed up.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::{Error, ErrorCode};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                // One number of fixed size is hashed faster than bytes with their length.
                state.write_u128(self.0.as_u128());
            }
        }

        #[allow(dead_code, reason = "every identifier has the same functions")]
        impl $name {
            /// A new random identifier.
            pub fn random() -> Self {
                Self(random_uuid())
            }
            /// The identifier with these 16 bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
            /// The identifier in a slice read from storage. Fails with `StoreCorrupt` unless it has 16 bytes.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, Error> {
                Uuid::from_slice(bytes).map(Self).map_err(|_| {
                    let text = concat!("a stored ", stringify!($name), " is not 16 bytes long");
                    Error::new(ErrorCode::StoreCorrupt, text)
                })
            }
            /// Appends the same text as `Display` to `out`, without the overhead of the formatter.
            pub fn write_to(&self, out: &mut String) {
                out.push_str(self.0.hyphenated().encode_lower(&mut [0; 36]));
            }
            /// Parses a hyphenated UUID; `None` if the text is not one.
            pub(crate) fn read(text: &str) -> Option<Self> {
                // Only the hyphenated form: braces and urn: prefixes would give one id several spellings.
                if text.len() == 36 { Uuid::try_parse(text).ok().map(Self) } else { None }
            }
            /// The identifier's 16 bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }
        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self, Error> {
                Self::read(text).ok_or_else(|| {
                    let text = concat!("not a valid ", stringify!($name), ": a UUID is expected");
                    Error::new(ErrorCode::InvalidArgument, text)
                })
            }
        }
    };
}

id!(
    /// The identifier of a key.
    KeyId
);
id!(
    /// The identifier of a version of a key.
    VersionId
);
id!(
    /// The identifier of a grant.
    GrantId
);
id!(
    /// The identifier of a credential, which is part of its token.
    CredentialId
);
id!(
    /// The identifier of an entry of the quarantine.
    QuarantineId
);
id!(
    /// The identifier of a generation of the root key.
    RootKeyId
);
id!(
    /// The identifier of a key of the service: an integrity or signing key.
    ServiceKeyId
);
id!(
    /// The identifier of a run of an import.
    ImportRunId
);
id!(
    /// The identifier of an audit record.
    RecordId
);
id!(
    /// The identifier of an audit log. Every store has its own, which is part of each record's hash.
    LogId
);

fn random_uuid() -> Uuid {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid()
}
