//! The spelling of principals: every authentication method has a prefix, and two methods fold names to lower case.

use kms_lib::{Actor, Error, Result};

use crate::settings::{AuthMethod, Http};

/// An authentication method and the prefix of its principals.
struct Namespace {
    method: AuthMethod,
    /// The prefix as it appears in principals: in lower case if the method folds.
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

/// The enabled methods. A principal belongs to the method with the longest matching prefix.
pub struct Principals(Vec<Namespace>);

impl Principals {
    /// The namespaces of the configured methods.
    pub fn new(http: &Http) -> Self {
        let namespace = |&method: &AuthMethod| {
            let (_, prefix) = http.prefix(method);
            Namespace { method, prefix: if folds(method) { prefix.to_lowercase() } else { prefix.to_owned() } }
        };
        Self(http.auth.iter().map(namespace).collect())
    }

    /// The principal for a name in a grant or a query. Whether it is folded depends on its own prefix, not on the
    /// caller's authentication method: an exact name stays as it is.
    pub fn named(&self, text: &str) -> Result<String> {
        let mut owners = self.owners(text).peekable();
        if owners.peek().is_some() && owners.all(Namespace::folds) { fold(text) } else { Ok(text.to_owned()) }
    }

    /// The principal of a new token for `name`: the prefix of tokens and the name, in lower case. Refused if the result
    /// belongs to another authentication method, or if `name` alone is not a valid principal, so that a prefix alone is
    /// never one.
    pub fn of_token(&self, name: &str) -> Result<String> {
        Actor::check_principal(name)?;
        let prefix = self.0.iter().find(|namespace| namespace.method == AuthMethod::Token);
        let principal = fold(&format!("{}{name}", prefix.map_or("", |namespace| &namespace.prefix)))?;
        if prefix.is_some() && !self.is_of(AuthMethod::Token, &principal) {
            let text = format!("the principal {principal:?} has the prefix of another authentication method");
            return Err(Error::invalid(text));
        }
        Ok(principal)
    }

    /// Whether a principal belongs to this method.
    pub fn is_of(&self, method: AuthMethod, principal: &str) -> bool {
        self.owners(principal).any(|namespace| namespace.method == method)
    }

    /// The methods with the longest prefix that the principal has: one, unless two methods have the same prefix.
    fn owners<'a>(&'a self, principal: &'a str) -> impl Iterator<Item = &'a Namespace> {
        let longest = self.0.iter().filter(|namespace| namespace.has(principal)).map(|it| it.prefix.len()).max();
        self.0.iter().filter(move |namespace| Some(namespace.prefix.len()) == longest && namespace.has(principal))
    }
}

/// Whether this service chooses the names; only then may two spellings be the same principal.
fn folds(method: AuthMethod) -> bool {
    match method {
        AuthMethod::Token | AuthMethod::TrustedHeaders => true,
        AuthMethod::Oidc | AuthMethod::Mtls => false,
    }
}

/// A principal in lower case. Letters that become ASCII only in lower case, such as the Kelvin sign, are refused, so
/// that no name folds to another caller's name.
pub fn fold(principal: &str) -> Result<String> {
    if principal.chars().any(|c| !c.is_ascii() && c.to_lowercase().any(|lower| lower.is_ascii())) {
        return Err(Error::invalid("a principal must not contain non-ASCII letters that become ASCII in lower case"));
    }
    Ok(principal.to_lowercase())
}

#[cfg(test)]
#[path = "../../tests/unit/principals.rs"]
mod tests;
