//! The erasure of a key's material, interrupted after every step: the deletion cannot be cancelled, verification finds
//! no fault, and the erasure can be continued.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::Session;
use crate::kms::open::open;
use crate::storage::tables::wrappings;
use crate::types::actor::Actor;
use crate::{AuditQuery, Config, Context, ErrorCode, KeyState, NewKey, Paging, Role, VersionState};

fn config(folder: &tempfile::TempDir) -> Config {
    let url = format!("sqlite:{}", folder.path().join("kms.db").display());
    Config::new(url).root_key_bytes([7; 32]).deletion_wait(0, 0)
}

async fn sessions(folder: &tempfile::TempDir) -> (Session, Session) {
    let shared = open(config(folder)).await.unwrap();
    let admin = Session::new(Arc::clone(&shared), Actor::new("alice", Role::Admin).unwrap());
    (admin, Session::new(shared, Actor::internal("scheduler")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destruction_that_was_cut_off_is_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let (admin, scheduler) = sessions(&folder).await;
    let key = admin.create_key(NewKey::aes("k")).await.unwrap().id;
    let sealed = admin.encrypt(key, b"x", &Context::new()).await.unwrap().ciphertext;
    for _ in 0..6 {
        admin.rotate_key(key, None).await.unwrap();
    }
    admin.schedule_deletion(key, Some(0)).await.unwrap();
    scheduler.begin_destruction(key).await.unwrap();
    for round in 0..2 {
        for refused in [
            admin.cancel_deletion(key).await.err(),
            admin.revoke_key(key).await.err(),
            admin.revoke_version(key, 1).await.err(),
        ] {
            assert_eq!(refused.unwrap().code(), ErrorCode::KeyDestroyed);
        }
        for refused in [
            admin.enable_key(key).await.err(),
            admin.rotate_key(key, None).await.err(),
            admin.trim_key(key).await.err(),
            admin.decrypt(&sealed, &Context::new()).await.err(),
        ] {
            assert_eq!(refused.unwrap().code(), ErrorCode::KeyPendingDeletion);
        }
        let found = admin.get_key(key).await.unwrap();
        assert_eq!(found.state, KeyState::PendingDeletion);
        assert!(found.versions.unwrap().iter().all(|version| version.state == VersionState::Revoked));
        assert!(admin.verify_audit().await.unwrap().ok, "{round}");
        if round == 0 {
            // Perform one step alone.
            let range = (1, 2);
            let command = crate::lifecycle::Command::EraseMaterial(key, range);
            let intent = super::change::Intent {
                action: crate::Action::KeyErase,
                attempt: scheduler.attempt(crate::types::attempt::Operation::EraseKey, Some(key)),
                version: None,
                details: crate::ledger::Details::default(),
                once: None,
            };
            scheduler.change(intent, command).await.unwrap();
            let mut connection = admin.shared.store.reader().await.unwrap();
            assert!(!wrappings::are_left(connection.as_mut(), key, 1, 2).await.unwrap());
            assert!(wrappings::are_left(connection.as_mut(), key, 1, 3).await.unwrap());
        }
    }
    // Another process continues.
    let (other, its_scheduler) = sessions(&folder).await;
    its_scheduler.erase_in_steps(key, 2).await.unwrap();
    let refused = scheduler.destroy_located(key).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::KeyDestroyed);
    for session in [&admin, &other] {
        let found = session.get_key(key).await.unwrap();
        assert_eq!(found.state, KeyState::Destroyed);
        assert!(found.versions.unwrap().iter().all(|version| version.state == VersionState::Destroyed));
        let error = session.decrypt(&sealed, &Context::new()).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::KeyDestroyed);
    }
    let mut connection = other.shared.store.reader().await.unwrap();
    assert!(!wrappings::are_left(connection.as_mut(), key, 1, u32::MAX).await.unwrap());
    drop(connection);
    let page = other.list_audit(&AuditQuery::new().key(key), &Paging::new(100)).await.unwrap();
    let steps: Vec<&str> =
        page.items.iter().rev().filter(|row| row.status == "SUCCESS").map(|row| &*row.action).collect();
    let steps: Vec<&str> =
        steps.into_iter().filter(|action| action.starts_with("KEY_DESTROY") || *action == "KEY_ERASE").collect();
    // The first two versions had been erased before.
    assert_eq!(steps, ["KEY_DESTROY_START", "KEY_ERASE", "KEY_ERASE", "KEY_ERASE", "KEY_DESTROY"]);
    assert!(other.verify_audit().await.unwrap().ok);
}
