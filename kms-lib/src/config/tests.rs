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
        "[limits]\nversions = 1",
        "[limits]\nversions = 10000001",
    ] {
        assert_eq!(Config::from_toml(bad).unwrap_err().code(), ErrorCode::InvalidConfiguration, "{bad}");
    }
}

#[test]
fn an_error_never_quotes_the_root_key() {
    for (text, says) in [
        ("master_key = 'very secret words' oops", "line 1"),
        ("grace_days = 'very secret words'", "expected u32"),
        ("grace_days = 5\nmaster_key = ['very secret words']", "line 2"),
        ("master_key = ['very secret words']", "expected a string"),
        ("limits = 'very secret words, expected or not'", "expected struct"),
    ] {
        let error = Config::from_toml(text).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(error.to_string().contains(says), "{error}");
        assert!(std::error::Error::source(&error).is_none(), "{error}");
    }
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
    // The service links of a Kubernetes Service called `kms`, together with settings.
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

#[cfg(unix)]
#[test]
fn secrets_come_from_files_that_only_their_owner_may_read() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::TempDir::new().unwrap();
    let write = |name: &str, text: &str, mode: u32| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let load = |text: &str, mode: u32| Config::new("sqlite:x").overlaid(Some(&write("kms.toml", text, mode)));
    let (key, password) = (write("key", KEY, 0o600), write("password", "p@ss:/word%\n", 0o600));
    let url = "store_url = 'postgres://kms@db/kms'\n";
    let named = format!("{url}master_key_file = '{}'\nstore_password_file = '{}'\n", key.display(), password.display());
    let config = load(&named, 0o644).unwrap();
    assert!(config.root_key.is_some());
    let Location::Postgres(found) = config.store().unwrap() else { panic!("a PostgreSQL store") };
    assert_eq!(found.to_string(), "postgres://kms:***@db/kms");
    let whole = Location::parse("postgres://kms:p%40ss%3A%2Fword%25@db/kms").unwrap();
    assert!(matches!(whole, Location::Postgres(url) if url == found), "the password is written as it must be in a URL");
    assert!(!format!("{config:?} {:?}", config.describe()).contains("p@ss"));

    for text in [format!("master_key = '{KEY}'"), "store_url = 'mysql://kms:secret@db/kms'".to_owned()] {
        for mode in [0o600, 0o640, 0o440] {
            load(&text, mode).unwrap();
        }
        for mode in [0o660, 0o604, 0o644] {
            let refused = load(&text, mode).unwrap_err();
            assert_eq!(refused.code(), ErrorCode::InvalidConfiguration);
            assert!(refused.message().contains("0600") && !refused.message().contains("secret@"), "{refused}");
        }
    }
    load(&format!("master_key = 'file:{}'\n{url}", key.display()), 0o644).unwrap();
    let with_password = |file: &Path| {
        load(&format!("{url}store_password_file = '{}'", file.display()), 0o600).unwrap().store().map(drop)
    };
    let refused = with_password(&write("open", "password", 0o644));
    assert!(refused.is_err_and(|e| e.code() == ErrorCode::InvalidConfiguration && e.message().contains("0600")));
    with_password(&write("of-a-volume", "password", 0o440)).unwrap();
    let fifo = folder.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").args(["-m", "600"]).arg(&fifo).status().unwrap().success());
    assert!(with_password(&fifo).is_err_and(|e| e.message().contains("not a regular file")), "without waiting");
    for bad in ["sqlite:kms.db", "sqlite://kms.db", "postgres://kms:old@db/kms", "postgres://db/kms"] {
        let config = Config::new(bad).store_password_file(&password);
        assert_eq!(config.store().err().map(|e| e.code()), Some(ErrorCode::InvalidConfiguration), "{bad}");
    }
    let both = format!("master_key = '{KEY}'\nmaster_key_file = '{}'", key.display());
    assert!(load(&both, 0o600).unwrap_err().message().contains("master_key_file"));
    let mut config = Config::new("sqlite:x");
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    config.apply_variables([variable("KMS_MASTER_KEY_FILE", key.to_str().unwrap())]).unwrap();
    assert!(config.root_key.is_some());
    let both = [variable("KMS_MASTER_KEY_FILE", key.to_str().unwrap()), variable("KMS_MASTER_KEY", KEY)];
    config.apply_variables(both).unwrap_err();
}
