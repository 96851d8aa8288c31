//! Grants and tokens.

use kms_lib::{
    Conditions, CreatedToken, CredentialDescription, GrantFilter, KeyRef, NewGrant, NewToken, Permission, Role,
};
use pyo3::Borrowed;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyType};
use serde::Serialize;

use super::Session;
use crate::answer::{load, nothing};
use crate::arguments::{Key, Named, Text, Time, optional, paging, read_context, text};
use crate::call::Work;
use crate::errors::{Failure, Outcome, invalid, wrong_type};

/// The text that means all keys.
const ALL_KEYS: &str = "*";

/// The scope of a grant: one key or all keys.
enum Scope {
    All,
    One(KeyRef),
}

impl<'py> FromPyObject<'_, 'py> for Scope {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if value.cast::<PyString>().is_ok_and(|text| *text == ALL_KEYS) {
            return Ok(Self::All);
        }
        Ok(Self::One(value.extract::<Key>()?.0))
    }
}

/// The id of a grant or credential: a `str`, or an object with an id.
struct Id(String);

impl<'py> FromPyObject<'_, 'py> for Id {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        static GRANT: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        static CREDENTIAL: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let py = value.py();
        let results = "mini_kms._results";
        let has_id = value.is_instance(GRANT.import(py, results, "Grant")?)?
            || value.is_instance(CREDENTIAL.import(py, results, "Credential")?)?;
        if has_id {
            return Ok(Self(text(&value.getattr("id")?, "an id")?.into_owned()));
        }
        Ok(Self(text(&value, "an id")?.into_owned()))
    }
}

/// The conditions of a grant.
struct Limits(Conditions);

impl<'py> FromPyObject<'_, 'py> for Limits {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        static CONDITIONS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        if !value.is_instance(CONDITIONS.import(value.py(), "mini_kms._results", "Conditions")?)? {
            let kind = value.get_type().name()?;
            return Err(wrong_type(format!("conditions must be Conditions, not {kind}")).into());
        }
        Ok(Self(read_conditions(&value)?))
    }
}

fn read_conditions(value: &Bound<'_, PyAny>) -> Outcome<Conditions> {
    let mut made = Conditions::new();
    made.not_before = value.getattr("not_before")?.extract::<Option<Time>>()?.map(|it| it.0);
    made.not_after = value.getattr("not_after")?.extract::<Option<Time>>()?.map(|it| it.0);
    if let Some(networks) = value.getattr("source_ip")?.extract::<Option<Vec<Text>>>()? {
        let network =
            |text: &Text| text.0.parse().map_err(|_| invalid(format!("source_ip: {:?} is not an IP network", text.0)));
        made.source_ip = Some(networks.iter().map(network).collect::<Outcome<_>>()?);
    }
    let context = |name| -> Outcome<_> {
        let value = value.getattr(name)?;
        if value.is_none() { Ok(None) } else { read_context(&value).map(Some) }
    };
    made.encryption_context_equals = context("encryption_context_equals")?;
    made.encryption_context_subset = context("encryption_context_subset")?;
    Ok(made)
}

/// Converts a new token to JSON.
#[derive(Serialize)]
struct Created<'a> {
    token: &'a str,
    credential: &'a CredentialDescription,
}

fn created(py: Python<'_>, made: CreatedToken) -> PyResult<Py<PyAny>> {
    load("CreatedToken")(py, Created { token: &made.token, credential: &made.credential })
}

fn new_token(principal: Text, role: Role, label: Option<Text>, expires_at: Option<Time>) -> NewToken {
    let mut new = NewToken::new(principal.0, role).expires_at(expires_at.map(|it| it.0));
    new.label = optional(label);
    new
}

