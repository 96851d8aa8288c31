//! `x-principal` and `x-role`, believed, as Mini KMS on Node does. For development, or behind a proxy that authenticates
//! and sets them.

use axum::http::{HeaderMap, HeaderValue};
use kms_lib::{Actor, Role};

use super::principals::fold;
use crate::api::ApiError;

/// Believes headers.
pub struct TrustedHeaders {
    prefix: String,
}

impl TrustedHeaders {
    /// With this prefix for principals.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// Whom the headers name: `anonymous` without a principal, an app without a role that is known.
    pub fn identify(&self, headers: &HeaderMap) -> Result<Actor, ApiError> {
        let role = match one(headers, "x-role")?.map(str::to_ascii_lowercase).as_deref() {
            Some("admin") => Role::Admin,
            Some("auditor") => Role::Auditor,
            _ => Role::App,
        };
        let actor = match one(headers, "x-principal")?.map(str::trim) {
            None | Some("") => Actor::anonymous(role),
            Some(name) if name.eq_ignore_ascii_case("anonymous") => Actor::anonymous(role),
            Some(name) => fold(&format!("{}{name}", self.prefix)).and_then(|principal| Actor::new(principal, role)),
        };
        actor.map_err(|_| ApiError::not_authenticated())
    }
}

/// The one value of a header. Several would let a proxy see one caller and this service another.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    if values.next().is_some() {
        return Err(ApiError::not_authenticated());
    }
    value.map(HeaderValue::to_str).transpose().map_err(|_| ApiError::not_authenticated())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identify(sent: &[(&'static str, &'static str)]) -> Result<Actor, ApiError> {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(*name, HeaderValue::from_static(value));
        }
        TrustedHeaders::new("dev:").identify(&headers)
    }

    #[test]
    fn headers_name_the_caller() {
        let actor = identify(&[("x-principal", "Alice"), ("x-role", "admin")]).expect("an actor");
        assert_eq!((actor.principal(), actor.role()), ("dev:alice", Role::Admin));
        let actor = identify(&[("x-role", "root")]).expect("an actor");
        assert_eq!((actor.principal(), actor.role()), ("anonymous", Role::App));
    }

    #[test]
    fn two_principals_are_none() {
        assert!(identify(&[("x-principal", "alice"), ("x-principal", "bob")]).is_err());
        assert!(
            TrustedHeaders::new("")
                .identify(&[("x-principal", "scheduler")].into_iter().fold(
                    HeaderMap::new(),
                    |mut headers, (name, value)| {
                        headers.append(name, HeaderValue::from_static(value));
                        headers
                    }
                ))
                .is_err()
        );
    }
}
