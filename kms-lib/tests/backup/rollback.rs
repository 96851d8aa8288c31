//! Tests of the high-water file, which reveals that a store was rolled back.

use crate::common::{Place, admin, check_usable, code};
use crate::{at, backed_up, remove_store};
use kms_lib::{Context, ErrorCode, Kms, NewKey};

/// The store was rolled back and then used by a process without the high-water file, until it had more records than the
/// file names.
#[tokio::test]
async fn a_store_that_was_rolled_back_and_used_is_noticed() {
    let place = Place::new();
    let water = place.folder.path().join("high-water");
    let config = place.config().high_water(&water);
    let (kms, to) = backed_up(&place, &config).await;
    admin(&kms).revoke_key("a").await.unwrap();
    kms.close().await.unwrap();
    // A store that was used without the file, but not rolled back, is accepted.
    let kms = place.open().await;
    check_usable(&kms).await;
    kms.close().await.unwrap();
    Kms::open(config.clone()).await.unwrap().close().await.unwrap();

    // No new store is created where one is missing.
    remove_store(&place);
    let missing = Kms::open(config.clone()).await.unwrap_err();
    assert_eq!(missing.code(), ErrorCode::StoreUnavailable, "{missing}");
    assert!(missing.message().contains("is missing") && !place.file().exists(), "{missing}");

    Kms::restore(&config, &to).await.unwrap();
    let kms = place.open().await;
    for _ in 0..50 {
        admin(&kms).encrypt("a", b"x", &Context::new()).await.unwrap();
    }
    kms.close().await.unwrap();
    let error = Kms::open(config.clone()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::RestoreDetected, "{error}");
    assert!(error.message().contains("used since"), "{error}");
    Kms::open(config.clone().acknowledge_restore(true)).await.unwrap().close().await.unwrap();
    Kms::open(config).await.unwrap().close().await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn a_store_is_recognized_through_a_link() {
    let place = Place::new();
    let link = place.folder.path().join("link.db");
    std::os::unix::fs::symlink(place.file(), &link).unwrap();
    let kms = place.open().await;
    let linked = Kms::open(at(&place, "link.db")).await.unwrap();
    admin(&linked).create_key(NewKey::aes("k")).await.unwrap();
    admin(&kms).encrypt("k", b"x", &Context::new()).await.unwrap();
    linked.close().await.unwrap();
    kms.close().await.unwrap();
}

/// A store that is restored to a new place has no high-water file there. The file of the former place reveals the
/// rollback.
#[tokio::test]
async fn a_restore_to_a_new_place_is_noticed() {
    let place = Place::new();
    let folder = place.folder.path().join("marks");
    std::fs::create_dir(&folder).unwrap();
    let config = place.config().high_water(folder.join("high-water-kms.db"));
    let (kms, to) = backed_up(&place, &config).await;
    admin(&kms).revoke_key("a").await.unwrap();
    // High-water files of other stores, and malformed ones, are ignored.
    let other = Place::new();
    let theirs = Kms::open(other.config().high_water(folder.join("high-water-other.db"))).await.unwrap();
    std::fs::write(folder.join("high-water-garbage"), b"garbage").unwrap();
    theirs.close().await.unwrap();
    kms.close().await.unwrap();

    let elsewhere = at(&place, "elsewhere.db").high_water(folder.join("high-water-elsewhere.db"));
    Kms::restore(&elsewhere, &to).await.unwrap();
    assert_eq!(code(Kms::open(elsewhere.clone()).await), ErrorCode::RestoreDetected);
    Kms::open(elsewhere.clone().acknowledge_restore(true)).await.unwrap().close().await.unwrap();
    // One acknowledgement suffices. The former store is unchanged.
    Kms::open(elsewhere.clone()).await.unwrap().close().await.unwrap();
    Kms::open(config).await.unwrap().close().await.unwrap();
    // At a third place, the file of the former store counts again: an acknowledgement holds for one place only.
    let kms = Kms::open(elsewhere).await.unwrap();
    let next = place.folder.path().join("next.backup");
    admin(&kms).backup(&next).await.unwrap();
    kms.close().await.unwrap();
    let third = at(&place, "third.db").high_water(folder.join("high-water-third.db"));
    std::fs::remove_file(folder.join("high-water-elsewhere.db")).unwrap();
    Kms::restore(&third, &next).await.unwrap();
    assert_eq!(code(Kms::open(third.clone()).await), ErrorCode::RestoreDetected);
    Kms::open(third.acknowledge_restore(true)).await.unwrap().close().await.unwrap();
}

/// The log has other records than those that the high-water file covers, and in one case a checkpoint of the former
/// log.
#[tokio::test]
async fn a_fork_of_the_log_is_noticed() {
    for forged in [false, true] {
        let place = Place::new();
        let water = place.folder.path().join("high-water");
        let config = place.config().high_water(&water);
        let (kms, to) = backed_up(&place, &config).await;
        kms.close().await.unwrap();
        let former = place.folder.path().join("former.db");
        std::fs::copy(place.file(), &former).unwrap();
        remove_store(&place);
        Kms::restore(&config, &to).await.unwrap();
        let kms = place.open().await;
        let more = if forged { 20 } else { 1 };
        for _ in 0..more {
            admin(&kms).encrypt("a", b"x", &Context::new()).await.unwrap();
        }
        kms.close().await.unwrap();
        if forged {
            let insert = format!(
                "ATTACH '{}' AS former; INSERT INTO audit_checkpoints \
                 SELECT seq, frontier, hash, checkpoint FROM former.audit_head",
                former.display()
            );
            place.tamper(&insert).await;
        }
        assert_eq!(code(Kms::open(config.clone()).await), ErrorCode::RestoreDetected);
        Kms::open(config.clone().acknowledge_restore(true)).await.unwrap().close().await.unwrap();
        Kms::open(config).await.unwrap().close().await.unwrap();
    }
}
