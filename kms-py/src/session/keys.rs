//! Keys and their versions.

use kms_lib::{AuditContext, KeyFilter, KeyPurpose, KeyState, KeyType, KeyUpdate, NewKey, json};
use pyo3::prelude::*;

use super::Session;
use crate::answer::text;
use crate::arguments::{Edit, Json, Key, Named, Text, Time, optional, paging};
use crate::call::Work;
use crate::errors::Outcome;

#[pymethods]
impl Session {
    /// Creates a key, by default for encryption with AES-256-GCM.
    ///
    /// >>> alice.create_key("cards", rotation_period_days=90).state
    /// 'ENABLED'
    #[pyo3(signature = (name, r#type=None, purpose=None, *, rotation_period_days=None, grace_period_days=None,
        metadata=None, audit_context=None), text_signature = "($self, name, type='AES256_GCM', \
        purpose='ENCRYPTION', *, \
        rotation_period_days=None, grace_period_days=None, metadata=None, audit_context=None)")]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn create_key<'py>(
        &self,
        py: Python<'py>,
        name: Text,
        r#type: Option<Named<KeyType>>,
        purpose: Option<Named<KeyPurpose>>,
        rotation_period_days: Option<u32>,
        grace_period_days: Option<u32>,
        metadata: Option<Json>,
        audit_context: Option<Named<AuditContext>>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let key_type = r#type.map_or(KeyType::Aes256Gcm, |it| it.0);
        let mut new = NewKey::new(name.0, key_type, purpose.map_or(KeyPurpose::Encryption, |it| it.0));
        new.rotation_period_days = rotation_period_days;
        new.grace_period_days = grace_period_days;
        new.metadata = metadata.map(|it| it.0);
        new.audit_context = audit_context.map(|it| it.0);
        self.ask(py, "Key", |session| async move { session.create_key(new).await.map(json::Key::from) })
    }
    /// Returns the description of a key.
    ///
    /// >>> alice.get_key("users").current_version
    /// 1
    fn get_key<'py>(&self, py: Python<'py>, key: Key) -> Outcome<Bound<'py, PyAny>> {
        self.ask(py, "Key", |session| async move { session.get_key(key.0).await.map(json::Key::from) })
    }
    /// Lists keys by name, without their versions.
    ///
    /// >>> [key.name for key in alice.list_keys(name_prefix="use").items]
    /// ['users']
    #[pyo3(signature = (*, state=None, r#type=None, purpose=None, name_prefix=None, limit=100, cursor=None))]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn list_keys<'py>(
        &self,
        py: Python<'py>,
        state: Option<Named<KeyState>>,
        r#type: Option<Named<KeyType>>,
        purpose: Option<Named<KeyPurpose>>,
        name_prefix: Option<Text>,
        limit: usize,
        cursor: Option<Text>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let mut filter = KeyFilter::new();
        filter.state = state.map(|it| it.0);
        filter.key_type = r#type.map(|it| it.0);
        filter.purpose = purpose.map(|it| it.0);
        filter.name_prefix = optional(name_prefix);
        let part = paging(limit, cursor);
        self.ask(py, "KeyPage", |session| async move { session.list_keys(&filter, &part).await })
    }
    /// Returns the public key of a version of an RSA key, as PEM.
    ///
    /// >>> alice.public_key("invoices", 1).splitlines()[0]
    /// '-----BEGIN PUBLIC KEY-----'
    fn public_key<'py>(&self, py: Python<'py>, key: Key, version: u32) -> Outcome<Bound<'py, PyAny>> {
        self.call(py, Work::Long, |session| async move { session.public_key(key.0, version).await }, text)
    }
    /// Lists the versions of a key, oldest first.
    ///
    /// >>> [version.state for version in alice.list_versions("users").items]
    /// ['ENABLED']
    #[pyo3(signature = (key, *, limit=100, cursor=None))]
    fn list_versions<'py>(
        &self,
        py: Python<'py>,
        key: Key,
        limit: usize,
        cursor: Option<Text>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let part = paging(limit, cursor);
        self.ask(py, "KeyVersionPage", |session| async move { session.list_versions(key.0, &part).await })
    }
    /// Returns the description of a version of a key.
    fn get_version<'py>(&self, py: Python<'py>, key: Key, version: u32) -> Outcome<Bound<'py, PyAny>> {
        self.ask(py, "KeyVersion", |session| async move { session.get_version(key.0, version).await })
    }
    /// Rotates a key: a new version encrypts and signs from now on. With ``expected_current``, it raises ``Conflict``
    /// if another version is the current one.
    ///
    /// >>> alice.rotate_key("users").current_version
    /// 2
    #[pyo3(signature = (key, *, expected_current=None))]
    fn rotate_key<'py>(&self, py: Python<'py>, key: Key, expected_current: Option<u32>) -> Outcome<Bound<'py, PyAny>> {
        self.ask(
            py,
            "Key",
            |session| async move { session.rotate_key(key.0, expected_current).await.map(json::Key::from) },
        )
    }
    /// Enables a disabled key.
    fn enable_key<'py>(&self, py: Python<'py>, key: Key) -> Outcome<Bound<'py, PyAny>> {
        self.ask(py, "Key", |session| async move { session.enable_key(key.0).await.map(json::Key::from) })
    }
    /// Disables a key: it neither encrypts nor decrypts until it is enabled.
    ///
    /// >>> alice.disable_key("users").state
    /// 'DISABLED'
    fn disable_key<'py>(&self, py: Python<'py>, key: Key) -> Outcome<Bound<'py, PyAny>> {
        self.ask(py, "Key", |session| async move { session.disable_key(key.0).await.map(json::Key::from) })
    }
    /// Revokes a key with all its versions, permanently.
    fn revoke_key<'py>(&self, py: Python<'py>, key: Key) -> Outcome<Bound<'py, PyAny>> {
        self.ask(py, "Key", |session| async move { session.revoke_key(key.0).await.map(json::Key::from) })
    }
    /// Erases the material of former versions of a key that are revoked or past their grace window. They stay in its
    /// history as `DESTROYED`, and no longer count towards the limit of versions.
    fn trim_key<'py>(&self, py: Python<'py>, key: Key) -> Outcome<Bound<'py, PyAny>> {
        self.ask(py, "Key", |session| async move { session.trim_key(key.0).await.map(json::Key::from) })
    }
    /// Enables the current version of a key after it was disabled.
    fn enable_version<'py>(&self, py: Python<'py>, key: Key, version: u32) -> Outcome<Bound<'py, PyAny>> {
        self.ask(py, "Key", |session| async move { session.enable_version(key.0, version).await.map(json::Key::from) })
    }
    /// Disables a version of a key: it no longer encrypts or signs; it decrypts and verifies until its grace window
    /// ends.
    fn disable_version<'py>(&self, py: Python<'py>, key: Key, version: u32) -> Outcome<Bound<'py, PyAny>> {
        self.ask(py, "Key", |session| async move { session.disable_version(key.0, version).await.map(json::Key::from) })
    }
    /// Revokes a version of a key, permanently.
    fn revoke_version<'py>(&self, py: Python<'py>, key: Key, version: u32) -> Outcome<Bound<'py, PyAny>> {
        self.ask(py, "Key", |session| async move { session.revoke_version(key.0, version).await.map(json::Key::from) })
    }
    /// Sets the end of the grace window of a former version, until which it decrypts and verifies; None means no end.
    fn set_window<'py>(
        &self,
        py: Python<'py>,
        key: Key,
        version: u32,
        not_after: Option<Time>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let not_after = not_after.map(|it| it.0);
        self.ask(py, "Key", |session| async move {
            session.set_window(key.0, version, not_after).await.map(json::Key::from)
        })
    }
    /// Edits a key. Omitted arguments change nothing; None removes a period or the metadata. With
    /// ``expected_revision``, it raises ``Conflict`` if the key has another revision.
    ///
    /// >>> alice.update_key("users", metadata={"team": "shop"}).metadata
    /// {'team': 'shop'}
    #[pyo3(signature = (key, *, rotation_period_days=Edit::Keep, grace_period_days=Edit::Keep, metadata=Edit::Keep,
        audit_context=None, expected_revision=None))]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn update_key<'py>(
        &self,
        py: Python<'py>,
        key: Key,
        rotation_period_days: Edit<u32>,
        grace_period_days: Edit<u32>,
        metadata: Edit<Json>,
        audit_context: Option<Named<AuditContext>>,
        expected_revision: Option<u64>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let mut update = KeyUpdate::new();
        update.rotation_period_days = rotation_period_days.given();
        update.grace_period_days = grace_period_days.given();
        update.metadata = metadata.given().map(|given| given.map(|it| it.0));
        update.audit_context = audit_context.map(|it| it.0);
        update.expected_revision = expected_revision;
        self.ask(py, "Key", |session| async move { session.update_key(key.0, update).await.map(json::Key::from) })
    }
    /// Schedules the erasure of a key's material; by default in 30 days.
    ///
    /// >>> alice.schedule_deletion("users", waiting_days=7).state
    /// 'PENDING_DELETION'
    #[pyo3(signature = (key, *, waiting_days=None))]
    fn schedule_deletion<'py>(
        &self,
        py: Python<'py>,
        key: Key,
        waiting_days: Option<u32>,
    ) -> Outcome<Bound<'py, PyAny>> {
        self.ask(py, "Key", |session| async move {
            session.schedule_deletion(key.0, waiting_days).await.map(json::Key::from)
        })
    }
    /// Cancels a scheduled deletion; the key returns to its former state.
    fn cancel_deletion<'py>(&self, py: Python<'py>, key: Key) -> Outcome<Bound<'py, PyAny>> {
        self.ask(py, "Key", |session| async move { session.cancel_deletion(key.0).await.map(json::Key::from) })
    }
}
