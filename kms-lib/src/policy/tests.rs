//! The policy table, written out: every operation in every state; then roles, grants and conditions.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::{decide, grantor};
use crate::types::actor::{Actor, Role};
use crate::types::attempt::{Attempt, Decision, Operation};
use crate::types::context::Context;
use crate::types::credential::Credential;
use crate::types::error::ErrorCode::{self, *};
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

/// A small catalog.
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
use Cell::{Again, No, Yes};

#[track_caller]
fn expect(view: &Rows, attempt: &Attempt, expected: Cell, what: &str) {
    let got = match decide(view, attempt, NOW) {
        Decision::Allowed { .. } => Yes,
        Decision::Denied(code) => No(code),
        Decision::Superseded => Again,
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

#[test]
fn every_operation_against_every_key_state() {
    let rotate = Operation::Rotate { new_version: 3, expected_current: None };
    let set_window = Operation::SetWindow { version: 1, not_after: None };
    let set_current_window = Operation::SetWindow { version: 2, not_after: None };
    let encrypt = Operation::Encrypt { version: 2 };
    let sign = Operation::Sign { version: 2 };
    let (dis, rev, pen, des) = (No(KeyDisabled), No(KeyRevoked), No(KeyPendingDeletion), No(KeyDestroyed));
    // In the last column but two the current version (2) is revoked; there, the former one (1) is used.
    #[rustfmt::skip]
    let table: [(Operation, [Cell; 8]); 29] = [
        //                                       ENABLED DIS.admin DIS.revoked        REVOKED PENDING DESTROYED missing
        // damaged
        (Operation::CreateKey,                  [Yes,    Yes,      Yes,               Yes,    Yes,    Yes,      Yes,            Yes]),
        (Operation::ReadKey,                    [Yes,    Yes,      Yes,               Yes,    Yes,    Yes,      No(KeyNotFound), No(IntegrityFailure)]),
        (encrypt,                               [Yes,    dis,      No(VersionRevoked), rev,   pen,    des,      No(KeyNotFound), No(IntegrityFailure)]),
        (Operation::Encrypt { version: 1 },     [Again,  dis,      No(VersionRevoked), rev,   pen,    des,      No(KeyNotFound), No(IntegrityFailure)]),
        (Operation::Decrypt { version: 1 },     [Yes,    dis,      Yes,               rev,    pen,    des,      No(KeyNotFound), No(IntegrityFailure)]),
        (Operation::Decrypt { version: 2 },     [Yes,    dis,      No(VersionRevoked), rev,   pen,    des,      No(KeyNotFound), No(IntegrityFailure)]),
        (sign,                                  [Yes,    dis,      No(VersionRevoked), rev,   pen,    des,      No(KeyNotFound), No(IntegrityFailure)]),
        (Operation::Verify { version: Some(1) },[Yes,    dis,      Yes,               rev,    pen,    des,      No(KeyNotFound), No(IntegrityFailure)]),
        (Operation::Verify { version: None },   [Yes,    dis,      Yes,               rev,    pen,    des,      No(KeyNotFound), No(IntegrityFailure)]),
        (rotate,                                [Yes,    dis,      Yes,               rev,    pen,    des,      No(KeyNotFound), No(IntegrityFailure)]),
        (Operation::EnableKey,                  [Yes,    Yes,      No(WrongState),    rev,    pen,    des,      No(KeyNotFound), No(IntegrityFailure)]),
        (Operation::DisableKey,                 [Yes,    Yes,      Yes,               rev,    pen,    des,      No(KeyNotFound), No(IntegrityFailure)]),
        (Operation::RevokeKey,                  [Yes,    Yes,      Yes,               Yes,    Yes,    des,      No(KeyNotFound), No(IntegrityFailure)]),
        (Operation::EnableVersion { version: 1 }, [No(VersionNotCurrent), No(VersionNotCurrent), No(VersionNotCurrent), rev, pen, des, No(KeyNotFound), No(IntegrityFailure)]),
        (Operation::EnableVersion { version: 2 }, [Yes,  Yes,      No(VersionRevoked), rev, pen, des, No(KeyNotFound), No(IntegrityFailure)]),
        (Operation::DisableVersion { version: 1 }, [Yes, Yes,      Yes,               rev, pen, des, No(KeyNotFound), No(IntegrityFailure)]),
        (Operation::DisableVersion { version: 2 }, [Yes, Yes,      No(VersionRevoked), rev,   pen,    des,      No(KeyNotFound), No(IntegrityFailure)]),
        (Operation::RevokeVersion { version: 1 }, [Yes,  Yes,      Yes,               Yes,    Yes,    des,      No(KeyNotFound), No(IntegrityFailure)]),
        (Operation::RevokeVersion { version: 2 }, [Yes,  Yes,      Yes,               Yes,    Yes,    des,      No(KeyNotFound), No(IntegrityFailure)]),
        (set_current_window,                    [No(WrongState), No(WrongState), No(VersionRevoked), rev, pen, des, No(KeyNotFound), No(IntegrityFailure)]),
        (set_window,                            [Yes,    Yes,      Yes,               rev,    pen,    des,      No(KeyNotFound), No(IntegrityFailure)]),
        (Operation::UpdateKey { expected_revision: None }, [Yes,    Yes,      Yes,               rev,    pen,    des,      No(KeyNotFound), No(IntegrityFailure)]),
        (Operation::UpdateKey { expected_revision: Some(u64::MAX) }, [No(Conflict), No(Conflict), No(Conflict), rev, pen, des, No(KeyNotFound), No(IntegrityFailure)]),
        (Operation::ScheduleDeletion { waiting_days: 7 }, [Yes, Yes, Yes,             Yes,    Yes,    des,      No(KeyNotFound), No(IntegrityFailure)]),
        (Operation::ScheduleDeletion { waiting_days: 8 }, [Yes, Yes, Yes,             Yes,    pen,    des,      No(KeyNotFound), No(IntegrityFailure)]),
        (Operation::CancelDeletion,             [No(WrongState), No(WrongState), No(WrongState), No(WrongState), Yes, des, No(KeyNotFound), No(IntegrityFailure)]),
        (Operation::DestroyKey,                 [No(AccessDenied); 8]),
        (put_grant(),                           [Yes,    Yes,      Yes,               Yes,    Yes,    Yes,      No(KeyNotFound), No(IntegrityFailure)]),
        (Operation::ReadGrants,                 [Yes; 8]),
    ];
    for (operation, cells) in table {
        let purpose = match operation {
            Operation::Sign { .. } | Operation::Verify { .. } => KeyPurpose::Signing,
            _ => KeyPurpose::Encryption,
        };
        let mut current_revoked = rows(purpose, KeyState::Disabled);
        current_revoked.keys[0].disabled_reason = Some(DisabledReason::CurrentVersionRevoked);
        current_revoked.versions[1].state = VersionState::Revoked;
        let views = [
            rows(purpose, KeyState::Enabled),
            rows(purpose, KeyState::Disabled),
            current_revoked,
            rows(purpose, KeyState::Revoked),
            rows(purpose, KeyState::PendingDeletion),
            rows(purpose, KeyState::Destroyed),
            Rows::default(),
            Rows { damaged: true, ..rows(purpose, KeyState::Enabled) },
        ];
        let names = ["enabled", "disabled", "current revoked", "revoked", "pending", "destroyed", "missing", "damaged"];
        for ((view, cell), name) in views.iter().zip(cells).zip(names) {
            expect(view, &attempt(admin(), operation.clone()), cell, name);
        }
    }
}

#[test]
fn every_version_state() {
    let window = |state, not_after| KeyVersion { not_after, ..version(1, state) };
    let decrypt = Operation::Decrypt { version: 1 };
    let cells = [
        (window(VersionState::Disabled, None), Yes),
        (window(VersionState::Disabled, Some(LATER)), Yes),
        (window(VersionState::Disabled, Some(NOW)), No(VersionDisabled)),
        (window(VersionState::Disabled, Some(EARLIER)), No(VersionDisabled)),
        (window(VersionState::Revoked, Some(LATER)), No(VersionRevoked)),
        (window(VersionState::Destroyed, None), No(VersionDestroyed)),
        (KeyVersion { not_before: Some(LATER), ..version(1, VersionState::Disabled) }, No(VersionDisabled)),
        (KeyVersion { origin: Origin::Imported, ..version(1, VersionState::Disabled) }, Yes),
    ];
    for (former, cell) in cells {
        let mut view = rows(KeyPurpose::Encryption, KeyState::Enabled);
        let what = format!("{former:?}");
        view.versions[0] = former;
        expect(&view, &attempt(admin(), decrypt.clone()), cell, &what);
    }
    let cells = [
        (version(2, VersionState::Enabled), Yes),
        (KeyVersion { not_after: Some(EARLIER), ..version(2, VersionState::Enabled) }, Yes),
        (version(2, VersionState::Disabled), No(VersionDisabled)),
        (version(2, VersionState::Revoked), No(VersionRevoked)),
        (version(2, VersionState::Destroyed), No(VersionDestroyed)),
        (KeyVersion { origin: Origin::Imported, ..version(2, VersionState::Enabled) }, No(WrongState)),
        (KeyVersion { not_before: Some(LATER), ..version(2, VersionState::Enabled) }, No(VersionDisabled)),
    ];
    for (current, cell) in cells {
        let mut view = rows(KeyPurpose::Encryption, KeyState::Enabled);
        let what = format!("{current:?}");
        view.versions[1] = current;
        expect(&view, &attempt(admin(), Operation::Encrypt { version: 2 }), cell, &what);
    }
    let view = rows(KeyPurpose::Encryption, KeyState::Enabled);
    expect(&view, &attempt(admin(), Operation::Decrypt { version: 9 }), No(VersionNotFound), "missing");
    expect(&view, &attempt(admin(), Operation::Encrypt { version: 3 }), No(VersionNotFound), "missing");
    // The decision is valid until the window ends.
    let mut view = view;
    view.versions[0].not_after = Some(LATER);
    let decision = decide(&view, &attempt(admin(), decrypt), NOW);
    assert_eq!(decision, Decision::Allowed { grant: None, valid_until: Some(LATER) });
}

#[test]
fn purpose_type_and_expected_version() {
    let signing = rows(KeyPurpose::Signing, KeyState::Enabled);
    let encryption = rows(KeyPurpose::Encryption, KeyState::Enabled);
    for operation in [Operation::Encrypt { version: 2 }, Operation::Decrypt { version: 2 }] {
        expect(&signing, &attempt(admin(), operation), No(WrongPurpose), "signing key");
    }
    for operation in [Operation::Sign { version: 2 }, Operation::Verify { version: None }] {
        expect(&encryption, &attempt(admin(), operation), No(WrongPurpose), "encryption key");
    }
    let mut typed = attempt(admin(), Operation::Encrypt { version: 2 });
    typed.key_type = Some(KeyType::Aes256Gcm);
    expect(&encryption, &typed, No(WrongKeyType), "AES asked for");
    let rotate = |new_version, expected_current| Operation::Rotate { new_version, expected_current };
    expect(&encryption, &attempt(admin(), rotate(3, Some(2))), Yes, "expected");
    expect(&encryption, &attempt(admin(), rotate(3, Some(1))), No(Conflict), "another came first");
    expect(&encryption, &attempt(admin(), rotate(2, None)), Again, "prepared for an older state");
    let mut last = rows(KeyPurpose::Encryption, KeyState::Enabled);
    last.keys[0].current_version = u32::MAX;
    expect(&last, &attempt(admin(), rotate(u32::MAX, None)), No(LimitExceeded), "no further version number");
    let mut due = rows(KeyPurpose::Encryption, KeyState::PendingDeletion);
    let destroy = attempt(Actor::internal("scheduler"), Operation::DestroyKey);
    expect(&due, &destroy, Yes, "due");
    due.keys[0].delete_at = Some(LATER);
    expect(&due, &destroy, No(WrongState), "not due");
    expect(&encryption, &destroy, No(WrongState), "not scheduled");
}

/// Each permission allows the operations that it covers, and no others.
#[test]
fn every_permission_against_every_operation() {
    use Permission as P;
    let window = |not_after| Operation::SetWindow { version: 1, not_after };
    #[rustfmt::skip]
    let table: Vec<(Operation, KeyState, &[Permission])> = vec![
        (Operation::ReadKey, KeyState::Enabled, &[P::Read]),
        (Operation::Encrypt { version: 2 }, KeyState::Enabled, &[P::Encrypt]),
        (Operation::Decrypt { version: 1 }, KeyState::Enabled, &[P::Decrypt]),
        (Operation::Rotate { new_version: 3, expected_current: None }, KeyState::Enabled, &[P::Rotate]),
        (Operation::EnableKey, KeyState::Disabled, &[P::Manage]),
        (Operation::DisableKey, KeyState::Enabled, &[P::Revoke]),
        (Operation::RevokeKey, KeyState::Enabled, &[P::Revoke]),
        (Operation::DisableVersion { version: 2 }, KeyState::Enabled, &[P::Revoke]),
        (Operation::RevokeVersion { version: 1 }, KeyState::Enabled, &[P::Revoke]),
        (window(Some(LATER)), KeyState::Enabled, &[P::Revoke]),
        (window(None), KeyState::Enabled, &[P::Manage]),
        (Operation::UpdateKey { expected_revision: None }, KeyState::Enabled, &[P::Manage]),
        (Operation::CancelDeletion, KeyState::PendingDeletion, &[P::Manage]),
        (Operation::ScheduleDeletion { waiting_days: 7 }, KeyState::Enabled, &[P::Delete]),
        (Operation::DestroyKey, KeyState::PendingDeletion, &[]),
        (Operation::ReadGrants, KeyState::Enabled, &[]),
        (Operation::ReadAudit, KeyState::Enabled, &[]),
        (Operation::VerifyAudit, KeyState::Enabled, &[]),
        (Operation::ReadMetrics, KeyState::Enabled, &[]),
        (Operation::CreateCredential, KeyState::Enabled, &[]),
        (Operation::ReadCredentials, KeyState::Enabled, &[]),
    ];
    for (operation, state, covering) in table {
        for permission in Permission::ALL {
            let mut view = rows(KeyPurpose::Encryption, state);
            view.grants.push(grant(GrantScope::Key(KEY), &[*permission], Conditions::default()));
            let cell = if covering.contains(permission) { Yes } else { No(AccessDenied) };
            expect(&view, &attempt(app(), operation.clone()), cell, permission.as_str());
        }
    }
    for (operation, permission) in
        [(Operation::Sign { version: 2 }, P::Sign), (Operation::Verify { version: None }, P::Verify)]
    {
        let mut view = rows(KeyPurpose::Signing, KeyState::Enabled);
        expect(&view, &attempt(app(), operation.clone()), No(AccessDenied), "no grant");
        view.grants.push(grant(GrantScope::AllKeys, &[permission], Conditions::default()));
        expect(&view, &attempt(app(), operation), Yes, permission.as_str());
    }
    // Extending a window needs `manage`, ending it `revoke`.
    let mut view = rows(KeyPurpose::Encryption, KeyState::Enabled);
    view.versions[0].not_after = Some(NOW);
    view.grants.push(grant(GrantScope::Key(KEY), &[P::Revoke], Conditions::default()));
    expect(&view, &attempt(app(), window(Some(EARLIER))), Yes, "shorter");
    expect(&view, &attempt(app(), window(Some(LATER))), No(AccessDenied), "longer");
    // Creating keys needs the permission on all keys.
    let create = Attempt { key: None, ..attempt(app(), Operation::CreateKey) };
    expect(&view, &create, No(AccessDenied), "no grant");
    view.grants.push(grant(GrantScope::Key(KEY), &[P::Create], Conditions::default()));
    expect(&view, &create, No(AccessDenied), "on one key");
    view.grants.push(grant(GrantScope::AllKeys, &[P::Create], Conditions::default()));
    expect(&view, &create, Yes, "on all keys");
}

#[test]
fn roles() {
    let view = rows(KeyPurpose::Encryption, KeyState::Enabled);
    let auditor = || Actor::new("eve", Role::Auditor).unwrap();
    for operation in [
        Operation::ReadKey,
        Operation::ReadGrants,
        Operation::ReadCredentials,
        Operation::ReadAudit,
        Operation::VerifyAudit,
        Operation::ReadMetrics,
    ] {
        expect(&view, &attempt(auditor(), operation), Yes, "auditor");
    }
    for operation in [
        Operation::CreateKey,
        Operation::Encrypt { version: 2 },
        Operation::Decrypt { version: 1 },
        Operation::RevokeKey,
        Operation::CreateCredential,
        put_grant(),
    ] {
        expect(&view, &attempt(auditor(), operation), No(AccessDenied), "auditor");
    }
    // A grant gives an auditor no further rights, and neither does a grant's role to an app.
    let mut view = view;
    let mut raised = grant(GrantScope::AllKeys, &[Permission::Read], Conditions::default());
    raised.role = Role::Admin;
    view.grants.push(Grant { principal: "eve".into(), permissions: vec![Permission::Encrypt], ..raised.clone() });
    view.grants.push(raised);
    expect(&view, &attempt(auditor(), Operation::Encrypt { version: 2 }), No(AccessDenied), "auditor with a grant");
    expect(&view, &attempt(app(), Operation::Encrypt { version: 2 }), No(AccessDenied), "app with a role");
}

#[test]
fn who_may_not_read_learns_nothing() {
    let view = rows(KeyPurpose::Encryption, KeyState::Revoked);
    for key in [Some(KEY), Some(OTHER), None] {
        for operation in [Operation::ReadKey, Operation::Encrypt { version: 2 }, Operation::RevokeKey] {
            let attempt = Attempt { key, ..attempt(app(), operation) };
            expect(&view, &attempt, No(AccessDenied), "whether it exists or not");
        }
    }
    let mut view = view;
    view.grants.push(grant(GrantScope::AllKeys, &[Permission::Read], Conditions::default()));
    let missing = Attempt { key: None, ..attempt(app(), Operation::ReadKey) };
    expect(&view, &missing, No(KeyNotFound), "may read all keys");
}

#[test]
fn scopes_withdrawals_and_conditions() {
    let encrypt = |context: Option<Context>, actor: Actor| Attempt {
        context: context.map(Arc::new),
        ..attempt(actor, Operation::Encrypt { version: 2 })
    };
    let with = |grants: Vec<Grant>| Rows { grants, ..rows(KeyPurpose::Encryption, KeyState::Enabled) };
    let one = |scope, conditions| with(vec![grant(scope, &[Permission::Encrypt], conditions)]);
    let none = Conditions::default();
    let plain = encrypt(Some(Context::new()), app());
    expect(&one(GrantScope::Key(KEY), none.clone()), &plain, Yes, "this key");
    expect(&one(GrantScope::Key(OTHER), none.clone()), &plain, No(AccessDenied), "another key");
    expect(&one(GrantScope::AllKeys, none.clone()), &plain, Yes, "all keys");
    let mut withdrawn = one(GrantScope::AllKeys, none.clone());
    withdrawn.grants[0].withdrawn_at = Some(EARLIER);
    expect(&withdrawn, &plain, No(AccessDenied), "withdrawn");
    let mut unknown = one(GrantScope::AllKeys, none.clone());
    unknown.grants[0].conditions = StoredConditions::from_json("{\"moonPhase\":\"full\"}");
    expect(&unknown, &plain, No(AccessDenied), "a condition that is not known");

    let at = |ip: &str| app().with_source_ip(ip.parse().unwrap());
    let tenant = |value: &str| Context::from([("tenant", value.to_owned())]);
    let both = Context::from([("tenant", "acme"), ("table", "users")]);
    let nets = |nets: &[&str]| Some(nets.iter().map(|net| net.parse().unwrap()).collect());
    #[rustfmt::skip]
    let cases: Vec<(Conditions, Attempt, Cell)> = vec![
        (Conditions { not_before: Some(NOW), ..none.clone() }, plain.clone(), Yes),
        (Conditions { not_before: Some(LATER), ..none.clone() }, plain.clone(), No(AccessDenied)),
        (Conditions { not_after: Some(LATER), ..none.clone() }, plain.clone(), Yes),
        (Conditions { not_after: Some(NOW), ..none.clone() }, plain.clone(), No(AccessDenied)),
        (Conditions { source_ip: nets(&["10.0.0.0/8"]), ..none.clone() }, encrypt(None, at("10.1.2.3")), Yes),
        (Conditions { source_ip: nets(&["10.0.0.0/8"]), ..none.clone() }, encrypt(None, at("::ffff:10.1.2.3")), Yes),
        (Conditions { source_ip: nets(&["10.0.0.0/8"]), ..none.clone() }, encrypt(None, at("11.1.2.3")), No(AccessDenied)),
        (Conditions { source_ip: nets(&["10.0.0.0/8", "fd00::/8"]), ..none.clone() }, encrypt(None, at("fd00::1")), Yes),
        (Conditions { source_ip: nets(&["0.0.0.0/0"]), ..none.clone() }, plain.clone(), No(AccessDenied)),
        (Conditions { encryption_context_equals: Some(tenant("acme")), ..none.clone() }, encrypt(Some(tenant("acme")), app()), Yes),
        (Conditions { encryption_context_equals: Some(tenant("acme")), ..none.clone() }, encrypt(Some(both.clone()), app()), No(AccessDenied)),
        (Conditions { encryption_context_equals: Some(tenant("acme")), ..none.clone() }, encrypt(None, app()), No(AccessDenied)),
        (Conditions { encryption_context_equals: Some(Context::new()), ..none.clone() }, encrypt(None, app()), No(AccessDenied)),
        (Conditions { encryption_context_subset: Some(tenant("acme")), ..none.clone() }, encrypt(Some(both.clone()), app()), Yes),
        (Conditions { encryption_context_subset: Some(tenant("evil")), ..none.clone() }, encrypt(Some(both.clone()), app()), No(AccessDenied)),
        (Conditions { encryption_context_subset: Some(Context::new()), ..none.clone() }, encrypt(None, app()), No(AccessDenied)),
        // All conditions must be met.
        (Conditions { not_after: Some(LATER), encryption_context_subset: Some(tenant("evil")), ..none.clone() }, encrypt(Some(both), app()), No(AccessDenied)),
    ];
    for (conditions, attempt, cell) in cases {
        expect(&one(GrantScope::Key(KEY), conditions.clone()), &attempt, cell, &format!("{conditions:?}"));
    }
    // Of several grants the one that is valid longest counts, and the decision is valid until it ends.
    let ends = |end| grant(GrantScope::AllKeys, &[Permission::Encrypt], Conditions { not_after: end, ..none.clone() });
    let later = LATER.plus_days(1);
    let view = with(vec![ends(Some(LATER)), ends(Some(later))]);
    let Decision::Allowed { grant, valid_until } = decide(&view, &plain, NOW) else { panic!("denied") };
    assert_eq!((grant, valid_until), (Some(view.grants[1].id), Some(later)));
    let view = with(vec![ends(Some(LATER)), ends(None)]);
    assert!(matches!(decide(&view, &plain, NOW), Decision::Allowed { valid_until: None, .. }));
}

#[test]
fn passing_on_gives_no_more_than_one_holds() {
    use Permission as P;
    let put = |permissions: &[P], conditions: Conditions| {
        attempt(app(), Operation::PutGrant { principal: "bob".into(), permissions: permissions.to_vec(), conditions })
    };
    let none = Conditions::default();
    let mut view = rows(KeyPurpose::Encryption, KeyState::Enabled);
    view.grants.push(grant(GrantScope::Key(KEY), &[P::Encrypt, P::Decrypt], none.clone()));
    expect(&view, &put(&[P::Encrypt], none.clone()), No(AccessDenied), "without the permission grant");
    view.grants.push(grant(GrantScope::Key(KEY), &[P::Grant], none.clone()));
    expect(&view, &put(&[P::Encrypt], none.clone()), Yes, "what one holds");
    expect(&view, &put(&[P::Encrypt, P::Decrypt, P::Grant], none.clone()), Yes, "all that one holds");
    expect(&view, &put(&[P::Encrypt, P::Sign], none.clone()), No(AccessDenied), "more than one holds");
    let on_all = Attempt { key: None, ..put(&[P::Encrypt], none.clone()) };
    expect(&view, &on_all, No(AccessDenied), "on more keys");
    let missing = Attempt { key: Some(OTHER), ..put(&[P::Encrypt], none.clone()) };
    expect(&view, &missing, No(AccessDenied), "on another key");

    // Conditions may be stricter, but not weaker.
    let nets = |net: &str| Some(vec![net.parse().unwrap()]);
    let acme = Context::from([("tenant", "acme")]);
    let users = Context::from([("tenant", "acme"), ("table", "users")]);
    let held = Conditions {
        not_before: Some(EARLIER),
        not_after: Some(LATER),
        source_ip: nets("10.0.0.0/8"),
        encryption_context_equals: None,
        encryption_context_subset: Some(acme.clone()),
    };
    let mut view = rows(KeyPurpose::Encryption, KeyState::Enabled);
    view.grants.push(grant(GrantScope::Key(KEY), &[P::Encrypt], held.clone()));
    view.grants.push(grant(GrantScope::Key(KEY), &[P::Grant], none.clone()));
    let stronger = [
        held.clone(),
        Conditions { not_before: Some(NOW), not_after: Some(NOW.plus_seconds(0)), ..held.clone() },
        Conditions { source_ip: nets("10.1.0.0/16"), ..held.clone() },
        Conditions { encryption_context_subset: Some(users.clone()), ..held.clone() },
        Conditions { encryption_context_subset: None, encryption_context_equals: Some(users), ..held.clone() },
    ];
    for conditions in stronger {
        expect(&view, &put(&[P::Encrypt], conditions), Yes, "no weaker");
    }
    let weaker = [
        none.clone(),
        Conditions { not_before: None, ..held.clone() },
        Conditions { not_after: None, ..held.clone() },
        Conditions { not_after: Some(LATER.plus_seconds(1)), ..held.clone() },
        Conditions { source_ip: nets("0.0.0.0/0"), ..held.clone() },
        Conditions { source_ip: nets("11.0.0.0/8"), ..held.clone() },
        Conditions { encryption_context_subset: None, ..held.clone() },
        Conditions { encryption_context_subset: Some(Context::new()), ..held.clone() },
        Conditions { encryption_context_subset: None, encryption_context_equals: Some(Context::new()), ..held },
    ];
    for conditions in weaker {
        expect(&view, &put(&[P::Encrypt], conditions), No(AccessDenied), "weaker");
    }
}

/// A grant that an app made through others.
fn passed_on(from: &str, to: &str, permissions: &[Permission], through: &[GrantId]) -> Grant {
    Grant {
        principal: to.into(),
        grantor: Grantor { principal: from.into(), role: Role::App, through: through.to_vec() },
        ..grant(GrantScope::Key(KEY), permissions, Conditions::default())
    }
}

fn named(principal: &str) -> Actor {
    Actor::new(principal, Role::App).unwrap()
}

fn withdraw(actor: Actor, id: GrantId, cascade: bool) -> Attempt {
    attempt(actor, Operation::WithdrawGrant { id, cascade })
}

/// alice (admin) -> shop -> bob -> carol; and dave, to whom alice gave the same as to shop.
fn chain() -> Rows {
    use Permission as P;
    let mut view = rows(KeyPurpose::Encryption, KeyState::Enabled);
    let all = [P::Encrypt, P::Grant];
    let shops = grant(GrantScope::Key(KEY), &all, Conditions::default());
    let bobs = passed_on("shop", "bob", &all, &[shops.id]);
    let carols = passed_on("bob", "carol", &[P::Encrypt], &[bobs.id]);
    let daves = Grant { principal: "dave".into(), ..grant(GrantScope::Key(KEY), &all, Conditions::default()) };
    view.grants = vec![shops, bobs, carols, daves];
    view
}

#[test]
fn only_those_above_a_grant_withdraw_it() {
    let view = chain();
    let [shops, bobs, carols, _] = [0, 1, 2, 3].map(|n| view.grants[n].id);
    for (who, id, cell) in [
        ("shop", shops, No(AccessDenied)),
        ("shop", bobs, Yes),
        ("shop", carols, Yes),
        ("bob", shops, No(AccessDenied)),
        ("bob", bobs, No(AccessDenied)),
        ("bob", carols, Yes),
        ("carol", carols, No(AccessDenied)),
        ("dave", bobs, No(AccessDenied)),
        ("dave", carols, No(AccessDenied)),
    ] {
        for cascade in [false, true] {
            expect(&view, &withdraw(named(who), id, cascade), cell, who);
        }
    }
    for id in [shops, bobs, carols] {
        expect(&view, &withdraw(admin(), id, false), Yes, "an admin");
    }
    expect(&view, &withdraw(admin(), GrantId::random(), false), No(GrantNotFound), "unknown");

    // Without the permission `grant`, an app cannot revoke even its own grants.
    let mut view = chain();
    view.grants[0].permissions = vec![Permission::Encrypt];
    expect(&view, &withdraw(named("shop"), bobs, false), No(AccessDenied), "without the permission grant");
}

#[test]
fn what_was_passed_on_ends_only_with_a_cascade() {
    let encrypt = |who| attempt(named(who), Operation::Encrypt { version: 2 });
    let mut view = chain();
    view.grants[0].withdrawn_at = Some(EARLIER);
    let shops = view.grants[0].id;
    for who in ["bob", "carol"] {
        expect(&view, &encrypt(who), Yes, who);
    }
    expect(&view, &withdraw(admin(), shops, false), No(GrantNotFound), "withdrawn before");
    expect(&view, &withdraw(admin(), shops, true), Yes, "what was passed on can still be ended");
    view.grants[0].cascade = true;
    expect(&view, &withdraw(admin(), shops, true), No(GrantNotFound), "withdrawn before with all");
    for (who, cell) in
        [("shop", No(AccessDenied)), ("bob", No(AccessDenied)), ("carol", No(AccessDenied)), ("dave", Yes)]
    {
        expect(&view, &encrypt(who), cell, who);
    }
    // A grant whose origin is missing allows nothing.
    let mut view = chain();
    view.grants.remove(0);
    for who in ["bob", "carol"] {
        expect(&view, &encrypt(who), No(AccessDenied), who);
    }
}

#[test]
fn nobody_passes_on_to_itself_upwards_or_without_end() {
    use Permission as P;
    let put = |who: &str, to: &str| {
        let operation = Operation::PutGrant {
            principal: to.into(),
            permissions: vec![P::Encrypt],
            conditions: Conditions::default(),
        };
        attempt(named(who), operation)
    };
    let view = chain();
    expect(&view, &put("bob", "eve"), Yes, "down");
    expect(&view, &put("bob", "bob"), No(AccessDenied), "to itself");
    expect(&view, &put("bob", "shop"), No(AccessDenied), "upwards");
    assert_eq!(grantor(&view, &put("bob", "eve"), NOW).through, [view.grants[1].id]);
    assert_eq!(grantor(&view, &attempt(admin(), put_grant()), NOW).through, []);

    // A chain of 16 grants can be made and used, but not a longer one.
    let mut view = chain();
    view.grants.truncate(1);
    for n in 0..20 {
        let from = if n == 0 { "shop".to_owned() } else { format!("p{n}") };
        let to = format!("p{}", n + 1);
        let cell = if n < 16 { Yes } else { No(AccessDenied) };
        expect(&view, &put(&from, &to), cell, &format!("{n} times passed on before"));
        let through = [view.grants[view.grants.len() - 1].id];
        view.grants.push(passed_on(&from, &to, &[P::Encrypt, P::Grant], &through));
    }
    expect(&view, &attempt(named("p16"), Operation::Encrypt { version: 2 }), Yes, "at the end of the chain");
    expect(&view, &attempt(named("p17"), Operation::Encrypt { version: 2 }), No(AccessDenied), "beyond it");
}

#[test]
fn what_comes_from_several_grants_depends_on_all_of_them() {
    use Permission as P;
    let mut view = rows(KeyPurpose::Encryption, KeyState::Enabled);
    view.grants.push(grant(GrantScope::Key(KEY), &[P::Grant], Conditions::default()));
    view.grants.push(grant(GrantScope::AllKeys, &[P::Encrypt], Conditions::default()));
    view.grants.push(grant(GrantScope::Key(KEY), &[P::Decrypt], Conditions::default()));
    let operation = Operation::PutGrant {
        principal: "bob".into(),
        permissions: vec![P::Encrypt],
        conditions: Conditions::default(),
    };
    let mut expected = vec![view.grants[0].id, view.grants[1].id];
    expected.sort_unstable();
    let through = grantor(&view, &attempt(app(), operation), NOW).through;
    assert_eq!(through, expected);
    view.grants.push(passed_on("shop", "bob", &[P::Encrypt], &through));
    for n in 0..3 {
        let mut view = view.clone();
        view.grants[n].withdrawn_at = Some(EARLIER);
        view.grants[n].cascade = true;
        let cell = if n == 2 { Yes } else { No(AccessDenied) };
        expect(&view, &attempt(named("bob"), Operation::Encrypt { version: 2 }), cell, &n.to_string());
    }
}

#[test]
fn credentials_are_looked_at_with_every_decision() {
    let id = CredentialId::random();
    let good = Credential {
        id,
        principal: "alice".into(),
        role: Role::Admin,
        secret_hash: [0; 32],
        label: None,
        created_at: EARLIER,
        expires_at: Some(LATER),
        withdrawn_at: None,
        revision: 1,
    };
    let actor = admin().with_credential(id);
    let cases = [
        (Some(good.clone()), Yes),
        (None, No(NotAuthenticated)),
        (Some(Credential { expires_at: Some(NOW), ..good.clone() }), No(NotAuthenticated)),
        (Some(Credential { withdrawn_at: Some(EARLIER), ..good.clone() }), No(NotAuthenticated)),
        (Some(Credential { principal: "bob".into(), ..good.clone() }), No(NotAuthenticated)),
        (Some(Credential { role: Role::App, ..good.clone() }), No(NotAuthenticated)),
    ];
    for (credential, cell) in cases {
        let mut view = rows(KeyPurpose::Encryption, KeyState::Enabled);
        view.credentials.extend(credential);
        expect(&view, &attempt(actor.clone(), Operation::ReadKey), cell, "credential");
    }
    let mut view = rows(KeyPurpose::Encryption, KeyState::Enabled);
    view.credentials.push(good);
    let decision = decide(&view, &attempt(actor, Operation::ReadKey), NOW);
    assert_eq!(decision, Decision::Allowed { grant: None, valid_until: Some(LATER) });
}
