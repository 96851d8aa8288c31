//! The settings of AWS KMS as the root key.

use std::time::Duration;

use serde::Deserialize;

use super::invalid;
use crate::envelope::AwsRootKey;
use crate::types::error::Result;

/// The settings of AWS KMS from files and the environment. They are used only if `use_aws` is on, so that a file can
/// name the key and the environment can switch it on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AwsSettings {
    /// The key: an id, ARN or alias.
    pub key_id: Option<String>,
    /// A second key, to replace the first.
    pub key_id_next: Option<String>,
    /// The region of both keys, unless they are given as ARNs.
    pub region: Option<String>,
    /// An endpoint other than the region's public one.
    pub endpoint: Option<String>,
    /// Timeout of one attempt, in seconds.
    pub attempt_timeout_seconds: Option<u64>,
    /// Timeout of a whole call, including retries, in seconds.
    pub timeout_seconds: Option<u64>,
}

impl AwsSettings {
    /// Overrides these settings by those that are set in `other`.
    pub fn overlay(&mut self, other: Self) {
        let take = |own: &mut Option<String>, other: Option<String>| *own = other.or_else(|| own.take());
        take(&mut self.key_id, other.key_id);
        take(&mut self.key_id_next, other.key_id_next);
        take(&mut self.region, other.region);
        take(&mut self.endpoint, other.endpoint);
        self.attempt_timeout_seconds = other.attempt_timeout_seconds.or(self.attempt_timeout_seconds);
        self.timeout_seconds = other.timeout_seconds.or(self.timeout_seconds);
    }

    /// Applies an environment variable whose name begins with `KMS_AWS_`.
    pub fn set_variable(&mut self, name: &str, value: String) -> Result<()> {
        let seconds = |value: &str| {
            let number = value.parse::<u64>().map(Some);
            number.map_err(|_| invalid(format!("{name} is not a number of seconds")))
        };
        match name.trim_start_matches("KMS_AWS_") {
            "KEY_ID" => self.key_id = Some(value),
            "KEY_ID_NEXT" => self.key_id_next = Some(value),
            "REGION" => self.region = Some(value),
            "ENDPOINT" => self.endpoint = Some(value),
            "ATTEMPT_TIMEOUT_SECONDS" => self.attempt_timeout_seconds = seconds(&value)?,
            "TIMEOUT_SECONDS" => self.timeout_seconds = seconds(&value)?,
            _ => return Err(invalid(format!("{name} is not a setting; check its name"))),
        }
        Ok(())
    }

    /// The root keys of these settings, the current one first. Fails with `InvalidConfiguration` if a setting is
    /// missing or malformed.
    pub fn root_keys(&self) -> Result<Vec<AwsRootKey>> {
        let missing = "use_aws (KMS_USE_AWS) is on, but aws.key_id (KMS_AWS_KEY_ID) names no key in AWS KMS; set it";
        let first = self.key_id.as_deref().filter(|key| !key.is_empty()).ok_or_else(|| invalid(missing))?;
        let mut keys = vec![self.root_key(first)];
        if let Some(next) = self.key_id_next.as_deref().filter(|key| !key.is_empty()) {
            keys.push(self.root_key(next));
        }
        keys.iter().try_for_each(AwsRootKey::check)?;
        Ok(keys)
    }

    fn root_key(&self, key: &str) -> AwsRootKey {
        let mut root = AwsRootKey::new(key);
        if let Some(region) = self.region.as_ref().filter(|region| !region.is_empty()) {
            root = root.region(region);
        }
        if let Some(endpoint) = self.endpoint.as_ref().filter(|endpoint| !endpoint.is_empty()) {
            root = root.endpoint(endpoint);
        }
        if let Some(seconds) = self.attempt_timeout_seconds {
            root = root.attempt_timeout(Duration::from_secs(seconds));
        }
        if let Some(seconds) = self.timeout_seconds {
            root = root.timeout(Duration::from_secs(seconds));
        }
        root
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::config::Config;
    use crate::types::error::ErrorCode;

    fn from(variables: &[(&str, &str)]) -> crate::types::error::Result<Config> {
        let mut config = Config::new("sqlite:kms.db");
        config.apply_variables(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))?;
        config.check()?;
        Ok(config)
    }

    fn shown(config: &Config) -> Vec<String> {
        config.root_keys().iter().map(|key| format!("{key:?}")).collect()
    }

