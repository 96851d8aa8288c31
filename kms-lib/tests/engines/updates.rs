//! Tests of key updates that expect a revision: one of several concurrent updates succeeds, on whichever node, and
//! whatever a node has seen.

use crate::common::{Place, admin, code, last_record};
use kms_lib::{Error, ErrorCode, KeyUpdate, NewKey};

fn days(days: u32) -> KeyUpdate {
    KeyUpdate::new().rotation_period_days(days)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_expects_another_revision_is_a_conflict() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let made = session.create_key(NewKey::aes("k")).await.unwrap();
    let updated = session.update_key("k", days(30).expected_revision(made.revision)).await.unwrap();
    assert!(updated.revision > made.revision && updated.rotation_period_days == Some(30));
    let refused = session.update_key("k", days(60).expected_revision(made.revision)).await;
    assert_eq!(code(refused), ErrorCode::Conflict);
    let record = last_record(&session).await;
    assert_eq!((record.action.as_str(), record.status.as_str()), ("KEY_UPDATE", "FAILURE"));
    let details = record.details.unwrap();
    assert!(details.contains("\"error\":\"Conflict\"") && details.contains("\"expectedRevision\":"), "{details}");
    assert_eq!(session.get_key("k").await.unwrap(), updated);

    // A rotation changes the key's revision; a change of a former version does not.
    let rotated = session.rotate_key("k", None).await.unwrap();
    assert!(rotated.revision > updated.revision);
    assert_eq!(session.revoke_version("k", 1).await.unwrap().revision, rotated.revision);
    let refused = session.update_key("k", days(60).expected_revision(updated.revision)).await;
    assert_eq!(code(refused), ErrorCode::Conflict);
    // An update without any effect does not change the revision either.
    let same = session.update_key("k", days(30).expected_revision(rotated.revision)).await.unwrap();
    assert_eq!(same.revision, rotated.revision);
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_decides_whatever_a_node_has_seen() {
    let place = Place::new();
    let (here, there) = (place.open().await, place.open().await);
    let before = admin(&here).create_key(NewKey::aes("k")).await.unwrap();
    let id = before.id;
    admin(&there).get_key(id).await.unwrap();
    for round in 1..6 {
        let known = admin(&there).get_key(id).await.unwrap().revision;
        // The key is changed by one node, and the other node has not seen it yet.
        let changed = admin(&here).update_key(id, days(100 + round)).await.unwrap();
        let refused = admin(&there).update_key(id, days(200).expected_revision(known)).await;
        assert_eq!(code(refused), ErrorCode::Conflict, "round {round}");
        let changed_again = admin(&here).update_key(id, days(300 + round)).await.unwrap();
        let refused = admin(&there).update_key(id, days(200).expected_revision(changed.revision)).await;
        assert_eq!(code(refused), ErrorCode::Conflict, "round {round}");
        let done = admin(&there).update_key(id, days(400 + round).expected_revision(changed_again.revision)).await;
        assert_eq!(done.unwrap().rotation_period_days, Some(400 + round), "round {round}");
    }
    here.close().await.unwrap();
    there.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_simultaneous_updates_one_succeeds() {
    let place = Place::new();
    let nodes = [place.open().await, place.open().await];
    let made = admin(&nodes[0]).create_key(NewKey::aes("k")).await.unwrap();
    let updating = (0..8u32).map(|n| {
        let session = admin(&nodes[n as usize % 2]);
        tokio::spawn(async move { session.update_key("k", days(10 + n).expected_revision(made.revision)).await })
    });
    let mut won = Vec::new();
    for done in updating.collect::<Vec<_>>() {
        match done.await.unwrap() {
            Ok(key) => won.push(key.rotation_period_days),
            Err(error) => assert_eq!(Error::code(&error), ErrorCode::Conflict),
        }
    }
    assert_eq!(won.len(), 1);
    assert_eq!(admin(&nodes[1]).get_key("k").await.unwrap().rotation_period_days, won[0]);
    assert!(admin(&nodes[0]).verify_audit().await.unwrap().ok);
    for node in nodes {
        node.close().await.unwrap();
    }
}

/// The expected revision is part of the request that an idempotency key identifies.
#[tokio::test]
async fn an_idempotency_key_covers_the_expected_revision() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    let made = session.create_key(NewKey::aes("k")).await.unwrap();
    let once = session.with_idempotency_key("update").unwrap();
    let first = once.update_key("k", days(30).expected_revision(made.revision)).await.unwrap();
    assert_eq!(once.update_key("k", days(30).expected_revision(made.revision)).await.unwrap(), first);
    let other = once.update_key("k", days(30).expected_revision(first.revision)).await;
    assert_eq!(code(other), ErrorCode::IdempotencyConflict);
    kms.close().await.unwrap();
}
