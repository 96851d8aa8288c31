//! AWS KMS as the root key (feature `aws-kms`).

#[cfg(feature = "aws-kms")]
mod client;
#[cfg(feature = "aws-kms")]
mod context;
#[cfg(feature = "aws-kms")]
mod failure;
#[cfg(all(feature = "aws-kms", feature = "import"))]
mod foreign;
mod key_name;
#[cfg(feature = "aws-kms")]
mod root_key;
mod settings;

#[cfg(all(test, feature = "aws-kms"))]
mod tests;

#[cfg(all(feature = "aws-kms", feature = "import"))]
pub use foreign::ForeignKeys;
#[cfg(feature = "import")]
pub use key_name::KeyName;
#[cfg(feature = "aws-kms")]
pub use root_key::AwsKmsRootKey;
pub use settings::AwsRootKey;
