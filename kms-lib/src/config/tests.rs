#![allow(clippy::unwrap_used)]
use super::*;

const KEY: &str = "hex:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

#[test]
fn a_file_sets_everything_and_unknown_settings_are_refused() {
    let config = Config::from_toml(&format!(
        "store_url = 'sqlite://x.db'\nmaster_key = '{KEY}'\ngrace_days = 3\ncrypto_provider = 'rust-crypto'\n\
         [audit]\nack = 'queued'\nreverify_days = 3\n[scheduler]\ncron = '5 4 * * *'\nrevoke_expired = true\n\
         [cache]\nsize = 5\nttl_seconds = 6\n[deletion]\nwait_days = 9\nminimum_days = 1\n\
         [limits]\noperations = 7\nresult_mib = 8\n"
    ))
    .unwrap();
    assert_eq!(config.store().unwrap().file().unwrap(), Path::new("x.db"));
    assert_eq!((config.grace_days, config.audit_ack), (Some(3), AuditAck::Queued));
    assert_eq!((config.cache_size, config.cache_ttl), (5, Duration::from_secs(6)));
    assert_eq!((config.limits.operations, config.limits.bytes), (7, 8 << 20));
    assert!(config.scheduler.revoke_expired && config.scheduler.destroy);
    assert_eq!(config.reverify_days, 3);
    for bad in [
        "store = 'x'",
        "grace_days = -1",
        "grace_days = 99999",
        "[scheduler]\ncorn = 'x'",
        "[scheduler]\ncron = '* *'",
        "[audit]\nack = 'maybe'",
        "[audit]\nreverify_days = 99999999",
        "crypto_provider = 'openssl'",
        "store_url = 'sqlite::memory:'",
        "store_url = 'mysql://localhost'",
        "store_url = 'sqlite:x?mode=ro'",
        "[cache]\nsize = 0",
        "[cache]\nsize = 99999999999",
        "[cache]\nttl_seconds = 0",
        "[cache]\nttl_seconds = 9223372036854775807",
        "[deletion]\nwait_days = 2",
        "= = =",
        "[limits]\nresult_mib = 99999999999999999",
    ] {
        assert_eq!(Config::from_toml(bad).unwrap_err().code(), ErrorCode::InvalidConfiguration, "{bad}");
    }
}

#[test]
fn an_error_never_quotes_the_root_key() {
    let error = Config::from_toml("master_key = 'very secret words' oops").unwrap_err();
    assert!(!error.to_string().contains("secret"), "{error}");
    assert!(error.to_string().contains("line 1"), "{error}");
    let config = Config::new("sqlite:x").root_key("very secret words").unwrap();
    assert!(!format!("{config:?}").contains("secret"));
}

#[test]
fn the_environment_sets_and_refuses() {
    let apply = |name: &str, value: &str| {
        let mut config = Config::new("sqlite:x");
        config.apply_variables([(name.to_owned(), value.to_owned())]).map(|()| config)
    };
    assert_eq!(apply("KMS_GRACE_DAYS", "12").unwrap().grace_days, Some(12));
    assert_eq!(apply("KMS_STORE_URL", "sqlite:y").unwrap().store_url, "sqlite:y");
    assert!(apply("KMS_MASTER_KEY", KEY).unwrap().root_key.is_some());
    assert_eq!(apply("KMS_AUDIT_REVERIFY_DAYS", "0").unwrap().reverify_days, 0);
    assert!(!apply("KMS_SCHEDULER_ENABLED", "off").unwrap().scheduler.enabled);
    apply("KMS_TEST_MODE", "fast").unwrap();
    apply("PATH", "x").unwrap();
    // A Kubernetes Service called `kms`, and settings beside it.
    for (name, value) in [
        ("KMS_SERVICE_HOST", "10.96.0.17"),
        ("KMS_SERVICE_PORT", "8080"),
        ("KMS_PORT", "tcp://10.96.0.17:8080"),
        ("KMS_PORT_8080_TCP_ADDR", "10.96.0.17"),
    ] {
        let mut config = Config::new("sqlite:x");
        let variables = [(name, value), ("KMS_CACHE_SIZE", "5")];
        config.apply_variables(variables.map(|(name, value)| (name.to_owned(), value.to_owned()))).unwrap();
        assert_eq!(config.cache_size, 5, "{name}");
    }
    for (name, value) in [
        ("KMS_GRACE_DAY", "1"),
        ("KMS_GRACE_DAYS", "-1"),
        ("KMS_GRACE_DAYS", "\u{fffd}"),
        ("KMS_PORT", "8080"),
        ("KMS_SERVICE", "10.96.0.17"),
        ("KMS_SCHEDULER_ENABLED", "perhaps"),
        ("KMS_CACHE_SIZE", "many"),
    ] {
        assert_eq!(apply(name, value).unwrap_err().code(), ErrorCode::InvalidConfiguration, "{name}={value}");
    }
    assert_eq!(apply("KMS_MASTER_KEY", "short").unwrap_err().code(), ErrorCode::InvalidRootKey);
}
