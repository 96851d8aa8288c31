//! Unit tests of `src/auth/principals.rs`.

#![allow(clippy::unwrap_used)]

use super::*;

fn of(methods: &[(AuthMethod, &str)]) -> Principals {
    let mut http = Http { auth: methods.iter().map(|(method, _)| *method).collect(), ..Http::default() };
    for (method, prefix) in methods {
        let prefix = (*prefix).to_owned();
        match method {
            AuthMethod::Token => http.token.prefix = prefix,
            AuthMethod::TrustedHeaders => http.trusted_headers.prefix = prefix,
            AuthMethod::Oidc => http.oidc.principal_prefix = prefix,
            AuthMethod::Mtls => http.mtls.principal_prefix = prefix,
        }
    }
    Principals::new(&http)
}

#[test]
fn a_single_method_without_a_prefix_decides_for_all_names() {
    assert_eq!(of(&[(AuthMethod::Token, "")]).named("SHOP").unwrap(), "shop");
    assert_eq!(of(&[(AuthMethod::TrustedHeaders, "")]).named("SHOP").unwrap(), "shop");
    assert_eq!(of(&[(AuthMethod::Oidc, "")]).named("repo:a/b:ref:MAIN").unwrap(), "repo:a/b:ref:MAIN");
    assert_eq!(of(&[(AuthMethod::Mtls, "")]).named("CN").unwrap(), "CN");
}

#[test]
fn the_prefix_of_a_name_decides_whether_it_is_folded() {
    let principals = of(&[(AuthMethod::Token, "Tok:"), (AuthMethod::Oidc, "oidc:")]);
    assert_eq!(principals.named("TOK:Shop").unwrap(), "tok:shop");
    assert_eq!(principals.named("oidc:refs/heads/MAIN").unwrap(), "oidc:refs/heads/MAIN");
    // A name without a configured prefix is not folded.
    assert_eq!(principals.named("OIDC:x").unwrap(), "OIDC:x");
    assert_eq!(principals.named("Scheduler").unwrap(), "Scheduler");
}

#[test]
fn the_longest_prefix_decides() {
    let principals = of(&[(AuthMethod::Token, "a"), (AuthMethod::Oidc, "ab:")]);
    assert_eq!(principals.named("ab:X").unwrap(), "ab:X");
    assert_eq!(principals.named("aX").unwrap(), "ax");
    assert!(principals.is_of(AuthMethod::Oidc, "ab:X") && !principals.is_of(AuthMethod::Token, "ab:x"));
    // A token cannot be created for a subject of the issuer.
    assert!(principals.of_token("b:X").is_err());
    assert_eq!(principals.of_token("Shop").unwrap(), "ashop");
    let reversed = of(&[(AuthMethod::Token, "ab:"), (AuthMethod::Oidc, "a")]);
    assert_eq!(reversed.named("AB:X").unwrap(), "ab:x");
    assert!(!reversed.is_of(AuthMethod::Oidc, "ab:x"));
}

#[test]
fn a_prefix_alone_is_not_a_name() {
    let tokens = of(&[(AuthMethod::Token, "token:")]);
    for name in ["", " ", " shop", "shop ", "*", "sh\u{200b}op"] {
        assert!(tokens.of_token(name).is_err(), "{name:?}");
    }
}

#[test]
fn letters_that_fold_to_others_are_refused_where_names_are_folded() {
    let tokens = of(&[(AuthMethod::Token, "")]);
    for deceptive in ["\u{212a}ms", "İ"] {
        assert!(tokens.named(deceptive).is_err() && tokens.of_token(deceptive).is_err(), "{deceptive}");
        assert_eq!(of(&[(AuthMethod::Oidc, "")]).named(deceptive).unwrap(), deceptive);
    }
}
