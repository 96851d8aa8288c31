//! Random histories: an overlay equals the snapshot after its commit, invariants hold after every command, and a
//! refreshed snapshot equals a freshly loaded one.

#![allow(clippy::unwrap_used)]

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Overlay, Snapshot};
use crate::lifecycle::{CheckedGrant, CheckedKey, Command, Context, KeyEdit, NewVersion, apply};
use crate::policy;
use crate::session::{GrantFilter, NewGrant, NewToken, Paging};
use crate::types::actor::{Actor, Role};
use crate::types::attempt::{Attempt, Decision, Operation};
use crate::types::change::Change;
use crate::types::credential::Credential;
use crate::types::grant::{Conditions, GrantScope, Permission};
use crate::types::ids::{CredentialId, GrantId, KeyId, VersionId};
use crate::types::key::{AuditContext, DisabledReason, Key, KeyPurpose, KeyState, KeyType, Material, VersionState};
use crate::types::root_key::Wrapped;
use crate::types::time::Timestamp;
use crate::types::view::CatalogView;

fn new_version(number: u32) -> NewVersion {
    let wrapped = vec![Wrapped { generation: 1, bytes: vec![1, 2, 3] }];
    let material = Material { wrapped, public_key_pem: None };
    NewVersion { id: VersionId::random(), version: number, material, fingerprint: [1; 32] }
}

/// A random command, with the operation that policy decides on.
fn random_command(random: &mut StdRng, snapshot: &Snapshot, keys: &[KeyId], now: Timestamp) -> (Operation, Command) {
    let id = keys[random.random_range(0..keys.len())];
    let current = snapshot.key(id).map_or(0, |key| key.current_version);
    let version = random.random_range(1..=current.max(1) + 1);
    let window = random.random::<bool>().then(|| now.plus_days(random.random_range(0..5)));
    match random.random_range(0..15) {
        0 => {
            let new = CheckedKey {
                id,
                name: format!("key-{}", random.random_range(0..keys.len() * 2)),
                key_type: KeyType::Aes256Gcm,
                purpose: KeyPurpose::Encryption,
                rotation_period_days: random.random::<bool>().then_some(3),
                grace_period_days: random.random::<bool>().then_some(2),
                audit_context: AuditContext::Clear,
                metadata: None,
                first: new_version(1),
                creator_grant: random.random::<bool>().then(|| (GrantId::random(), "creator".to_owned())),
            };
            (Operation::CreateKey, Command::CreateKey(Box::new(new)))
        }
        1..=4 => {
            let operation = Operation::Rotate { new_version: current + 1, expected_current: None };
            (operation, Command::Rotate(id, new_version(current + 1)))
        }
        5 => (Operation::EnableKey, Command::EnableKey(id)),
        6 => (Operation::DisableKey, Command::DisableKey(id)),
        7 if random.random_ratio(1, 8) => (Operation::RevokeKey, Command::RevokeKey(id)),
        7 | 8 => (Operation::RevokeVersion { version }, Command::RevokeVersion(id, version)),
        9 => (Operation::EnableVersion { version }, Command::EnableVersion(id, version)),
        10 => (Operation::DisableVersion { version }, Command::DisableVersion(id, version)),
        11 => (Operation::SetWindow { version, not_after: window }, Command::SetWindow(id, version, window)),
        12 => match random.random_range(0..3) {
            0 if random.random_ratio(1, 4) => {
                (Operation::ScheduleDeletion { waiting_days: 1 }, Command::ScheduleDeletion(id, 1))
            }
            1 if random.random() => (Operation::TrimKey, Command::Trim(id, (1..=current).collect())),
            1 if random.random() => (Operation::DestroyKey, Command::BeginDestruction(id)),
            1 => (Operation::EraseKey, Command::DestroyKey(id, (1, current))),
            _ => (Operation::CancelDeletion, Command::CancelDeletion(id)),
        },
        13 => {
            let edit =
                KeyEdit { rotation_period_days: Some(random.random::<bool>().then_some(4)), ..KeyEdit::default() };
            (Operation::UpdateKey { expected_revision: None }, Command::UpdateKey(id, edit))
        }
        _ => {
            let principal = ["a", "b"][random.random_range(0..2)].to_owned();
            let mut present = None;
            snapshot.some_grants(&principal, usize::MAX, &mut |grant| present = Some(grant.id));
            match present {
                Some(grant) if random.random() => {
                    let cascade = random.random();
                    (Operation::WithdrawGrant { id: grant, cascade }, Command::WithdrawGrant(grant, cascade))
                }
                _ => {
                    let new = CheckedGrant {
                        id: GrantId::random(),
                        principal: principal.clone(),
                        role: Role::App,
                        scope: if random.random() { GrantScope::AllKeys } else { GrantScope::Key(id) },
                        permissions: vec![Permission::Read],
                        conditions: Conditions::default(),
                    };
                    let operation = Operation::PutGrant {
                        principal,
                        permissions: vec![Permission::Read],
                        conditions: Conditions::default(),
                    };
                    (operation, Command::PutGrant(Box::new(new)))
                }
            }
        }
    }
}

