//! Unit tests of `src/auth/identity.rs`.

#![allow(clippy::unwrap_used)]

use super::*;

fn strings(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

#[test]
fn principals_are_exact_and_prefixed() {
    assert_eq!(principal("", "Alice@Example.com").unwrap(), "Alice@Example.com");
    assert_eq!(principal("OIDC:", "System").unwrap(), "OIDC:System");
    assert_eq!(principal("", "Jürgen").unwrap(), "Jürgen");
    assert_ne!(principal("", "refs/heads/main").unwrap(), principal("", "refs/heads/MAIN").unwrap());
    // Letters whose lower case is another letter are kept.
    assert_eq!(principal("", "\u{212a}ms-admin").unwrap(), "\u{212a}ms-admin");
    assert_eq!(principal("", "İbrahim").unwrap(), "İbrahim");
}

#[test]
fn reserved_and_deceptive_names_are_refused() {
    for (prefix, name) in
        [("", "system"), ("", "Scheduler"), ("", "ANONYMOUS"), ("", "Operator"), ("sys", "tem"), ("", "*")]
    {
        assert!(matches!(principal(prefix, name), Err(AuthError::Rejected(_))), "{prefix}{name}");
    }
    for name in ["", " ", " a", "a ", "a\0b", "a\nb", "a\u{200b}b", "a\u{202e}b", "a\u{ad}", &"a".repeat(257)] {
        assert!(matches!(principal("", name), Err(AuthError::Rejected(_))), "{name:?}");
    }
    assert!(principal("oidc:", "").is_err());
}

#[test]
fn the_highest_role_counts_and_none_gives_app() {
    let mapping = RoleMapping::new("t", Some("groups"), &strings(&["kms-admins"]), &strings(&["audit"])).unwrap();
    assert_eq!(mapping.role(["x", "audit", "kms-admins"]), Role::Admin);
    assert_eq!(mapping.role(["audit"]), Role::Auditor);
    for value in ["KMS-Admins", "kms-admins ", "admin", "system", ""] {
        assert_eq!(mapping.role([value]), Role::App, "{value:?}");
    }
    assert_eq!(RoleMapping::default().role(["admin", ""]), Role::App);
}

#[test]
fn an_incomplete_mapping_is_an_error() {
    assert!(RoleMapping::new("t", Some("groups"), &[], &[]).is_err());
    assert!(RoleMapping::new("t", None, &strings(&["a"]), &[]).is_err());
    assert!(RoleMapping::new("t", Some("groups"), &strings(&[""]), &[]).is_err());
    assert!(RoleMapping::new("t", None, &[], &[]).is_ok());
}
