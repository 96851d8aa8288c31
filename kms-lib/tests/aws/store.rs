//! Tests of a store under a key in AWS KMS: its operations, the number of calls, and refusals without a call.

use std::time::Duration;

use kms_lib::SignatureAlgorithm;
use kms_lib::{Context, ErrorCode, Kms, NewKey, Role};
use kms_test_support::{Fault, test_name};

use crate::common::{Place, actor, admin, check_usable, code};
use crate::{calls, config, count, with_aws};

#[test]
fn a_store_works_under_a_key_in_aws() {
    with_aws(test_name!(), async |aws| {
        let (place, key) = (Place::in_a_file(), aws.admin.create_key());
        aws.admin.create_alias("alias/of-a-store", &key);
        let config = || config(&place, &aws, "alias/of-a-store");
        let kms = Kms::open(config()).await.unwrap();
        let made = calls(&aws);
        // Encrypt: the alias, the check value and two keys of the service, then the alias again. Decrypt: the check
        // value and the two keys.
        assert_eq!((count(&made, "Encrypt"), count(&made, "Decrypt")), (5, 3), "{made:?}");
        let session = admin(&kms);
        session.create_key(NewKey::aes("data")).await.unwrap();
        session.create_key(NewKey::rsa_signing("seal")).await.unwrap();
        assert_eq!(calls(&aws), ["Encrypt", "Encrypt"]);
        let sealed = session.encrypt("data", b"a plaintext of some length", &Context::new()).await.unwrap();
        let signed = session.sign("seal", b"payload", SignatureAlgorithm::RsaPssSha256).await.unwrap();
        // A key that is not cached costs a call, a cached one none.
        assert_eq!(calls(&aws), ["Decrypt", "Decrypt"]);
        session.rotate_key("data", None).await.unwrap();
        assert_eq!(calls(&aws), ["Encrypt"]);
        session.encrypt("data", b"a plaintext of some length", &Context::new()).await.unwrap();
        session.decrypt(&sealed.ciphertext, &Context::new()).await.unwrap();
        assert_eq!(calls(&aws), ["Decrypt"]);
        // Nothing is wrapped under the alias, and the store does not contain it.
        let by_arn = format!("SELECT COUNT(*) FROM root_keys WHERE reference = '{}'", key.arn);
        assert_eq!(place.number(&by_arn).await, 1);
        kms.close().await.unwrap();

        let kms = Kms::open(config()).await.unwrap();
        assert_eq!(calls(&aws).len(), 4);
        let session = admin(&kms);
        let opened = session.decrypt(&sealed.ciphertext, &Context::new()).await.unwrap();
        assert_eq!(opened.plaintext.as_slice(), b"a plaintext of some length");
        let algorithm = SignatureAlgorithm::RsaPssSha256;
        assert!(session.verify("seal", b"payload", &signed.signature, algorithm, None).await.unwrap().valid);
        check_usable(&kms).await;
        session.replace_signing_key().await.unwrap();
        kms.close().await.unwrap();
        let kms = Kms::open(config()).await.unwrap();
        check_usable(&kms).await;
        kms.close().await.unwrap();
        calls(&aws);
    });
}

#[test]
fn contexts_name_the_wrapped_material() {
    with_aws(test_name!(), async |aws| {
        let (place, key) = (Place::in_a_file(), aws.admin.create_key());
        let kms = Kms::open(config(&place, &aws, &key.arn)).await.unwrap();
        let made = admin(&kms).create_key(NewKey::aes("data")).await.unwrap();
        admin(&kms).rotate_key("data", None).await.unwrap();
        let wrapped = aws.proxy.seen();
        calls(&aws);
        let of = |kind: &str| {
            let is_of = |call: &&kms_test_support::Seen| call.operation == "Encrypt" && call.context("type") == kind;
            wrapped
                .iter()
                .filter(is_of)
                .map(|call| (call.context("keyId"), call.context("version")))
                .collect::<Vec<_>>()
        };
        let id = made.id.to_string();
        assert_eq!(of("AES256_GCM"), [(id.as_str(), "1"), (id.as_str(), "2")]);
        assert_eq!(of("CHECK_VALUE"), [("check-value", "1")]);
        assert_eq!((of("INTEGRITY_KEY").len(), of("SIGNING_KEY").len()), (1, 1));
        assert_eq!(of("INTEGRITY_KEY"), of("SIGNING_KEY"), "both contexts name the log");
        assert!(wrapped.iter().all(|call| call.key() == key.arn));
        kms.close().await.unwrap();
    });
}

#[test]
fn permissions_are_checked_before_any_call() {
    with_aws(test_name!(), async |aws| {
        let (place, key) = (Place::in_a_file(), aws.admin.create_key());
        let kms = Kms::open(config(&place, &aws, &key.arn)).await.unwrap();
        admin(&kms).create_key(NewKey::aes("data")).await.unwrap();
        calls(&aws);
        let nobody = kms.session(actor("nobody", Role::App));
        assert_eq!(code(nobody.create_key(NewKey::aes("mine")).await), ErrorCode::AccessDenied);
        assert_eq!(code(nobody.rotate_key("data", None).await), ErrorCode::AccessDenied);
        assert_eq!(code(nobody.encrypt("data", b"x", &Context::new()).await), ErrorCode::AccessDenied);
        assert_eq!(code(nobody.generate_data_key("data", 32, &Context::new()).await), ErrorCode::AccessDenied);
        // Operations that fail for another reason cause no call either.
        assert_eq!(code(admin(&kms).create_key(NewKey::aes("data")).await), ErrorCode::NameTaken);
        admin(&kms).disable_key("data").await.unwrap();
        assert_eq!(code(admin(&kms).rotate_key("data", None).await), ErrorCode::KeyDisabled);
        assert_eq!(calls(&aws), Vec::<String>::new());
        kms.close().await.unwrap();
    });
}