fn check_invariants(snapshot: &Snapshot, before: &Snapshot) {
    for key in snapshot.keys_by_name(None) {
        let mut numbers = Vec::new();
        let mut enabled = Vec::new();
        snapshot.each_version(key.id, &mut |version| {
            numbers.push(version.version);
            let state = key.state_of(version);
            if state == VersionState::Enabled {
                enabled.push(version.version);
            }
            // A revoked version stays revoked or is destroyed; a destroyed one stays so and has no material.
            let former = before.key(key.id).zip(before.version(key.id, version.version));
            match former.map(|(key, version)| key.state_of(version)) {
                Some(VersionState::Revoked) => {
                    assert!(matches!(state, VersionState::Revoked | VersionState::Destroyed));
                }
                Some(VersionState::Destroyed) => assert_eq!(state, VersionState::Destroyed),
                _ => {}
            }
        });
        assert_eq!(numbers, (1..=key.current_version).collect::<Vec<_>>());
        assert!(enabled.is_empty() || enabled == [key.current_version], "{key:?}: {enabled:?}");
        check_key(key, snapshot, before.key(key.id));
    }
    for principal in ["a", "b", "creator"] {
        let mut scopes = Vec::new();
        snapshot.some_grants(principal, usize::MAX, &mut |grant| scopes.push(grant.scope));
        let all = scopes.len();
        scopes.sort_unstable();
        scopes.dedup();
        assert_eq!(scopes.len(), all, "two grants of one principal on one scope");
    }
}

fn check_key(key: &Key, snapshot: &Snapshot, before: Option<&Key>) {
    let current = key.state_of(snapshot.version(key.id, key.current_version).unwrap());
    match key.state {
        KeyState::Enabled => {
            assert_eq!(key.disabled_reason, None);
            assert!(matches!(current, VersionState::Enabled | VersionState::Disabled));
        }
        KeyState::Disabled => {
            assert!(key.disabled_reason.is_some());
            if key.disabled_reason == Some(DisabledReason::CurrentVersionRevoked) {
                assert_eq!(current, VersionState::Revoked);
            }
        }
        KeyState::Revoked => assert_eq!(current, VersionState::Revoked),
        KeyState::Destroyed => assert_eq!(current, VersionState::Destroyed),
        KeyState::PendingDeletion => {}
    }
    let pending = key.state == KeyState::PendingDeletion;
    assert_eq!(key.state_before_deletion.is_some(), pending);
    assert!(key.deletion_wait_days.is_some() || !pending);
    assert!(key.delete_at.is_some() || !pending);
    assert!(key.rotate_at.is_none() || matches!(key.state, KeyState::Enabled | KeyState::Disabled));
    if let Some(before) = before {
        assert!(key.current_version >= before.current_version && key.name == before.name);
        match before.state {
            KeyState::Destroyed => assert_eq!(key.state, KeyState::Destroyed),
            _ if before.is_revoked() => assert!(key.is_revoked() || key.state == KeyState::Destroyed),
            _ => {}
        }
    }
}

