//! Failures of calls to AWS KMS, and the errors that they cause.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kms_test_support::Fault;
use kms_test_support::aws::SECRET_KEY;
use kms_test_support::test_name;

use super::*;
use crate::envelope::RootKey;
use crate::types::error::{Error, ErrorCode};

/// An error names the key and quotes nothing of the request.
#[track_caller]
fn check_text(error: &Error, arn: &str) {
    let text = error.to_string();
    assert!(text.contains(arn), "{text}");
    for secret in [&STANDARD.encode(MATERIAL), std::str::from_utf8(MATERIAL).unwrap(), SECRET_KEY, "repeats"] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn errors_of_aws_are_told_apart() {
    use ErrorCode::{IntegrityFailure, RootKeyRefused, RootKeyUnavailable};
    with_aws(test_name!(), &[], async |aws| {
        let key = aws.admin.create_key();
        let wrapped = {
            let root = AwsKmsRootKey::create(&settings(&aws, &key.arn), 1).await.unwrap();
            root.wrap(&binding(1), MATERIAL).await.unwrap()
        };
        // The code of AWS, the resulting error, and the number of attempts.
        for (name, code, tries) in [
            ("ThrottlingException", RootKeyUnavailable, 3),
            ("KMSInternalException", RootKeyUnavailable, 3),
            ("DependencyTimeoutException", RootKeyUnavailable, 3),
            ("KeyUnavailableException", RootKeyUnavailable, 3),
            ("ExpiredTokenException", RootKeyUnavailable, 1),
            ("AccessDeniedException", RootKeyRefused, 1),
            ("DisabledException", RootKeyRefused, 1),
            ("KMSInvalidStateException", RootKeyRefused, 1),
            ("NotFoundException", RootKeyRefused, 1),
            ("InvalidKeyUsageException", RootKeyRefused, 1),
            ("InvalidSignatureException", RootKeyRefused, 1),
            ("UnrecognizedClientException", RootKeyRefused, 1),
            ("ValidationException", RootKeyRefused, 1),
            ("IncorrectKeyException", IntegrityFailure, 1),
            ("InvalidCiphertextException", IntegrityFailure, 1),
        ] {
            let root = AwsKmsRootKey::open(&settings(&aws, &key.arn), &key.arn, 1).await.unwrap();
            aws.proxy.always(Fault::Aws(name));
            aws.proxy.take();
            let error = root.unwrap(&binding(1), &wrapped).await.unwrap_err();
            assert_eq!((error.code(), aws.proxy.take().len()), (code, tries), "{name}: {error}");
            assert_eq!(error.is_retryable(), code == RootKeyUnavailable, "{name}");
            assert!(error.message().contains(name) && error.message().contains("request 7a1c2d3e-"), "{error}");
            check_text(&error, &key.arn);
            assert_eq!(root.calls().unwrap().is_failing(), code != IntegrityFailure, "{name}");
            if code != IntegrityFailure {
                let error = root.wrap(&binding(1), MATERIAL).await.unwrap_err();
                assert_eq!(error.code(), code, "{name}");
                check_text(&error, &key.arn);
            }
            aws.proxy.always(Fault::Pass);
            root.unwrap(&binding(1), &wrapped).await.unwrap();
            assert!(!root.calls().unwrap().is_failing());
        }
        let root = AwsKmsRootKey::open(&settings(&aws, &key.arn), &key.arn, 1).await.unwrap();
        aws.proxy.always(Fault::Aws("AnErrorOfNextYear"));
        let error = root.wrap(&binding(1), MATERIAL).await.unwrap_err();
        assert_eq!(error.code(), RootKeyRefused, "{error}");
        // An unknown code.
        assert!(!error.message().contains("NextYear"), "{error}");
        check_text(&error, &key.arn);
    });
}

#[test]
fn what_is_no_answer_of_aws_is_retryable() {
    with_aws(test_name!(), &[], async |aws| {
        let key = aws.admin.create_key();
        for (fault, tries) in [
            (Fault::Status(500), 3),
            (Fault::Status(503), 3),
            (Fault::Status(404), 1),
            (Fault::Cut, 3),
            (Fault::CutAnswer, 3),
        ] {
            let root = AwsKmsRootKey::create(&settings(&aws, &key.arn), 1).await.unwrap();
            aws.proxy.always(fault.clone());
            aws.proxy.take();
            let error = root.wrap(&binding(1), MATERIAL).await.unwrap_err();
            assert_eq!(error.code(), ErrorCode::RootKeyUnavailable, "{fault:?}: {error}");
            assert_eq!(aws.proxy.take().len(), tries, "{fault:?}: {error}");
            check_text(&error, &key.arn);
            // A single failure of these is hidden by a retry.
            if tries > 1 {
                aws.proxy.next(1, fault.clone());
                root.wrap(&binding(1), MATERIAL).await.unwrap();
                assert_eq!(aws.proxy.take().len(), 2, "{fault:?}");
            }
        }
    });
}

#[test]
fn time_is_bounded() {
    with_aws(test_name!(), &[], async |aws| {
        let key = aws.admin.create_key();
        let patient = AwsKmsRootKey::create(&settings(&aws, &key.arn), 1).await.unwrap();
        aws.proxy.always(Fault::Delay(Duration::from_secs(3)));
        let begun = Instant::now();
        patient.wrap(&binding(1), MATERIAL).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(3));

        let hasty = settings(&aws, &key.arn).attempt_timeout(Duration::from_secs(1)).timeout(Duration::from_secs(2));
        let hasty = AwsKmsRootKey::create(&hasty, 1).await.unwrap();
        for fault in [Fault::Silence, Fault::Delay(Duration::from_secs(5))] {
            aws.proxy.always(fault.clone());
            aws.proxy.take();
            let begun = Instant::now();
            let error = hasty.wrap(&binding(1), MATERIAL).await.unwrap_err();
            let took = begun.elapsed();
            assert_eq!(error.code(), ErrorCode::RootKeyUnavailable, "{error}");
            assert!(error.message().contains("1 s per attempt, 2 s in all"), "{error}");
            assert!(took >= Duration::from_millis(1_900) && took < Duration::from_millis(3_500), "{took:?}");
            assert!(aws.proxy.take().len() >= 2, "it is tried again after a second");
            check_text(&error, &key.arn);
        }
        let [wrap, _] = hasty.calls().unwrap().metrics("aws-kms");
        assert_eq!(wrap.outcomes["RootKeyUnavailable"], 2);
        assert!(wrap.seconds > 3.5, "{}", wrap.seconds);
    });
}

