//! Tests of configuration by file, environment and flags, and of `config check`.

use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use crate::common::{json_output, program};

#[test]
fn configuration_by_file_environment_and_flags() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("kms.toml");
    std::fs::write(
        &file,
        "master_key = 'passphrase:correct horse battery staple'\nstore_url = 'sqlite:file.db'\ngrace_days = 1\n\
         [http]\nlisten = '127.0.0.1:1'\nconnections = 10\nqueue = 7\n[http.token]\nprefix = 'a:'\n",
    )
    .unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let check = |variables: &[(&str, &str)], flags: &[&str]| {
        let mut command = program(&home);
        command.arg("--config").arg(&file).args(flags).envs(variables.iter().copied());
        command.args(["--json", "config", "check"]).output().unwrap()
    };
    let variables = [
        ("KMS_HTTP_CONNECTIONS", "20"),
        ("KMS_GRACE_DAYS", "2"),
        // Kubernetes sets such variables for Services called `kms`, `kms-http` and `db`. Hosting platforms set `PORT`.
        ("KMS_SERVICE_HOST", "10.96.0.17"),
        ("KMS_PORT", "tcp://10.96.0.17:8080"),
        ("KMS_PORT_8080_TCP_ADDR", "10.96.0.17"),
        ("KMS_HTTP_SERVICE_HOST", "10.96.0.18"),
        ("KMS_HTTP_SERVICE_PORT_HTTP", "8080"),
        ("KMS_HTTP_PORT", "tcp://10.96.0.18:8080"),
        ("KMS_HTTP_PORT_8080_TCP_PROTO", "tcp"),
        ("DB_PORT", "tcp://10.96.0.19:3306"),
        ("PORT", "80"),
    ];
    let shown = json_output(&check(&variables, &["--set", "connections=30"]));
    for (name, value) in [
        ("http.listen", "127.0.0.1:1"),
        ("http.queue", "7"),
        ("http.token.prefix", "a:"),
        ("http.connections", "30"),
        ("grace_days", "2"),
        ("store_url", "sqlite:file.db"),
        ("master_key", "RootKeySource(passphrase, hidden)"),
    ] {
        assert_eq!(shown[name], value, "{name}");
    }
    for (variables, flags, what) in [
        (&[("DB_HOST", "db")][..], &[][..], "KMS_STORE_URL"),
        (&[("KMS_HTTP_PORT", "80")], &[], "KMS_HTTP_PORT"),
        (&[("KMS_HTTP_LISTEM", "x")], &[], "KMS_HTTP_LISTEM"),
        (&[("KMS_STOR_URL", "x")], &[], "KMS_STOR_URL"),
        (&[("KMS_HTTP_AUTH", "")], &[], "http.auth is empty"),
        (&[("KMS_HTTP_AUTH", "password")], &[], "password"),
        (&[("KMS_HTTP_CORS_ORIGINS", "example.com")], &[], "origin"),
        (&[("KMS_HTTP_OIDC_ADMIN_VALUES", "Acme, Inc.")], &[], "TOML array"),
        (&[], &["--set", "queue=many"], "whole number"),
        (&[], &["--set", "auth=token,trusted_headers"], "http.trusted_headers.prefix"),
        (
            &[("KMS_HTTP_TOKEN_PREFIX", "a:"), ("KMS_HTTP_TRUSTED_HEADERS_PREFIX", "A:b:")],
            &["--set", "auth=token,trusted_headers"],
            "must differ",
        ),
        (&[], &["--set", "auth=trusted_headers", "--set", "cors_origins=*"], "every page"),
        (&[], &["--set", "color=red"], "http.color"),
        (&[], &["--set", "unix_socket_mode=rw"], "octal"),
        #[cfg(not(feature = "otlp"))]
        (&[("KMS_HTTP_OTLP_ENDPOINT", "https://collector:4318")], &[], "feature otlp"),
    ] {
        let refused = check(variables, flags);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let message = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(message.contains(what) && !message.contains("battery"), "{message}");
    }
    // A file with a secret must not be readable by other users.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refused = check(&[], &[]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(message.contains("0600") && !message.contains("battery"), "{message}");
}

#[test]
fn config_check_finds_settings_that_serve_would_refuse() {
    let home = TempDir::new().unwrap();
    for set in ["log=foo=bar=baz", "tls.certificate_file=/none.pem", "oidc.issuer=http://example.com"] {
        let mut command = program(&home);
        if set.starts_with("oidc") {
            command.args(["--set", "auth=oidc", "--set", "oidc.audiences=kms"]);
        }
        if set.starts_with("tls") {
            command.args(["--set", "tls.key_file=/none.pem"]);
        }
        let checked = command.args(["--set", set, "config", "check"]).output().unwrap();
        assert_eq!(checked.status.code(), Some(2), "{set}: {checked:?}");
    }
}