#[test]
fn random_histories_keep_the_lifecycle() {
    let seals = crate::envelope::Seals::new(1, &[7; 64]).unwrap();
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let keys: Vec<KeyId> = (0..6).map(|i| KeyId::from_bytes([i; 16])).collect();
        let mut snapshot = Snapshot::default();
        let mut now = Timestamp::from_micros(1_000_000_000);
        let mut made = 0;
        for seq in 1..=500 {
            now = now.plus_seconds(random.random_range(0..20_000));
            let (operation, command) = random_command(&mut random, &snapshot, &keys, now);
            let key = match &command {
                Command::CreateKey(new) if snapshot.key(new.id).is_some() => continue,
                Command::CreateKey(_) => None,
                Command::PutGrant(new) => match new.scope {
                    GrantScope::AllKeys => None,
                    GrantScope::Key(id) => Some(id),
                },
                Command::WithdrawGrant(..) => None,
                _ => Some(keyed(&command)),
            };
            let attempt =
                Attempt { actor: Actor::internal("scheduler"), operation, key, key_type: None, context: None };
            if !matches!(policy::decide(&snapshot, &attempt, now), Decision::Allowed { .. }) {
                continue;
            }
            let grantor = None;
            let context = Context {
                view: &snapshot,
                now,
                revision: seq,
                default_grace_days: Some(1),
                versions_max: 100_000,
                grantor,
            };
            let Ok(changes) = apply(&command, &context) else {
                assert!(matches!(command, Command::CreateKey(_)), "an allowed command failed: {command:?}");
                continue;
            };
            let before = snapshot.clone();
            let mut overlay = Overlay::new(&before);
            overlay.apply(&changes, seq, &seals).unwrap();
            for change in &changes {
                snapshot.apply(change, &seals);
            }
            snapshot.advance(seq);
            compare(&overlay, &snapshot, &keys);
            assert_eq!(overlay.rows(), snapshot.rows());
            check_invariants(&snapshot, &before);
            made += 1;
        }
        assert!(made > 50, "seed {seed}: only {made} commands were allowed");
    }
}

fn keyed(command: &Command) -> KeyId {
    match command {
        Command::Rotate(id, _)
        | Command::EnableKey(id)
        | Command::DisableKey(id)
        | Command::RevokeKey(id)
        | Command::EnableVersion(id, _)
        | Command::DisableVersion(id, _)
        | Command::RevokeVersion(id, _)
        | Command::SetWindow(id, ..)
        | Command::UpdateKey(id, _)
        | Command::ScheduleDeletion(id, _)
        | Command::CancelDeletion(id)
        | Command::Trim(id, _)
        | Command::BeginDestruction(id)
        | Command::DestroyKey(id, _) => *id,
        other => panic!("no key: {other:?}"),
    }
}

fn compare(overlay: &Overlay<'_>, snapshot: &Snapshot, keys: &[KeyId]) {
    assert_eq!(overlay.revision(), snapshot.revision());
    for id in keys {
        assert_eq!(overlay.key(*id), snapshot.key(*id));
        let collect = |view: &dyn CatalogView| {
            let mut versions = Vec::new();
            view.each_version(*id, &mut |version| versions.push(version.clone()));
            versions
        };
        assert_eq!(collect(overlay), collect(snapshot));
        for at_most in [1, 2, usize::MAX] {
            let newest = |view: &dyn CatalogView| {
                let mut versions = Vec::new();
                view.newest_versions(*id, at_most, &mut |version| versions.push(version.clone()));
                versions
            };
            let expected: Vec<_> = collect(snapshot).into_iter().rev().take(at_most).collect();
            assert_eq!((newest(overlay), newest(snapshot)), (expected.clone(), expected));
        }
        let behind: Vec<_> = snapshot.versions_behind(*id, 1).cloned().collect();
        assert_eq!(behind, collect(snapshot).into_iter().filter(|version| version.version > 1).collect::<Vec<_>>());
        assert_eq!(overlay.live_versions(*id), snapshot.live_versions(*id));
    }
    for principal in ["a", "b", "creator"] {
        let collect = |view: &dyn CatalogView| {
            let mut grants = Vec::new();
            view.some_grants(principal, usize::MAX, &mut |grant| grants.push(grant.clone()));
            grants.sort_by_key(|grant| grant.id);
            grants
        };
        assert_eq!(collect(overlay), collect(snapshot));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refreshed_snapshot_is_a_freshly_loaded_one() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("kms.db").display());
    let config = crate::Config::new(url).root_key_bytes([7; 32]);
    let open = || crate::kms::open::open(config.clone());
    let (writing, reading) = (open().await.unwrap(), open().await.unwrap());
    let session = crate::Session::new(writing.clone(), Actor::new("alice", Role::Admin).unwrap());
    let mut random = StdRng::seed_from_u64(1);
    for round in 0..60u32 {
        let name = format!("key-{}", random.random_range(0..5));
        let version = random.random_range(1..4);
        // The snapshots must agree whether the command is allowed or not.
        let _ = match random.random_range(0..7) {
            0 => session.create_key(crate::NewKey::aes(&name)).await.map(drop),
            1 | 2 => session.rotate_key(&name, None).await.map(drop),
            3 => session.revoke_version(&name, version).await.map(drop),
            4 => session.disable_key(&name).await.map(drop),
            5 => {
                let grant = NewGrant::new(&name, Role::App).on_all_keys().allow([Permission::Read]);
                session.put_grant(grant).await.map(drop)
            }
            _ => match session.list_grants(&GrantFilter::new(), &Paging::new(1)).await.unwrap().items.first() {
                Some(grant) => session.revoke_grant(grant.id).await,
                None => session.create_token(NewToken::new(&name, Role::App)).await.map(drop),
            },
        };
        if round.is_multiple_of(3) {
            reading.catalog.ensure_fresh().await.unwrap();
            assert_eq!(*reading.catalog.snapshot(), *writing.catalog.snapshot());
        }
    }
    reading.catalog.ensure_fresh().await.unwrap();
    let fresh = open().await.unwrap();
    assert_eq!(*fresh.catalog.snapshot(), *writing.catalog.snapshot());
    assert_eq!(*reading.catalog.snapshot(), *writing.catalog.snapshot());
    assert!(fresh.catalog.snapshot().key_count() > 2);
}

