//! Outages and refusals of AWS KMS while the service runs or starts.

use std::time::{Duration, Instant};

use kms_lib::RootKeyHealth;
use kms_lib::{Context, Error, ErrorCode, Kms, NewKey, RetireOptions, RootKeyJob, RootKeySource, Session};
use kms_test_support::{Fault, test_name};

use crate::common::{Place, admin, check_usable, code, last_record};
use crate::{calls, config, root, with_aws};

/// Encrypts one short plaintext.
async fn encrypt(session: &Session, key: &str) -> Result<(), Error> {
    session.encrypt(key, b"x", &Context::new()).await.map(drop)
}

#[test]
fn cached_keys_work_during_an_outage() {
    use ErrorCode::{RootKeyRefused, RootKeyUnavailable};
    with_aws(test_name!(), async |aws| {
        let (place, key) = (Place::in_a_file(), aws.admin.create_key());
        let hasty = root(&aws, &key.arn).attempt_timeout(Duration::from_secs(1)).timeout(Duration::from_secs(2));
        let kms = Kms::open(place.config().aws_root_key(hasty)).await.unwrap();
        let session = admin(&kms);
        session.create_key(NewKey::aes("warm")).await.unwrap();
        session.create_key(NewKey::aes("cold")).await.unwrap();
        encrypt(&session, "warm").await.unwrap();
        for (fault, expected) in [
            (Fault::Cut, RootKeyUnavailable),
            (Fault::Silence, RootKeyUnavailable),
            (Fault::Status(500), RootKeyUnavailable),
            (Fault::Aws("ThrottlingException"), RootKeyUnavailable),
            (Fault::Aws("ExpiredTokenException"), RootKeyUnavailable),
            (Fault::Aws("AccessDeniedException"), RootKeyRefused),
            (Fault::Aws("DisabledException"), RootKeyRefused),
            (Fault::Aws("KMSInvalidStateException"), RootKeyRefused),
            (Fault::Aws("NotFoundException"), RootKeyRefused),
            (Fault::Aws("InvalidSignatureException"), RootKeyRefused),
            // This error means that the store is damaged, not the root key.
            (Fault::Aws("InvalidCiphertextException"), ErrorCode::IntegrityFailure),
            (Fault::Aws("IncorrectKeyException"), ErrorCode::IntegrityFailure),
        ] {
            aws.proxy.always(fault.clone());
            let begun = Instant::now();
            let error = encrypt(&session, "cold").await.unwrap_err();
            assert_eq!(error.code(), expected, "{fault:?}: {error}");
            assert!(begun.elapsed() < Duration::from_secs(6), "{fault:?} took {:?}", begun.elapsed());
            assert!(error.message().contains(&key.arn), "{error}");
            // An outage is not recorded for each operation, because nothing was done.
            let record = last_record(&session).await;
            let is_recorded = record.action.as_str() == "ENCRYPT" && record.status.as_str() == "FAILURE";
            assert_eq!(is_recorded, expected != RootKeyUnavailable, "{fault:?}");
            let is_degraded = expected != ErrorCode::IntegrityFailure;
            calls(&aws);
            let ready = kms.ready().await.unwrap();
            assert_eq!(ready.root_key == RootKeyHealth::Degraded, is_degraded, "{fault:?}");
            encrypt(&session, "warm").await.unwrap();
            assert_eq!(calls(&aws), Vec::<String>::new(), "{fault:?}: readiness or a cached key caused a call");
            // No version is created that cannot be wrapped, and the failure is recorded.
            if is_degraded {
                assert_eq!(code(session.create_key(NewKey::aes("new")).await), expected);
                let record = last_record(&session).await;
                assert_eq!((record.action.as_str(), record.status.as_str()), ("KEY_CREATE", "FAILURE"), "{fault:?}");
                assert_eq!(code(session.rotate_key("warm", None).await), expected);
                let record = last_record(&session).await;
                assert_eq!((record.action.as_str(), record.status.as_str()), ("KEY_ROTATE", "FAILURE"), "{fault:?}");
            }
            aws.proxy.always(Fault::Pass);
            calls(&aws);
        }
        encrypt(&session, "cold").await.unwrap();
        assert_eq!(kms.ready().await.unwrap().root_key, RootKeyHealth::Ok);
        check_usable(&kms).await;
        let metrics = kms.telemetry().await.unwrap().root_keys;
        let unwraps = metrics.iter().find(|calls| calls.operation.as_str() == "unwrap").unwrap();
        assert_eq!(unwraps.provider, "aws-kms");
        let count = |outcome| unwraps.outcomes[outcome];
        assert_eq!((count("RootKeyUnavailable"), count("RootKeyRefused"), count("IntegrityFailure")), (5, 5, 2));
        assert!(count("ok") >= 5 && unwraps.seconds > 2.0, "{unwraps:?}");
        kms.close().await.unwrap();
        calls(&aws);
    });
}

