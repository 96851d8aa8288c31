//! Names of AWS KMS keys: key ids, aliases and ARNs.

use crate::types::error::{Error, ErrorCode, Result};

/// Longest name of an alias, `alias/` included (AWS KMS API reference).
const ALIAS_CHARS: usize = 256;

/// The configured name of a key in AWS KMS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyName {
    /// A key id, in the configured region and the account of the credentials.
    Id(String),
    /// An alias with its prefix `alias/`, in the configured region and the account of the credentials.
    Alias(String),
    /// The ARN of a key.
    KeyArn(KeyArn),
    /// The ARN of an alias.
    AliasArn {
        /// The complete ARN, as it was configured.
        text: String,
        /// The region in the ARN.
        region: String,
    },
}

/// The ARN of a key, which is the only name that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyArn {
    text: String,
    region: String,
    id: String,
}

impl KeyName {
    /// Parses a name in one of its forms. Fails with `InvalidConfiguration`.
    pub fn parse(text: &str) -> Result<Self> {
        let malformed = || {
            let forms = "a key id, a key ARN, alias/NAME or an alias ARN";
            Error::new(ErrorCode::InvalidConfiguration, format!("the AWS KMS key {:?} is not {forms}", shown(text)))
        };
        if is_alias(text) {
            return Ok(Self::Alias(text.to_owned()));
        }
        if is_key_id(text) {
            return Ok(Self::Id(text.to_owned()));
        }
        let Some((region, resource)) = split_arn(text) else { return Err(malformed()) };
        if is_alias(resource) {
            return Ok(Self::AliasArn { text: text.to_owned(), region: region.to_owned() });
        }
        KeyArn::read(text).map(Self::KeyArn).ok_or_else(malformed)
    }

    /// The name, as sent to AWS KMS.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Id(text) | Self::Alias(text) | Self::AliasArn { text, .. } => text,
            Self::KeyArn(arn) => arn.as_str(),
        }
    }

    /// The region in the name, if it is an ARN.
    pub fn region(&self) -> Option<&str> {
        match self {
            Self::Id(_) | Self::Alias(_) => None,
            Self::KeyArn(arn) => Some(&arn.region),
            Self::AliasArn { region, .. } => Some(region),
        }
    }

    /// Whether this name is of the key with that ARN; `None` for an alias, which only AWS KMS can resolve.
    pub fn names(&self, arn: &KeyArn) -> Option<bool> {
        match self {
            Self::KeyArn(own) => Some(own == arn),
            Self::Id(id) => Some(*id == arn.id),
            Self::Alias(_) | Self::AliasArn { .. } => None,
        }
    }
}

impl KeyArn {
    /// Parses the ARN of a key; `None` if the text is not one.
    pub fn read(text: &str) -> Option<Self> {
        let (region, resource) = split_arn(text)?;
        let id = resource.strip_prefix("key/").filter(|id| is_key_id(id))?;
        Some(Self { text: text.to_owned(), region: region.to_owned(), id: id.to_owned() })
    }
    /// The complete ARN as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
    /// The key's id.
    #[cfg(all(feature = "aws-kms", feature = "import"))]
    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

/// The region and the resource of `arn:PARTITION:kms:REGION:ACCOUNT:RESOURCE`.
fn split_arn(text: &str) -> Option<(&str, &str)> {
    let mut parts = text.splitn(6, ':');
    let mut next = || parts.next().unwrap_or_default();
    let (arn, partition, service, region, account, resource) = (next(), next(), next(), next(), next(), next());
    let is_account = account.len() == 12 && account.bytes().all(|c| c.is_ascii_digit());
    let is_aws = partition == "aws" || partition.strip_prefix("aws-").is_some_and(is_region);
    (arn == "arn" && is_aws && service == "kms" && is_region(region) && is_account).then_some((region, resource))
}

/// Whether this has the form of the name of a region, such as `eu-central-1`.
pub fn is_region(text: &str) -> bool {
    (2..=32).contains(&text.len())
        && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
}

/// Whether this is a key id: a UUID or, for a multi-Region key, `mrk-` and 32 hexadecimal digits.
fn is_key_id(text: &str) -> bool {
    let is_hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    if let Some(digits) = text.strip_prefix("mrk-") {
        return digits.len() == 32 && digits.bytes().all(is_hex);
    }
    let groups: Vec<&str> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) && groups.iter().all(|group| group.bytes().all(is_hex))
}

fn is_alias(text: &str) -> bool {
    let is_part = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'/' | b'_' | b'-');
    text.len() <= ALIAS_CHARS
        && text.strip_prefix("alias/").is_some_and(|name| !name.is_empty() && name.bytes().all(is_part))
}

/// The beginning of an untrusted text, for an error.
fn shown(text: &str) -> String {
    text.chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ID: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";

    #[test]
    fn every_form_of_a_key_name_is_read() {
        let arn = format!("arn:aws:kms:eu-central-1:111122223333:key/{ID}");
        let multi = "arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab";
        let alias = "arn:aws-cn:kms:cn-north-1:111122223333:alias/app/root";
        assert_eq!(KeyName::parse(ID).unwrap(), KeyName::Id(ID.into()));
        assert_eq!(KeyName::parse("alias/app_root-1").unwrap().region(), None);
        assert_eq!(KeyName::parse(&arn).unwrap().region(), Some("eu-central-1"));
        assert_eq!(KeyName::parse(multi).unwrap().region(), Some("us-gov-west-1"));
        assert_eq!(KeyName::parse(alias).unwrap().region(), Some("cn-north-1"));
        assert_eq!(KeyName::parse(alias).unwrap().as_str(), alias);
    }

    #[test]
    fn other_texts_are_refused() {
        let other_account = format!("arn:aws:kms:eu-central-1:1111:key/{ID}");
        let other_service = format!("arn:aws:s3:eu-central-1:111122223333:key/{ID}");
        let no_region = format!("arn:aws:kms::111122223333:key/{ID}");
        let upper = ID.to_ascii_uppercase();
        for text in [
            "",
            "my-key",
            "alias/",
            "alias/a b",
            "alias",
            "key/1234abcd-12ab-34cd-56ef-1234567890ab",
            "arn:aws:kms:eu-central-1:111122223333:key/",
            "arn:aws:kms:eu-central-1:111122223333:key/my-key",
            "arn:aws:kms:eu-central-1:111122223333:alias/",
            "arn:aws:kms:eu-central-1:111122223333",
            "arn:evil:kms:eu-central-1:111122223333:alias/a",
            "arn:aws:kms:EU:111122223333:alias/a",
            "mrk-1234",
            &other_account,
            &other_service,
            &no_region,
            &upper,
        ] {
            assert_eq!(KeyName::parse(text).unwrap_err().code(), ErrorCode::InvalidConfiguration, "{text:?}");
        }
    }

    #[test]
    fn only_an_alias_needs_an_answer_from_aws() {
        let arn = KeyArn::read(&format!("arn:aws:kms:eu-central-1:111122223333:key/{ID}")).unwrap();
        assert_eq!(KeyName::parse(ID).unwrap().names(&arn), Some(true));
        assert_eq!(KeyName::parse(arn.as_str()).unwrap().names(&arn), Some(true));
        assert_eq!(KeyName::parse("alias/a").unwrap().names(&arn), None);
        let elsewhere = format!("arn:aws:kms:eu-west-1:111122223333:key/{ID}");
        assert_eq!(KeyName::parse(&elsewhere).unwrap().names(&arn), Some(false));
        assert_eq!(KeyArn::read("arn:aws:kms:eu-central-1:111122223333:alias/a"), None);
    }
}