/// Material of a version that another process revoked is dropped, also when the snapshot was refreshed before the
/// background task ran.
#[tokio::test(flavor = "multi_thread")]
async fn unusable_material_is_dropped_whoever_revoked_it() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("kms.db").display());
    let config = crate::Config::new(url).root_key_bytes([7; 32]);
    let open = || crate::kms::open::open(config.clone());
    let (one, two) = (open().await.unwrap(), open().await.unwrap());
    let alice = Actor::new("alice", Role::Admin).unwrap();
    let (here, there) = (crate::Session::new(one.clone(), alice.clone()), crate::Session::new(two, alice));
    for name in ["gone", "kept"] {
        here.create_key(crate::NewKey::aes(name)).await.unwrap();
        here.encrypt(name, b"x", &crate::Context::new()).await.unwrap();
    }
    one.materials.sweep();
    assert_eq!(one.materials.len(), 2);
    there.revoke_key("gone").await.unwrap();
    one.catalog.ensure_fresh().await.unwrap();
    one.materials.drop_unusable(&one.catalog);
    assert_eq!(one.materials.len(), 1);
}

/// A process drops what was removed when it reads the row that says so, ignores rows that it read before and applies
/// after, and keeps credentials that were changed later.
#[test]
fn removed_credentials_stay_removed() {
    let seals = crate::envelope::Seals::new(1, &[7; 64]).unwrap();
    let ended = |id: u8, at: i64, revision: u64| Credential {
        id: CredentialId::from_bytes([id; 16]),
        principal: "night".into(),
        role: Role::App,
        secret_hash: [0; 32],
        label: None,
        created_at: Timestamp::from_micros(1),
        expires_at: Some(Timestamp::from_micros(at)),
        withdrawn_at: None,
        removal: None,
        revision,
    };
    let oldest = Credential { removal: Some(9), ..ended(3, 30, 9) };
    let expected = |rows: &[&Credential]| {
        let mut fold = crate::envelope::RowSet::default();
        rows.iter().for_each(|row| fold.toggle(&seals, &crate::envelope::row::credential(row)));
        fold
    };
    let mut snapshot = Snapshot::default();
    for row in [ended(1, 10, 1), ended(2, 30, 2), ended(3, 30, 3), ended(4, 40, 4)] {
        snapshot.apply(&Change::InsertCredential(row), &seals);
    }
    snapshot.apply(&Change::UpdateCredential(oldest.clone()), &seals);
    assert_eq!(*snapshot.rows(), expected(&[&oldest, &ended(4, 40, 4)]));
    for late in [ended(1, 10, 1), ended(2, 30, 8)] {
        snapshot.apply(&Change::InsertCredential(late), &seals);
        assert_eq!(*snapshot.rows(), expected(&[&oldest, &ended(4, 40, 4)]));
    }
    // A row of the time before that was released from quarantine later, also if the oldest one changes again.
    let released = ended(1, 10, 11);
    snapshot.apply(&Change::UpdateCredential(released.clone()), &seals);
    let again = Credential { withdrawn_at: Some(Timestamp::from_micros(90)), revision: 12, ..oldest };
    snapshot.apply(&Change::UpdateCredential(again.clone()), &seals);
    assert_eq!(*snapshot.rows(), expected(&[&again, &released, &ended(4, 40, 4)]));
}