    #[cfg(feature = "aws-kms")]
    #[test]
    fn files_and_the_environment_name_keys() {
        let config = from(&[("KMS_USE_AWS", "true"), ("KMS_AWS_KEY_ID", "alias/a"), ("KMS_AWS_REGION", "eu-west-1")]);
        let config = config.unwrap();
        assert_eq!(shown(&config), ["RootKeySource(AWS KMS, alias/a)"]);
        assert!(config.has_root_key() && config.next_root_key().is_none());
        let text = "use_aws = true\n[aws]\nkey_id = \"alias/a\"\nregion = \"eu-west-1\"\ntimeout_seconds = 3\n";
        let file = Config::from_toml(text).unwrap();
        assert_eq!(shown(&file), shown(&config));
        // A key that is named is not used until use_aws is on.
        let idle = from(&[("KMS_AWS_KEY_ID", "alias/a")]).unwrap();
        assert!(shown(&idle).is_empty() && !idle.has_root_key());
    }

    #[cfg(feature = "aws-kms")]
    #[test]
    fn the_next_key_is_the_one_beside_the_present() {
        let aws = [("KMS_USE_AWS", "true"), ("KMS_AWS_KEY_ID", "alias/a")];
        let local = ("KMS_MASTER_KEY", "correct horse battery staple");
        let next = |config: &Config| config.next_root_key().map(|key| format!("{key:?}")).unwrap_or_default();
        // From a local key to AWS KMS, from one key there to another, and back to a local key.
        let moving = from(&[aws.as_slice(), &[local]].concat()).unwrap();
        assert_eq!((shown(&moving).len(), next(&moving).as_str()), (2, "RootKeySource(AWS KMS, alias/a)"));
        let moving = from(&[aws.as_slice(), &[("KMS_AWS_KEY_ID_NEXT", "alias/b")]].concat()).unwrap();
        assert_eq!(next(&moving), "RootKeySource(AWS KMS, alias/b)");
        let moving = from(&[aws.as_slice(), &[("KMS_MASTER_KEY_NEXT", local.1)]].concat()).unwrap();
        assert_eq!(next(&moving), "RootKeySource(passphrase, hidden)");
        assert_eq!(from(&[("KMS_MASTER_KEY", local.1)]).unwrap().next_root_key(), None);
    }

    #[cfg(feature = "aws-kms")]
    #[test]
    fn settings_that_lead_nowhere_are_refused() {
        let on = ("KMS_USE_AWS", "true");
        let key = ("KMS_AWS_KEY_ID", "alias/a");
        for (variables, what) in [
            (vec![on], "KMS_AWS_KEY_ID"),
            (vec![on, ("KMS_AWS_KEY_ID", "")], "KMS_AWS_KEY_ID"),
            (vec![on, ("KMS_AWS_KEY_ID", "my-key")], "my-key"),
            (vec![on, key, ("KMS_AWS_KEY_ID_NEXT", "alias/a")], "twice"),
            (vec![on, key, ("KMS_AWS_REGION", "Frankfurt")], "Frankfurt"),
            (vec![on, key, ("KMS_AWS_ENDPOINT", "kms.example.com")], "endpoint"),
            (vec![on, key, ("KMS_AWS_ENDPOINT", "http://kms.example.com")], "plaintext"),
            (vec![on, key, ("KMS_AWS_TIMEOUT_SECONDS", "soon")], "KMS_AWS_TIMEOUT_SECONDS"),
            (vec![on, key, ("KMS_AWS_TIMEOUT_SECONDS", "0")], "seconds"),
            (vec![on, key, ("KMS_AWS_KEY", "alias/a")], "KMS_AWS_KEY is not a setting"),
            (vec![("KMS_USE_AWS", "perhaps")], "KMS_USE_AWS"),
        ] {
            let error = from(&variables).err().unwrap();
            assert!(error.message().contains(what), "{variables:?}: {error}");
            let codes = [ErrorCode::InvalidConfiguration, ErrorCode::InvalidRootKey];
            assert!(codes.contains(&error.code()), "{error}");
        }
        assert!(Config::from_toml("use_aws = true\n[aws]\nkey = \"alias/a\"\n").is_err());
    }

    #[cfg(not(feature = "aws-kms"))]
    #[test]
    fn without_the_feature_it_is_refused() {
        let error = from(&[("KMS_USE_AWS", "true"), ("KMS_AWS_KEY_ID", "alias/a")]).err().unwrap();
        assert_eq!(error.code(), ErrorCode::InvalidConfiguration);
        assert!(error.message().contains("feature aws-kms"), "{error}");
        assert!(shown(&Config::new("sqlite:kms.db")).is_empty());
    }
}
