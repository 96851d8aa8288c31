//! How principals are written: every method of authentication has its prefix, and two of them fold names to lower case.

use kms_lib::types::actor::check_principal;
use kms_lib::{Error, Result};

use crate::settings::{AuthMethod, Http};

/// A method of authentication with its principals.
struct Namespace {
    method: AuthMethod,
    /// As it stands in principals: in lower case if the method folds.
    prefix: String,
}

impl Namespace {
    fn folds(&self) -> bool {
        folds(self.method)
    }

    fn has(&self, principal: &str) -> bool {
        match self.folds() {
            true => principal.to_lowercase().starts_with(&self.prefix),
            false => principal.starts_with(&self.prefix),
        }
    }
}

/// The methods that are enabled. A principal belongs to the one with the longest prefix that it has.
pub struct Principals(Vec<Namespace>);

impl Principals {
    /// Of the methods that the settings name.
    pub fn new(http: &Http) -> Self {
        let namespace = |&method: &AuthMethod| {
            let (_, prefix) = http.prefix(method);
            Namespace { method, prefix: if folds(method) { prefix.to_lowercase() } else { prefix.to_owned() } }
        };
        Self(http.auth.iter().map(namespace).collect())
    }

    /// The principal that a text names in a grant or a query. Its own prefix decides whether it is folded, not how the
    /// caller authenticated: an exact name stays as it is.
    pub fn named(&self, text: &str) -> Result<String> {
        let mut owners = self.owners(text).peekable();
        if owners.peek().is_some() && owners.all(Namespace::folds) { fold(text) } else { Ok(text.to_owned()) }
    }

    /// The principal of a token for `name`: with the prefix of tokens, in lower case. Refused if it would be the
    /// principal of another method's subject, and if `name` itself could not be one: a prefix alone is nobody's.
    pub fn of_token(&self, name: &str) -> Result<String> {
        check_principal(name)?;
        let prefix = self.0.iter().find(|namespace| namespace.method == AuthMethod::Token);
        let principal = fold(&format!("{}{name}", prefix.map_or("", |namespace| &namespace.prefix)))?;
        if prefix.is_some() && !self.is_of(AuthMethod::Token, &principal) {
            let text = format!("the principal {principal:?} has the prefix of another method of authentication");
            return Err(Error::invalid(text));
        }
        Ok(principal)
    }

    /// Whether a principal is one of this method's.
    pub fn is_of(&self, method: AuthMethod, principal: &str) -> bool {
        self.owners(principal).any(|namespace| namespace.method == method)
    }

    /// The methods with the longest prefix that a principal has: one, unless two have the same prefix.
    fn owners<'a>(&'a self, principal: &'a str) -> impl Iterator<Item = &'a Namespace> {
        let longest = self.0.iter().filter(|namespace| namespace.has(principal)).map(|it| it.prefix.len()).max();
        self.0.iter().filter(move |namespace| Some(namespace.prefix.len()) == longest && namespace.has(principal))
    }
}

/// Whether the names are ours to choose: only then may two spellings be one principal.
fn folds(method: AuthMethod) -> bool {
    match method {
        AuthMethod::Token | AuthMethod::TrustedHeaders => true,
        AuthMethod::Oidc | AuthMethod::Mtls => false,
    }
}

/// A principal in lower case. Letters that only become ASCII that way (the Kelvin sign, for one) are refused: nobody
/// shall choose a name that turns into another's.
pub fn fold(principal: &str) -> Result<String> {
    if principal.chars().any(|c| !c.is_ascii() && c.to_lowercase().any(|lower| lower.is_ascii())) {
        return Err(Error::invalid("a principal must not contain letters that become ASCII in lower case"));
    }
    Ok(principal.to_lowercase())
}

#[cfg(test)]
mod tests {
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
    fn a_method_alone_without_a_prefix_decides_for_all_names() {
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
        // Nobody's prefix: kept as it is.
        assert_eq!(principals.named("OIDC:x").unwrap(), "OIDC:x");
        assert_eq!(principals.named("Scheduler").unwrap(), "Scheduler");
    }

    #[test]
    fn the_longest_prefix_decides() {
        let principals = of(&[(AuthMethod::Token, "a"), (AuthMethod::Oidc, "ab:")]);
        assert_eq!(principals.named("ab:X").unwrap(), "ab:X");
        assert_eq!(principals.named("aX").unwrap(), "ax");
        assert!(principals.is_of(AuthMethod::Oidc, "ab:X") && !principals.is_of(AuthMethod::Token, "ab:x"));
        // A token cannot have the name of a subject of the issuer.
        assert!(principals.of_token("b:X").is_err());
        assert_eq!(principals.of_token("Shop").unwrap(), "ashop");
        let reversed = of(&[(AuthMethod::Token, "ab:"), (AuthMethod::Oidc, "a")]);
        assert_eq!(reversed.named("AB:X").unwrap(), "ab:x");
        assert!(!reversed.is_of(AuthMethod::Oidc, "ab:x"));
    }

    #[test]
    fn a_prefix_does_not_make_a_name_of_none() {
        let tokens = of(&[(AuthMethod::Token, "token:")]);
        for name in ["", " ", " shop", "shop ", "*", "sh\u{200b}op"] {
            assert!(tokens.of_token(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn letters_that_pass_for_others_are_refused_where_names_are_folded() {
        let tokens = of(&[(AuthMethod::Token, "")]);
        for deceptive in ["\u{212a}ms", "İ"] {
            assert!(tokens.named(deceptive).is_err() && tokens.of_token(deceptive).is_err(), "{deceptive}");
            assert_eq!(of(&[(AuthMethod::Oidc, "")]).named(deceptive).unwrap(), deceptive);
        }
    }
}
