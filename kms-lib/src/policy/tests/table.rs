//! Every operation in every state of keys and versions, then permissions and roles.

use super::Cell::{self, Again, No, Yes};
use super::{EARLIER, KEY, LATER, NOW, OTHER, Rows, admin, app, attempt, expect, grant, put_grant, rows, version};
use crate::policy::decide;
use crate::types::actor::{Actor, Role};
use crate::types::attempt::{Attempt, Decision, Operation};
use crate::types::credential::Credential;
use crate::types::error::ErrorCode::{
    AccessDenied, Conflict, IntegrityFailure, KeyDestroyed, KeyDisabled, KeyNotFound, KeyPendingDeletion, KeyRevoked,
    LimitExceeded, NotAuthenticated, VersionDestroyed, VersionDisabled, VersionNotCurrent, VersionNotFound,
    VersionRevoked, WrongKeyType, WrongPurpose, WrongState,
};
use crate::types::grant::{Conditions, Grant, GrantScope, Permission};
use crate::types::ids::CredentialId;
use crate::types::key::{DisabledReason, KeyPurpose, KeyState, KeyType, KeyVersion, Origin, VersionState};

#[test]
fn every_operation_against_every_key_state() {
    let rotate = Operation::Rotate { new_version: 3, expected_current: None };
    let set_window = Operation::SetWindow { version: 1, not_after: None };
    let set_current_window = Operation::SetWindow { version: 2, not_after: None };
    let encrypt = Operation::Encrypt { version: 2 };
    let sign = Operation::Sign { version: 2 };
    let (dis, rev, pen, des) = (No(KeyDisabled), No(KeyRevoked), No(KeyPendingDeletion), No(KeyDestroyed));
    let (mis, dam, bad, con) = (No(KeyNotFound), No(IntegrityFailure), No(WrongState), No(Conflict));
    let (vrev, old, no) = (No(VersionRevoked), No(VersionNotCurrent), No(AccessDenied));
    let update = |expected_revision| Operation::UpdateKey { expected_revision };
    // The columns are the states of the key: enabled, disabled by an admin, disabled because the current version (2) is
    // revoked, revoked, pending deletion, destroyed, missing, and damaged.
    #[rustfmt::skip]
    let table: [(Operation, [Cell; 8]); 29] = [
        //                                                 enab.  dis.   dis.rev  revok  pend  destr  miss  damag
        (Operation::CreateKey,                            [Yes,   Yes,   Yes,     Yes,   Yes,  Yes,   Yes,  Yes]),
        (Operation::ReadKey,                              [Yes,   Yes,   Yes,     Yes,   Yes,  Yes,   mis,  dam]),
        (encrypt,                                         [Yes,   dis,   vrev,    rev,   pen,  des,   mis,  dam]),
        (Operation::Encrypt { version: 1 },               [Again, dis,   vrev,    rev,   pen,  des,   mis,  dam]),
        (Operation::Decrypt { version: 1 },               [Yes,   dis,   Yes,     rev,   pen,  des,   mis,  dam]),
        (Operation::Decrypt { version: 2 },               [Yes,   dis,   vrev,    rev,   pen,  des,   mis,  dam]),
        (sign,                                            [Yes,   dis,   vrev,    rev,   pen,  des,   mis,  dam]),
        (Operation::Verify { version: Some(1) },          [Yes,   dis,   Yes,     rev,   pen,  des,   mis,  dam]),
        (Operation::Verify { version: None },             [Yes,   dis,   Yes,     rev,   pen,  des,   mis,  dam]),
        (rotate,                                          [Yes,   dis,   Yes,     rev,   pen,  des,   mis,  dam]),
        (Operation::EnableKey,                            [Yes,   Yes,   bad,     rev,   pen,  des,   mis,  dam]),
        (Operation::DisableKey,                           [Yes,   Yes,   Yes,     rev,   pen,  des,   mis,  dam]),
        (Operation::RevokeKey,                            [Yes,   Yes,   Yes,     Yes,   Yes,  des,   mis,  dam]),
        (Operation::EnableVersion { version: 1 },         [old,   old,   old,     rev,   pen,  des,   mis,  dam]),
        (Operation::EnableVersion { version: 2 },         [Yes,   Yes,   vrev,    rev,   pen,  des,   mis,  dam]),
        (Operation::DisableVersion { version: 1 },        [Yes,   Yes,   Yes,     rev,   pen,  des,   mis,  dam]),
        (Operation::DisableVersion { version: 2 },        [Yes,   Yes,   vrev,    rev,   pen,  des,   mis,  dam]),
        (Operation::RevokeVersion { version: 1 },         [Yes,   Yes,   Yes,     Yes,   Yes,  des,   mis,  dam]),
        (Operation::RevokeVersion { version: 2 },         [Yes,   Yes,   Yes,     Yes,   Yes,  des,   mis,  dam]),
        (set_current_window,                              [bad,   bad,   vrev,    rev,   pen,  des,   mis,  dam]),
        (set_window,                                      [Yes,   Yes,   Yes,     rev,   pen,  des,   mis,  dam]),
        (update(None),                                    [Yes,   Yes,   Yes,     rev,   pen,  des,   mis,  dam]),
        (update(Some(u64::MAX)),                          [con,   con,   con,     rev,   pen,  des,   mis,  dam]),
        (Operation::ScheduleDeletion { waiting_days: 7 }, [Yes,   Yes,   Yes,     Yes,   Yes,  des,   mis,  dam]),
        (Operation::ScheduleDeletion { waiting_days: 8 }, [Yes,   Yes,   Yes,     Yes,   pen,  des,   mis,  dam]),
        (Operation::CancelDeletion,                       [bad,   bad,   bad,     bad,   Yes,  des,   mis,  dam]),
        (Operation::DestroyKey,                           [no; 8]),
        (put_grant(),                                     [Yes,   Yes,   Yes,     Yes,   Yes,  Yes,   mis,  dam]),
        (Operation::ReadGrants,                           [Yes; 8]),
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
fn a_caller_that_may_not_read_a_key_learns_nothing_of_it() {
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
fn every_decision_checks_the_credential() {
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
        removal: None,
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
