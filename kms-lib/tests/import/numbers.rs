//! Tests of ids and version numbers that the original itself never wrote in this way.

use kms_lib::{ErrorCode, ImportFindingKind, ImportJob, ImportSource};

use crate::common::{admin, code};
use crate::{Original, import, original, place};

/// A key with one version, its first.
const MINTED: &str = "7dcc8c2b-e9a3-46ae-8d2e-05acb48fd9dc";

/// Adds versions above the current one, as after a rotation that the original did not complete.
fn add_versions_ahead(original: &Original, numbers: &str) {
    original.sql(&format!(
        "INSERT INTO key_versions SELECT CONCAT('00000000-0000-4000-9000-', LPAD(seq, 12, '0')), key_id, seq, \
           'DISABLED', created_at, NULL, NULL, \
           REPLACE(wrapped_material, '\"version\":\"1\"', CONCAT('\"version\":\"', seq, '\"')), \
           NULL, NULL FROM key_versions, seq_2_to_2000 WHERE key_id = '{MINTED}' AND version = 1 \
           AND seq IN ({numbers})"
    ));
}

/// Versions above the current one take no number that a rotation needs, whether the import rotates or the store does.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_versions_above_the_current_one_can_be_rotated() {
    let original = original!("clean");
    add_versions_ahead(&original, "2, 3, 5, 1002, 1003");
    for is_rotated in [false, true] {
        let place = place();
        let kms = place.open().await;
        let session = admin(&kms);
        let job = ImportJob::default().rotate(is_rotated).finalize(true);
        let report = import(&kms, &original, &job).await;
        assert!(report.finalized && report.is_complete(), "{report:?}");
        let current = session.get_key(MINTED).await.unwrap().current_version;
        assert_eq!(current, if is_rotated { 1004 } else { 1 });
        let expected: &[u32] = if is_rotated { &[1005, 1006] } else { &[4, 6, 7] };
        for number in expected {
            let key = session.rotate_key(MINTED, None).await.unwrap();
            assert_eq!(key.current_version, *number);
            let made = session.encrypt(MINTED, b"plaintext", &kms_lib::Context::default()).await.unwrap();
            assert_eq!(made.version, *number);
        }
        // Concurrent rotations get different numbers.
        let (one, other) = tokio::join!(session.rotate_key(MINTED, None), session.rotate_key(MINTED, None));
        assert_ne!(one.unwrap().current_version, other.unwrap().current_version);
        assert!(session.verify_audit().await.unwrap().ok);
        kms.close().await.unwrap();
    }
}

/// A row whose id is no UUID is refused, whatever the length of the id and whatever its name.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_a_long_id_is_refused() {
    let original = original!("clean");
    original.sql(
        "SET FOREIGN_KEY_CHECKS = 0; ALTER TABLE key_versions DROP FOREIGN KEY fk_key_versions_keys; \
         ALTER TABLE `keys` MODIFY id VARCHAR(254) NOT NULL; \
         INSERT INTO `keys` SELECT REPEAT('x', 254), '*', type, purpose, state, NULL, NULL, created_at, NULL, 1 \
           FROM `keys` LIMIT 1; \
         INSERT INTO `keys` SELECT REPEAT('y', 120), '', type, purpose, state, NULL, NULL, created_at, NULL, 1 \
           FROM `keys` LIMIT 1",
    );
    let place = place();
    let kms = place.open().await;
    for is_dry in [true, false] {
        let report = import(&kms, &original, &ImportJob::default().dry_run(is_dry)).await;
        assert_eq!((report.keys.imported, report.keys.refused), (5, 2), "{report:?}");
        let refused = report.findings.iter().filter(|it| it.kind == ImportFindingKind::KeyRefused);
        assert_eq!(refused.count(), 2, "{report:?}");
    }
    kms.close().await.unwrap();
}

/// The advice of the error works: the URL's parameter is one that the driver of this database accepts.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_refused_with_advice() {
    let original = original!("clean");
    let (bare, _) = original.url.split_once('?').unwrap();
    let place = place();
    let kms = place.open().await;
    let source = |url: &str| ImportSource::parse(url).unwrap().master_secret(original.secret());
    let error = admin(&kms).import_mini_kms(&source(bare), &ImportJob::default()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidConfiguration, "{error}");
    assert!(error.message().contains("MariaDB: ssl-mode=disabled"), "{error}");
    let job = ImportJob::default().dry_run(true);
    admin(&kms).import_mini_kms(&source(&format!("{bare}?ssl-mode=disabled")), &job).await.unwrap();
    let wrong = admin(&kms).import_mini_kms(&source(&format!("{bare}?ssl-mode=disable")), &job).await;
    assert_eq!(code(wrong), ErrorCode::InvalidConfiguration);
    kms.close().await.unwrap();
}
