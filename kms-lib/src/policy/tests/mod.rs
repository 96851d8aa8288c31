//! Tests of policy decisions: `table` has every operation in every state of keys and versions, `grants` has grants.

#![allow(clippy::unwrap_used)]

mod grants;
mod table;

use std::sync::Arc;

use crate::policy::decide;
use crate::types::actor::{Actor, Role};
use crate::types::attempt::{Attempt, Decision, Operation};
use crate::types::context::Context;
use crate::types::credential::Credential;
use crate::types::error::ErrorCode;
use crate::types::grant::{Conditions, Grant, GrantScope, Grantor, Permission, StoredConditions};
use crate::types::ids::{CredentialId, GrantId, KeyId, VersionId};
use crate::types::key::{
    AuditContext, DisabledReason, Key, KeyPurpose, KeyState, KeyType, KeyVersion, Origin, VersionState,
};
use crate::types::quarantine::EntityTable;
use crate::types::time::Timestamp;
use crate::types::view::CatalogView;

const KEY: KeyId = KeyId::from_bytes([1; 16]);
const OTHER: KeyId = KeyId::from_bytes([2; 16]);
const NOW: Timestamp = Timestamp::from_micros(1_000_000_000_000);
const EARLIER: Timestamp = Timestamp::from_micros(999_999_000_000);
const LATER: Timestamp = Timestamp::from_micros(1_000_001_000_000);

/// The rows of a small catalog.
#[derive(Clone, Default)]
struct Rows {
    keys: Vec<Key>,
    versions: Vec<KeyVersion>,
    grants: Vec<Grant>,
    credentials: Vec<Credential>,
    damaged: bool,
}

impl CatalogView for Rows {
    fn key(&self, id: KeyId) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id)
    }
    fn key_by_name(&self, name: &str) -> Option<KeyId> {
        self.keys.iter().find(|key| key.name == name).map(|key| key.id)
    }
    fn version(&self, key: KeyId, version: u32) -> Option<&KeyVersion> {
        self.versions.iter().find(|v| v.key_id == key && v.version == version)
    }
    fn live_versions(&self, key: KeyId) -> usize {
        let live = |v: &&KeyVersion| v.key_id == key && v.state != VersionState::Destroyed;
        self.versions.iter().filter(live).count()
    }
    fn each_version(&self, key: KeyId, visit: &mut dyn FnMut(&KeyVersion)) {
        self.versions.iter().filter(|v| v.key_id == key).for_each(visit);
    }
    fn grant(&self, id: GrantId) -> Option<&Grant> {
        self.grants.iter().find(|grant| grant.id == id)
    }
    fn each_grant(&self, principal: &str, scope: GrantScope, visit: &mut dyn FnMut(&Grant)) {
        self.some_grants(principal, usize::MAX, &mut |grant| {
            if grant.scope == scope {
                visit(grant);
            }
        });
    }
    fn some_grants(&self, principal: &str, at_most: usize, visit: &mut dyn FnMut(&Grant)) {
        let standing = self.grants.iter().filter(|g| g.principal == principal && g.withdrawn_at.is_none());
        standing.take(at_most).for_each(visit);
    }
    fn credential(&self, id: CredentialId) -> Option<&Credential> {
        self.credentials.iter().find(|credential| credential.id == id)
    }
    fn is_quarantined(&self, _: EntityTable, _: [u8; 16]) -> bool {
        false
    }
    fn ended_credentials(&self, _: Timestamp, _: usize, _: &mut dyn FnMut(&Credential)) {}
    fn has_credentials(&self) -> bool {
        !self.credentials.is_empty()
    }
    fn each_root_key(&self, _: &mut dyn FnMut(&crate::types::root_key::RootKeyGeneration)) {}
    fn each_service_key(&self, _: &mut dyn FnMut(&crate::types::root_key::ServiceKey)) {}
    fn is_damaged(&self, _: KeyId) -> bool {
        self.damaged
    }
}

fn version(number: u32, state: VersionState) -> KeyVersion {
    KeyVersion {
        id: VersionId::from_bytes([u8::try_from(number).unwrap(); 16]),
        key_id: KEY,
        version: number,
        state,
        not_before: None,
        not_after: None,
        grace_period_days: None,
        created_at: EARLIER,
        origin: Origin::Generated,
        fingerprint: [0; 32],
        public_key_digest: None,
        revision: 1,
    }
}

/// A key whose version 1 is a former one and whose version 2 is the current one.
fn rows(purpose: KeyPurpose, state: KeyState) -> Rows {
    let key = Key {
        id: KEY,
        name: "k".into(),
        key_type: KeyType::Rsa2048,
        purpose,
        state,
        disabled_reason: (state == KeyState::Disabled).then_some(DisabledReason::Admin),
        state_before_deletion: None,
        rotation_period_days: None,
        grace_period_days: None,
        current_version: 2,
        rotate_at: None,
        delete_at: (state == KeyState::PendingDeletion).then_some(EARLIER),
        deletion_wait_days: (state == KeyState::PendingDeletion).then_some(7),
        audit_context: AuditContext::Clear,
        metadata: None,
        import: None,
        created_at: EARLIER,
        revision: 1,
    };
    let (former, current) = match state {
        KeyState::Destroyed => (VersionState::Destroyed, VersionState::Destroyed),
        _ => (VersionState::Disabled, VersionState::Enabled),
    };
    Rows { keys: vec![key], versions: vec![version(1, former), version(2, current)], ..Rows::default() }
}

fn attempt(actor: Actor, operation: Operation) -> Attempt {
    Attempt { actor, operation, key: Some(KEY), key_type: None, context: Some(Arc::new(Context::new())) }
}

fn admin() -> Actor {
    Actor::new("alice", Role::Admin).unwrap()
}

fn app() -> Actor {
    Actor::new("shop", Role::App).unwrap()
}

fn grant(scope: GrantScope, permissions: &[Permission], conditions: Conditions) -> Grant {
    Grant {
        id: GrantId::random(),
        principal: "shop".into(),
        role: Role::App,
        scope,
        permissions: permissions.to_vec(),
        conditions: StoredConditions::Known(conditions),
        created_at: EARLIER,
        withdrawn_at: None,
        grantor: Grantor { principal: "alice".into(), role: Role::Admin, through: Vec::new() },
        cascade: false,
        revision: 1,
    }
}

/// The expected decision in a cell of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    Yes,
    No(ErrorCode),
    Again,
}

#[track_caller]
fn expect(view: &Rows, attempt: &Attempt, expected: Cell, what: &str) {
    let got = match decide(view, attempt, NOW) {
        Decision::Allowed { .. } => Cell::Yes,
        Decision::Denied(code) => Cell::No(code),
        Decision::Superseded => Cell::Again,
    };
    assert_eq!(got, expected, "{what}: {:?}", attempt.operation);
}

fn put_grant() -> Operation {
    Operation::PutGrant {
        principal: "bob".into(),
        permissions: vec![Permission::Read],
        conditions: Conditions::default(),
    }
}