#[test]
fn an_endpoint_where_nobody_listens_is_named_as_the_cause() {
    with_aws(test_name!(), &[], async |aws| {
        let key = aws.admin.create_key();
        let nowhere = format!("http://127.0.0.1:{}", kms_test_support::free_port());
        let root = AwsKmsRootKey::create(&settings(&aws, &key.arn).endpoint(nowhere), 1).await.unwrap();
        let begun = Instant::now();
        let error = root.wrap(&binding(1), MATERIAL).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::RootKeyUnavailable);
        assert!(error.message().contains("cannot be reached (connection refused)"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(15));
        check_text(&error, &key.arn);
        // A host name that does not resolve.
        let nowhere = settings(&aws, &key.arn).endpoint("https://kms.invalid");
        let root = AwsKmsRootKey::create(&nowhere, 1).await.unwrap();
        let error = root.wrap(&binding(1), MATERIAL).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::RootKeyUnavailable, "{error}");
        check_text(&error, &key.arn);
    });
}

#[test]
fn a_clock_that_is_wrong_is_corrected() {
    with_aws(test_name!(), &[], async |aws| {
        let key = aws.admin.create_key();
        let root = AwsKmsRootKey::create(&settings(&aws, &key.arn), 1).await.unwrap();
        aws.proxy.take();
        // The response contains the time of AWS; the SDK signs again with that time.
        aws.proxy.next(1, Fault::AwsAhead("InvalidSignatureException", 3_600));
        root.wrap(&binding(1), MATERIAL).await.unwrap();
        assert_eq!(aws.proxy.take().len(), 2);
    });
}

#[test]
fn another_key_that_answers_is_refused() {
    with_aws(test_name!(), &[], async |aws| {
        let (key, other) = (aws.admin.create_key(), aws.admin.create_key());
        aws.admin.create_alias("alias/moves", &key);
        // The endpoint uses another key than the one requested, as a malicious endpoint could.
        let arn = key.arn.replace("123456789012", "999999999999");
        let root = AwsKmsRootKey::create(&settings(&aws, &arn), 1).await.unwrap();
        let error = root.wrap(&binding(1), MATERIAL).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::RootKeyRefused, "{error}");
        check_text(&error, &arn);
        drop(other);
    });
}

#[test]
fn logs_hold_no_material() {
    with_aws(test_name!(), &[], async |aws| {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        let key = aws.admin.create_key();
        let root = AwsKmsRootKey::create(&settings(&aws, &key.arn), 1).await.unwrap();
        let wrapped = root.wrap(&binding(1), MATERIAL).await.unwrap();
        root.unwrap(&binding(1), &wrapped).await.unwrap();
        // An error that quotes the request is only in the SDK's own trace of the response.
        let text = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
        assert!(text.contains("aws_smithy_runtime"), "the SDK was not traced");
        let numbers = MATERIAL.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
        for secret in [STANDARD.encode(MATERIAL).as_str(), std::str::from_utf8(MATERIAL).unwrap(), &numbers, SECRET_KEY]
        {
            let at = text.find(secret).map(|at| text[..at].rsplit('\n').next().unwrap_or_default().to_owned());
            assert_eq!(at, None, "a secret is in the log");
        }
    });
}

/// A log that is kept in memory.
#[derive(Clone, Default)]
struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