#[test]
fn the_scheduler_records_failures_and_continues() {
    with_aws(test_name!(), async |aws| {
        let (place, key) = (Place::in_a_file(), aws.admin.create_key());
        let kms = Kms::open(config(&place, &aws, &key.arn)).await.unwrap();
        let session = admin(&kms);
        for name in ["a", "b", "c"] {
            session.create_key(NewKey::aes(name).rotation_period_days(1)).await.unwrap();
        }
        let version = async |name: &str| session.get_key(name).await.unwrap().current_version;
        place.pass_days(2);
        // The first rotation fails.
        aws.proxy.next(1, Fault::Aws("AccessDeniedException"));
        let report = kms.run_scheduler().await.unwrap();
        assert_eq!((report.failed.len(), report.rotated.len()), (1, 2));
        assert_eq!(report.failed[0].1.code(), ErrorCode::RootKeyRefused);
        let failures = session.metrics().await.unwrap().audit.failed_operations_last24h;
        assert_eq!(failures, 1);
        let report = kms.run_scheduler().await.unwrap();
        assert_eq!((report.failed.len(), report.rotated.len()), (0, 1));
        for name in ["a", "b", "c"] {
            assert_eq!(version(name).await, 2);
        }
        kms.close().await.unwrap();
        calls(&aws);
    });
}

