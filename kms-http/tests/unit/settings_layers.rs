//! Unit tests of `src/settings/layers.rs`.

use super::*;
use crate::settings::AuthMethod;

fn flags(set: &[(&str, &str)]) -> Vec<(String, String)> {
    set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn variable(name: &str, value: &str) -> [(String, OsString); 1] {
    [(name.to_owned(), value.into())]
}

fn refusal(file: Option<&str>, variables: &[(&str, &str)], set: &[(&str, &str)]) -> String {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value)));
    read(file, variables, &flags(set)).expect_err("refused").to_string()
}

#[test]
fn described_settings_can_be_read_again() {
    let set = flags(&[
        ("trusted_proxies", "10.0.0.0/8, fd00::/8"),
        ("auth", "token,trusted_headers"),
        ("body_limit_kib", "2048"),
        ("oidc.admin_values", r#"["Acme, Inc.", "b"]"#),
        ("mtls.role_field", "organizational_unit"),
    ]);
    let first = read(None, [], &set).expect("read");
    assert_eq!(first.auth, [AuthMethod::Token, AuthMethod::TrustedHeaders]);
    let shown: Vec<(String, String)> =
        first.describe().into_iter().map(|(name, value)| (name.replacen("http.", "", 1), value)).collect();
    let again = read(None, [], &shown).expect("read again");
    assert_eq!(again.describe(), first.describe());
    let variables = shown.iter().map(|(name, value)| (variable_of(&format!("http.{name}")), OsString::from(value)));
    assert_eq!(read(None, variables, &[]).expect("read from the environment").describe(), first.describe());
}

#[test]
fn flags_override_the_environment_and_the_environment_overrides_the_file() {
    let file = "master_key = 'x'\n[http]\nlisten = '0.0.0.0:1'\nqueue = 1\nconnections = 1\n\
                cors_origins = ['https://a', 'https://b']\n[http.tls]\nkey_file = 'k'\n";
    let variables = variable("KMS_HTTP_TLS_KEY_FILE", "other").into_iter().chain(variable("KMS_HTTP_QUEUE", "2"));
    let http = read(Some(file), variables, &flags(&[("queue", "3")])).expect("read");
    assert_eq!((http.queue, http.connections, http.tls.key_file.to_str()), (3, 1, Some("other")));
    assert_eq!(http.cors_origins, ["https://a", "https://b"]);
}

#[test]
fn an_element_with_a_comma_stays_one() {
    let file = "[http.mtls]\nadmin_values = ['Acme, Inc.']\n[http.oidc]\naudiences = ['a,b', 'c']";
    let http = read(Some(file), [], &[]).expect("read");
    assert_eq!(http.mtls.admin_values, ["Acme, Inc."]);
    assert_eq!(http.oidc.audiences, ["a,b", "c"]);
    let one = |text: &str| read(None, variable("KMS_HTTP_MTLS_ADMIN_VALUES", text), &[]);
    assert_eq!(one("Acme Inc.").expect("read").mtls.admin_values, ["Acme Inc."]);
    assert_eq!(one("['Acme, Inc.']").expect("read").mtls.admin_values, ["Acme, Inc."]);
    let doubtful = one("Acme, Inc.").expect_err("refused").to_string();
    assert!(doubtful.contains("KMS_HTTP_MTLS_ADMIN_VALUES") && doubtful.contains("TOML array"), "{doubtful}");
}

#[test]
fn errors_name_the_setting_its_source_and_the_expected_value() {
    let file = |text: &'static str| refusal(Some(text), &[], &[]);
    for (message, parts) in [
        (file("[http]\nqueue = 3.7"), ["http.queue", "the configuration file", "whole number"]),
        (file("[http]\nqueue = true"), ["http.queue", "the configuration file", "whole number"]),
        (file("[http]\nqueue = -1"), ["http.queue", "the configuration file", "between 0 and"]),
        (file("[http]\ndocs = 17"), ["http.docs", "the configuration file", "true or false"]),
        (file("[http]\nauth = ['token', 'x']"), ["http.auth[1]", "the configuration file", "`oidc`"]),
        (file("[http]\nlisten = 'here'"), ["http.listen", "the configuration file", "socket address"]),
        (file("[http.tls]\ncolor = 'red'"), ["http.tls.color", "the configuration file", "is not a setting"]),
        (file("http = 1"), ["http", "the configuration file", "expected"]),
        (refusal(None, &[("KMS_HTTP_QUEUE", "x")], &[]), ["http.queue", "KMS_HTTP_QUEUE", "whole number"]),
        (refusal(None, &[("KMS_HTTP_TLS_KEY", "x")], &[]), ["KMS_HTTP_TLS_KEY", "is not a setting", "config check"]),
        (refusal(None, &[("KMS_HTTP_LISTN", "x")], &[]), ["KMS_HTTP_LISTN", "is not a setting", "config check"]),
        (refusal(None, &[("KMS_HTTP_TLS", "x")], &[]), ["KMS_HTTP_TLS", "is not a setting", "config check"]),
        (refusal(None, &[], &[("threads", "2000")]), ["http.threads", "--set", "between 0 and 1024"]),
        (refusal(None, &[], &[("oidc.leeway_seconds", "301")]), ["oidc.leeway_seconds", "--set", "between 0 and 300"]),
        (refusal(None, &[], &[("oidc.timeout_seconds", "0")]), ["oidc.timeout_seconds", "--set", "between 1 and"]),
        (
            refusal(None, &[], &[("tls.handshake_timeout_seconds", "0")]),
            ["tls.handshake_timeout_seconds", "--set", "between 1 and"],
        ),
        (refusal(None, &[], &[("a[0]", "1")]), ["http.a[0]", "is not a setting", "config check"]),
        (refusal(None, &[], &[("auth", "['token'")]), ["http.auth", "--set", "is not a list"]),
    ] {
        assert!(parts.iter().all(|part| message.contains(part)), "{parts:?}: {message}");
    }
    let malformed = refusal(Some("master_key = 'very secret' oops"), &[], &[]);
    assert!(!malformed.contains("secret"), "{malformed}");
}
