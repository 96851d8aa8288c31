//! Unit tests of `src/settings/mod.rs`.

use super::*;

#[test]
fn errors_about_variables_of_mini_kms_on_node_name_the_replacement() {
    let variables = |variables: &[(&str, &str)]| {
        filtered(variables.iter().map(|(name, value)| (name.into(), value.into())).collect::<Vec<_>>().into_iter())
    };
    let refused = variables(&[("PATH", "/bin"), ("DB_HOST", "db")]);
    let message = refused.expect_err("refused").to_string();
    assert!(message.contains("DB_HOST") && message.contains("KMS_STORE_URL"), "{message}");
    let refused = variables(&[("DB_PORT", "3306")]).expect_err("refused").to_string();
    assert!(refused.contains("DB_PORT"), "{refused}");
    let own = variables(&[("PORT", "80"), ("KMS_GRACE_DAYS", "7"), ("KMS_HTTP_QUEUE", "x")]).expect("accepted");
    assert_eq!(own, [("KMS_HTTP_QUEUE".to_owned(), OsString::from("x"))]);
}

#[test]
fn service_links_of_kubernetes_are_ignored() {
    let links = [
        ("DB_PORT", "tcp://10.96.0.17:3306"),
        ("KMS_HTTP_PORT", "tcp://10.96.0.17:8080"),
        ("KMS_HTTP_SERVICE_HOST", "10.96.0.17"),
        ("KMS_HTTP_PORT_8080_TCP_ADDR", "10.96.0.17"),
    ];
    let links = links.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    assert_eq!(filtered(links.into_iter()).expect("accepted"), []);
}