#[test]
fn any_number_of_callers_share_one_call_for_a_key() {
    with_aws(test_name!(), async |aws| {
        let (place, key) = (Place::in_a_file(), aws.admin.create_key());
        let kms = Kms::open(config(&place, &aws, &key.arn)).await.unwrap();
        admin(&kms).create_key(NewKey::aes("data")).await.unwrap();
        calls(&aws);
        aws.proxy.always(Fault::Delay(Duration::from_millis(800)));
        let encrypt = || {
            let session = admin(&kms);
            tokio::spawn(async move { session.encrypt("data", b"x", &Context::new()).await.map(drop) })
        };
        // The caller that began the call is cancelled, and so are some of the waiting callers.
        let first = encrypt();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let waiting: Vec<_> = (0..50).map(|_| encrypt()).collect();
        tokio::time::sleep(Duration::from_millis(100)).await;
        first.abort();
        waiting.iter().take(10).for_each(tokio::task::JoinHandle::abort);
        for caller in waiting.into_iter().skip(10) {
            caller.await.unwrap().unwrap();
        }
        assert_eq!(calls(&aws), ["Decrypt"]);

        // Even if all callers are cancelled, the unwrapped key is cached.
        admin(&kms).rotate_key("data", None).await.unwrap();
        let alone = encrypt();
        tokio::time::sleep(Duration::from_millis(300)).await;
        alone.abort();
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        encrypt().await.unwrap().unwrap();
        assert_eq!(calls(&aws), ["Encrypt", "Decrypt"]);
        // All waiting callers get the error of one call, too.
        admin(&kms).rotate_key("data", None).await.unwrap();
        calls(&aws);
        aws.proxy.rule(|_| {
            std::thread::sleep(Duration::from_millis(500));
            Fault::Aws("DisabledException")
        });
        let waiting: Vec<_> = (0..20).map(|_| encrypt()).collect();
        for caller in waiting {
            assert_eq!(caller.await.unwrap().unwrap_err().code(), ErrorCode::RootKeyRefused);
        }
        assert_eq!(calls(&aws), ["Decrypt"]);
        aws.proxy.always(Fault::Pass);
        kms.close().await.unwrap();
    });
}

#[test]
fn a_store_opens_only_under_its_own_key() {
    with_aws(test_name!(), async |aws| {
        let (place, key, other) = (Place::in_a_file(), aws.admin.create_key(), aws.admin.create_key());
        aws.admin.create_alias("alias/that-moves", &key);
        let under_alias = || config(&place, &aws, "alias/that-moves");
        Kms::open(under_alias()).await.unwrap().close().await.unwrap();
        assert_eq!(code(Kms::open(config(&place, &aws, &other.arn)).await), ErrorCode::WrongRootKey);
        assert_eq!(code(Kms::open(place.config()).await), ErrorCode::WrongRootKey);
        aws.admin.update_alias("alias/that-moves", &other);
        let error = Kms::open(under_alias()).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::WrongRootKey);
        assert!(error.message().contains(&key.arn) && error.message().contains(&other.arn), "{error}");
        // The key still opens the store by its own name.
        Kms::open(config(&place, &aws, &key.id)).await.unwrap().close().await.unwrap();

        let local = Place::in_a_file();
        local.open().await.close().await.unwrap();
        assert_eq!(code(Kms::open(config(&local, &aws, &key.arn)).await), ErrorCode::WrongRootKey);
        calls(&aws);
    });
}

#[test]
fn creating_a_store_can_be_repeated() {
    with_aws(test_name!(), async |aws| {
        let (place, key) = (Place::in_a_file(), aws.admin.create_key());
        // Each call for creating a store fails once, then succeeds.
        for (n, operation) in ["Encrypt", "Encrypt", "Encrypt", "Decrypt", "Decrypt", "Decrypt"].into_iter().enumerate()
        {
            let before = if operation == "Encrypt" { n } else { n - 3 };
            let seen = std::sync::atomic::AtomicUsize::new(0);
            aws.proxy.rule(move |call| {
                let is_next =
                    call.operation == operation && seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == before;
                if is_next { Fault::Aws("AccessDeniedException") } else { Fault::Pass }
            });
            let error = Kms::open(config(&place, &aws, &key.arn)).await.unwrap_err();
            assert_eq!(error.code(), ErrorCode::RootKeyRefused, "{operation} {before}: {error}");
        }
        aws.proxy.always(Fault::Pass);
        let kms = Kms::open(config(&place, &aws, &key.arn)).await.unwrap();
        check_usable(&kms).await;
        kms.close().await.unwrap();
        calls(&aws);
    });
}

#[test]
fn the_blocking_interface_works_too() {
    kms_test_support::aws::run(test_name!(), &[], |aws| {
        let (place, key) = (Place::in_a_file(), aws.admin.create_key());
        let kms = kms_lib::blocking::Kms::open(config(&place, &aws, &key.arn)).unwrap();
        let session = kms.session(actor("alice", Role::Admin));
        session.create_key(NewKey::aes("data")).unwrap();
        let sealed = session.encrypt("data", b"a plaintext of some length", &Context::new()).unwrap();
        kms.close().unwrap();
        // The same configuration on another runtime.
        let kms = kms_lib::blocking::Kms::open(config(&place, &aws, &key.arn)).unwrap();
        let session = kms.session(actor("alice", Role::Admin));
        let opened = session.decrypt(&sealed.ciphertext, &Context::new()).unwrap();
        assert_eq!(opened.plaintext.as_slice(), b"a plaintext of some length");
        kms.close().unwrap();
        calls(&aws);
    });
}
