//! One caller's flood: denials do not fill the log, and others still get in.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{Place, actor, admin, check_usable, code};
use kms_lib::{AuditQuery, Context, ErrorCode, Kms, NewGrant, NewKey, Paging, Permission, Role, Status};

#[tokio::test]
async fn denials_are_counted_when_there_are_many() {
    let place = Place::new();
    let kms = place.open().await;
    let session = admin(&kms);
    session.create_key(NewKey::aes("k")).await.unwrap();
    let outsider = kms.session(actor("outsider", Role::App));
    for _ in 0..500 {
        assert_eq!(code(outsider.encrypt("k", b"x", &Context::new()).await), ErrorCode::AccessDenied);
        assert_eq!(code(outsider.rotate_key("k", None).await), ErrorCode::AccessDenied);
    }
    // A right given meanwhile is seen at once, also in the midst of a flood.
    let permissions = [Permission::Encrypt];
    session.put_grant(NewGrant::new("outsider", Role::App).on_all_keys().allow(permissions)).await.unwrap();
    outsider.encrypt("k", b"x", &Context::new()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2_200)).await;
    let query = AuditQuery::new().actor("outsider").status(Status::Failure);
    let records = session.list_audit(&query, &Paging::new(1_000)).await.unwrap().items;
    assert!((61..70).contains(&records.len()), "{} records", records.len());
    assert!(records[0].details.as_ref().unwrap().contains("\"count\":"));
    // All of them are in the numbers.
    assert_eq!(session.metrics().await.unwrap().audit.failed_operations_last24h, 1_000);
    // Another caller's denials have their own records.
    let other = kms.session(actor("other", Role::App));
    assert_eq!(code(other.get_key("k").await), ErrorCode::AccessDenied);
    assert_eq!(common::last_record(&session).await.actor, "other");
    check_usable(&kms).await;
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_caller_leaves_room_for_others() {
    let place = Place::new();
    let kms = Kms::open(place.config().limits(100, 1 << 20)).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::rsa_signing("slow")).await.unwrap();
    let greedy: Vec<_> = (0..400)
        .map(|_| {
            let session = kms.session(actor("greedy", Role::Admin));
            tokio::spawn(async move {
                let algorithm = kms_lib::SignatureAlgorithm::RsaPkcs1Sha256;
                session.sign("slow", b"x", algorithm).await.map(drop).map_err(|error| error.code())
            })
        })
        .collect();
    tokio::task::yield_now().await;
    for i in 0..20 {
        let modest = kms.session(actor(&format!("modest-{i}"), Role::Admin));
        let algorithm = kms_lib::SignatureAlgorithm::RsaPkcs1Sha256;
        modest.sign("slow", b"x", algorithm).await.unwrap();
    }
    let mut refused = 0;
    for call in greedy {
        match call.await.unwrap() {
            Ok(()) => {}
            Err(code) => {
                assert!(matches!(code, ErrorCode::Overloaded | ErrorCode::CallerOverloaded), "{code}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "nothing was refused");
    check_usable(&kms).await;
    kms.close().await.unwrap();
}