#[pymethods]
impl Session {
    /// Grants a principal permissions on a key, or on all keys (``"*"``). It replaces the grant that the principal has
    /// from the same grantor on the same keys.
    ///
    /// >>> alice.put_grant("shop", "users", ["encrypt"]).allowed_ops
    /// ('encrypt',)
    #[pyo3(signature = (principal, key, allow, *, role=None, conditions=None), text_signature =
        "($self, principal, key, allow, *, role='app', conditions=None)")]
    fn put_grant<'py>(
        &self,
        py: Python<'py>,
        principal: Text,
        key: Scope,
        allow: &Bound<'py, PyAny>,
        role: Option<Named<Role>>,
        conditions: Option<Limits>,
    ) -> Outcome<Bound<'py, PyAny>> {
        if allow.cast::<PyString>().is_ok() {
            return Err(wrong_type("allow must be a list of permissions, not a str"));
        }
        let allowed = allow.try_iter()?.map(|permission| Ok(permission?.extract::<Named<Permission>>()?.0));
        let new = NewGrant::new(principal.0, role.map_or(Role::App, |it| it.0))
            .allow(allowed.collect::<Result<Vec<_>, Failure>>()?)
            .conditions(conditions.map(|it| it.0).unwrap_or_default());
        let new = match key {
            Scope::All => new.on_all_keys(),
            Scope::One(key) => new.on_key(key),
        };
        self.ask(py, "Grant", |session| async move { session.put_grant(new).await })
    }
    /// Withdraws a grant. With ``cascade``, grants that were passed on through it are withdrawn too.
    ///
    /// >>> alice.revoke_grant(alice.put_grant("shop", "users", ["encrypt"]))
    #[pyo3(signature = (grant, *, cascade=false))]
    fn revoke_grant<'py>(&self, py: Python<'py>, grant: Id, cascade: bool) -> Outcome<Bound<'py, PyAny>> {
        let id = grant.0.parse()?;
        let revoke = |session: kms_lib::Session| async move {
            if cascade { session.revoke_grant_cascading(id).await } else { session.revoke_grant(id).await }
        };
        self.call(py, Work::Long, revoke, nothing)
    }
    /// Lists the grants in force, by principal. With ``key``, only those that apply to this key, including those on all
    /// keys; with ``"*"``, only those on all keys.
    #[pyo3(signature = (*, principal=None, key=None, limit=100, cursor=None))]
    fn list_grants<'py>(
        &self,
        py: Python<'py>,
        principal: Option<Text>,
        key: Option<Scope>,
        limit: usize,
        cursor: Option<Text>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let mut filter = match key {
            None => GrantFilter::new(),
            Some(Scope::All) => GrantFilter::new().on_all_keys(),
            Some(Scope::One(key)) => GrantFilter::new().on_key(key),
        };
        filter.principal = optional(principal);
        let part = paging(limit, cursor);
        self.ask(py, "GrantPage", |session| async move { session.list_grants(&filter, &part).await })
    }
    /// Creates a token, with which ``Kms.authenticate`` creates a session of this principal in this role.
    ///
    /// >>> made = alice.create_token("shop", label="web shop")
    /// >>> kms.authenticate(made.token).principal
    /// 'shop'
    #[pyo3(signature = (principal, *, role=None, label=None, expires_at=None), text_signature =
        "($self, principal, *, role='app', label=None, expires_at=None)")]
    fn create_token<'py>(
        &self,
        py: Python<'py>,
        principal: Text,
        role: Option<Named<Role>>,
        label: Option<Text>,
        expires_at: Option<Time>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let new = new_token(principal, role.map_or(Role::App, |it| it.0), label, expires_at);
        self.call(py, Work::Long, |session| async move { session.create_token(new).await }, created)
    }
    /// Creates the first token of a store; raises ``Conflict`` if the store has or ever had a credential.
    #[pyo3(signature = (principal, *, role=None, label=None, expires_at=None), text_signature =
        "($self, principal, *, role='admin', label=None, expires_at=None)")]
    fn create_first_token<'py>(
        &self,
        py: Python<'py>,
        principal: Text,
        role: Option<Named<Role>>,
        label: Option<Text>,
        expires_at: Option<Time>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let new = new_token(principal, role.map_or(Role::Admin, |it| it.0), label, expires_at);
        self.call(py, Work::Long, |session| async move { session.create_first_token(new).await }, created)
    }
    /// Withdraws a token: from now on, no operation with this token succeeds.
    fn revoke_credential<'py>(&self, py: Python<'py>, credential: Id) -> Outcome<Bound<'py, PyAny>> {
        let id = credential.0.parse()?;
        self.call(py, Work::Long, |session| async move { session.revoke_credential(id).await }, nothing)
    }
    /// Lists the credentials that are not withdrawn.
    #[pyo3(signature = (*, limit=100, cursor=None))]
    fn list_credentials<'py>(&self, py: Python<'py>, limit: usize, cursor: Option<Text>) -> Outcome<Bound<'py, PyAny>> {
        let part = paging(limit, cursor);
        self.ask(py, "CredentialPage", |session| async move { session.list_credentials(&part).await })
    }
}
