//! How principals are written: every method of authentication has its prefix, and two of them fold names to lower case.

use kms_lib::{Actor, Error, Result};

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
        Actor::check_principal(name)?;
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
#[path = "../../tests/unit/principals.rs"]
mod tests;