#[test]
fn disabling_the_key_takes_effect_when_the_cache_expires() {
    with_aws(test_name!(), async |aws| {
        let (place, key) = (Place::in_a_file(), aws.admin.create_key());
        let brief = config(&place, &aws, &key.arn).cache(100, Duration::from_secs(2));
        let kms = Kms::open(brief).await.unwrap();
        let session = admin(&kms);
        session.create_key(NewKey::aes("data")).await.unwrap();
        encrypt(&session, "data").await.unwrap();
        aws.proxy.always(Fault::Aws("DisabledException"));
        let disabled = Instant::now();
        encrypt(&session, "data").await.unwrap();
        loop {
            match encrypt(&session, "data").await {
                Ok(()) => assert!(disabled.elapsed() < Duration::from_secs(4), "the cache keeps the key"),
                Err(error) => {
                    assert_eq!(error.code(), ErrorCode::RootKeyRefused);
                    break;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        aws.proxy.always(Fault::Pass);
        encrypt(&session, "data").await.unwrap();
        kms.close().await.unwrap();
        calls(&aws);
    });
}

#[test]
fn a_service_does_not_start_without_its_key() {
    with_aws(test_name!(), async |aws| {
        let (place, key) = (Place::in_a_file(), aws.admin.create_key());
        let config = || {
            let hasty = root(&aws, &key.arn).attempt_timeout(Duration::from_secs(1)).timeout(Duration::from_secs(2));
            place.config().aws_root_key(hasty)
        };
        Kms::open(config()).await.unwrap().close().await.unwrap();
        for (fault, expected) in [
            (Fault::Silence, ErrorCode::RootKeyUnavailable),
            (Fault::Aws("ThrottlingException"), ErrorCode::RootKeyUnavailable),
            (Fault::Aws("DisabledException"), ErrorCode::RootKeyRefused),
            (Fault::Aws("InvalidCiphertextException"), ErrorCode::WrongRootKey),
        ] {
            aws.proxy.always(fault.clone());
            let begun = Instant::now();
            let error = Kms::open(config()).await.unwrap_err();
            assert_eq!(error.code(), expected, "{fault:?}: {error}");
            assert!(begun.elapsed() < Duration::from_secs(6), "{fault:?} took {:?}", begun.elapsed());
        }
        aws.proxy.always(Fault::Pass);
        let kms = Kms::open(config()).await.unwrap();
        check_usable(&kms).await;
        kms.close().await.unwrap();
        calls(&aws);
    });
}

/// A wrapping that no longer opens loses its verification mark, so a generation that opens the material is not retired.
#[test]
fn a_wrapping_that_no_longer_opens_loses_its_mark() {
    with_aws(test_name!(), async |aws| {
        let (place, key) = (Place::in_a_file(), aws.admin.create_key());
        let kms = Kms::open(place.config()).await.unwrap();
        let session = admin(&kms);
        session.create_key(NewKey::aes("data")).await.unwrap();
        session.add_root_key(&RootKeySource::aws(root(&aws, &key.arn))).await.unwrap();
        let job = RootKeyJob::default();
        session.rewrap(&job).await.unwrap();
        assert_eq!(session.verify_root_key(2, &job).await.unwrap().done, 3);
        let verified = async || session.list_root_keys().await.unwrap()[1].verified;
        // An outage does not affect the marks.
        aws.proxy.always(Fault::Aws("AccessDeniedException"));
        assert_eq!(code(session.verify_root_key(2, &job).await), ErrorCode::RootKeyRefused);
        assert_eq!(verified().await, 3);
        aws.proxy.rule(|call| {
            if call.context("type") == "AES256_GCM" { Fault::Aws("InvalidCiphertextException") } else { Fault::Pass }
        });
        let dry = session.verify_root_key(2, &RootKeyJob::default().dry_run(true)).await.unwrap();
        assert_eq!((dry.failed, verified().await), (1, 3));
        assert_eq!(session.verify_root_key(2, &job).await.unwrap().failed, 1);
        assert_eq!(verified().await, 2);
        let options = RetireOptions::default();
        assert_eq!(code(session.retire_root_key(1, &options).await), ErrorCode::WrongState);
        aws.proxy.always(Fault::Pass);
        assert!(session.verify_root_key(2, &job).await.unwrap().is_complete());
        session.retire_root_key(1, &options).await.unwrap();
        check_usable(&kms).await;
        kms.close().await.unwrap();
        calls(&aws);
    });
}

/// A root key that does not answer delays no other background task: a key that another node revoked leaves the memory.
#[test]
fn a_silent_root_key_delays_no_revocation() {
    with_aws(test_name!(), async |aws| {
        let (place, key) = (Place::in_a_file(), aws.admin.create_key());
        let source = || RootKeySource::aws(root(&aws, &key.arn));
        let one = Kms::open(place.config()).await.unwrap();
        let two = Kms::open(place.config().add_aws_root_key(root(&aws, &key.arn))).await.unwrap();
        let session = admin(&one);
        session.create_key(NewKey::aes("data")).await.unwrap();
        admin(&two).encrypt("data", b"x", &Context::new()).await.unwrap();
        let cached = async || two.telemetry().await.unwrap().cache.keys;
        // The cache updates its count when it next removes entries.
        while cached().await == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        aws.proxy.rule(|call| if call.operation == "Decrypt" { Fault::Silence } else { Fault::Pass });
        session.add_root_key(&source()).await.unwrap();
        // The background task of the other node now waits for AWS KMS.
        tokio::time::sleep(Duration::from_secs(2)).await;
        session.revoke_key("data").await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(cached().await, 0);
        aws.proxy.always(Fault::Pass);
        for kms in [one, two] {
            kms.close().await.unwrap();
        }
        calls(&aws);
    });
}
