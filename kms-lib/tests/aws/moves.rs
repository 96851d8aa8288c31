//! Tests of moving between a local root key and AWS KMS, and between keys in AWS KMS, while the service works.

use kms_lib::{
    Config, Context, ErrorCode, Kms, NewKey, RetireOptions, RootKeyJob, RootKeySource, RootKeyState, Session,
};
use kms_test_support::aws::Aws;
use kms_test_support::{Fault, test_name};

use crate::common::{Place, ROOT_KEY, admin, check_usable, code};
use crate::{calls, config, count, root, with_aws};

const PLAINTEXT: &[u8] = b"what was encrypted before all moves";

/// Adds a root key, wraps everything under it, and verifies the wrappings.
async fn add(session: &Session, source: &RootKeySource) -> u32 {
    let added = session.add_root_key(source).await.unwrap();
    let report = session.rewrap(&RootKeyJob::default()).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
    let report = session.verify_root_key(added.generation, &RootKeyJob::default()).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
    added.generation
}

async fn retire(session: &Session, generation: u32) {
    let retired = session.retire_root_key(generation, &RetireOptions::default()).await.unwrap();
    assert_eq!(retired.root_key.state, RootKeyState::Retired);
}

async fn check_readable(kms: &Kms, ciphertext: &[u8]) {
    let opened = admin(kms).decrypt(ciphertext, &Context::new()).await.unwrap();
    assert_eq!(opened.plaintext.as_slice(), PLAINTEXT);
    check_usable(kms).await;
}

#[test]
fn from_a_local_key_to_aws_and_back() {
    with_aws(test_name!(), async |aws| {
        let (place, key) = (Place::in_a_file(), aws.admin.create_key());
        aws.admin.create_alias("alias/there-and-back", &key);
        let of_aws = root(&aws, "alias/there-and-back");
        // A store with a local root key gets a second one in AWS KMS.
        let kms = Kms::open(place.config().add_aws_root_key(of_aws.clone())).await.unwrap();
        let session = admin(&kms);
        for name in ["a", "b", "c"] {
            session.create_key(NewKey::aes(name)).await.unwrap();
        }
        let sealed = session.encrypt("a", PLAINTEXT, &Context::new()).await.unwrap().ciphertext;
        calls(&aws);
        let generation = add(&session, &RootKeySource::aws(of_aws.clone())).await;
        let used = calls(&aws);
        // Encrypt: the alias, the check value, 2 keys of the service and 3 versions. Decrypt: each of these 5 keys
        // once.
        assert_eq!((generation, count(&used, "Encrypt"), count(&used, "Decrypt")), (2, 7, 5), "{used:?}");
        let listed = session.list_root_keys().await.unwrap();
        assert_eq!(listed[1].reference.as_deref(), Some(key.arn.as_str()));
        assert_eq!(listed[1].provider.as_str(), "aws-kms");
        // From now on, both root keys wrap, and each new version costs one call.
        session.rotate_key("a", None).await.unwrap();
        assert_eq!(calls(&aws), ["Encrypt"]);
        let report = session.verify_root_key(2, &RootKeyJob::default().only_new(true)).await.unwrap();
        assert!(report.is_complete(), "{report:?}");
        retire(&session, 1).await;
        check_readable(&kms, &sealed).await;
        kms.close().await.unwrap();

        // Now only the key in AWS KMS opens the store.
        assert_eq!(code(Kms::open(place.config()).await), ErrorCode::WrongRootKey);
        let kms = Kms::open(config(&place, &aws, "alias/there-and-back")).await.unwrap();
        check_readable(&kms, &sealed).await;
        kms.close().await.unwrap();

        // Back to another local key, because a retired key cannot be added again.
        let passphrase = "passphrase:correct horse battery staple";
        let both = || config(&place, &aws, "alias/there-and-back").add_root_key(passphrase).unwrap();
        let kms = Kms::open(both()).await.unwrap();
        let session = admin(&kms);
        assert_eq!(code(session.add_root_key(&RootKeySource::from_bytes(ROOT_KEY)).await), ErrorCode::Conflict);
        assert_eq!(add(&session, &RootKeySource::parse(passphrase).unwrap()).await, 3);
        retire(&session, 2).await;
        calls(&aws);
        check_readable(&kms, &sealed).await;
        assert_eq!(calls(&aws), Vec::<String>::new(), "a retired key was called");
        kms.close().await.unwrap();
        aws.proxy.always(Fault::Cut);
        let kms = Kms::open(place.config().root_key(passphrase).unwrap()).await.unwrap();
        check_readable(&kms, &sealed).await;
        kms.close().await.unwrap();
        calls(&aws);
    });
}

#[test]
fn from_one_key_in_aws_to_another() {
    with_aws(test_name!(), async |aws| {
        let (place, first, second) = (Place::in_a_file(), aws.admin.create_key(), aws.admin.create_key());
        aws.admin.create_alias("alias/of-either", &first);
        let both = || config(&place, &aws, &first.arn).add_aws_root_key(root(&aws, &second.arn));
        let kms = Kms::open(both()).await.unwrap();
        let session = admin(&kms);
        session.create_key(NewKey::aes("a")).await.unwrap();
        let sealed = session.encrypt("a", PLAINTEXT, &Context::new()).await.unwrap().ciphertext;
        // Another name of the same key makes no new generation.
        let same = RootKeySource::aws(root(&aws, "alias/of-either"));
        assert_eq!(code(session.add_root_key(&same).await), ErrorCode::Conflict);
        add(&session, &RootKeySource::aws(root(&aws, &second.arn))).await;
        // While both keys are in use, the alias may name either.
        for key in [&first, &second] {
            aws.admin.update_alias("alias/of-either", key);
            let reader = Kms::open_read_only(config(&place, &aws, "alias/of-either")).await.unwrap();
            reader.close().await.unwrap();
        }
        retire(&session, 1).await;
        kms.close().await.unwrap();
        let kms = Kms::open(config(&place, &aws, "alias/of-either")).await.unwrap();
        check_readable(&kms, &sealed).await;
        kms.close().await.unwrap();
        aws.admin.update_alias("alias/of-either", &first);
        assert_eq!(code(Kms::open(config(&place, &aws, "alias/of-either")).await), ErrorCode::WrongRootKey);
        calls(&aws);
    });
}

/// A store under a local root key and one in AWS KMS, the settings of both, and a ciphertext of its key `a`.
async fn under_both(place: &Place, aws: &Aws) -> (Config, Vec<u8>) {
    let of_aws = root(aws, &aws.admin.create_key().arn);
    let both = place.config().add_aws_root_key(of_aws.clone());
    let kms = Kms::open(both.clone()).await.unwrap();
    let session = admin(&kms);
    session.create_key(NewKey::aes("a")).await.unwrap();
    let sealed = session.encrypt("a", PLAINTEXT, &Context::new()).await.unwrap().ciphertext;
    add(&session, &RootKeySource::aws(of_aws)).await;
    kms.close().await.unwrap();
    calls(aws);
    (both, sealed)
}

#[test]
fn each_of_two_root_keys_opens_everything() {
    with_aws(test_name!(), async |aws| {
        let place = Place::in_a_file();
        let (both, sealed) = under_both(&place, &aws).await;
        // The local key unwraps everything, and AWS KMS is called only to check its key.
        let kms = Kms::open(both.clone()).await.unwrap();
        assert_eq!(calls(&aws), ["Decrypt"]);
        check_readable(&kms, &sealed).await;
        assert_eq!(calls(&aws), ["Encrypt"], "a new key is wrapped under both");
        kms.close().await.unwrap();
        for (fault, refusal) in [
            (Fault::Cut, ErrorCode::RootKeyUnavailable),
            (Fault::Aws("ThrottlingException"), ErrorCode::RootKeyUnavailable),
            (Fault::Aws("DisabledException"), ErrorCode::RootKeyRefused),
        ] {
            // AWS KMS is down when the service starts: the service starts and reads everything, but creates no key
            // material.
            aws.proxy.always(fault.clone());
            let kms = Kms::open(both.clone()).await.unwrap();
            let session = admin(&kms);
            let opened = session.decrypt(&sealed, &Context::new()).await.unwrap();
            assert_eq!(opened.plaintext.as_slice(), PLAINTEXT);
            session.encrypt("a", b"x", &Context::new()).await.unwrap();
            let failed = code(session.create_key(NewKey::aes("new")).await);
            assert!(failed == refusal || failed == ErrorCode::RootKeyUnavailable, "{fault:?}: {failed}");
            assert!(session.rotate_key("a", None).await.is_err(), "{fault:?}");
            assert_eq!(kms.ready().await.unwrap().root_key.as_str(), "degraded", "{fault:?}");
            kms.close().await.unwrap();
        }
        aws.proxy.always(Fault::Pass);
        // A process without the local key works with AWS KMS alone, but cannot create keys.
        let only_aws = place.config().aws_root_key(root(&aws, aws.proxy.seen()[0].key()));
        let kms = Kms::open(only_aws).await.unwrap();
        let session = admin(&kms);
        assert_eq!(session.decrypt(&sealed, &Context::new()).await.unwrap().plaintext.as_slice(), PLAINTEXT);
        let error = session.create_key(NewKey::aes("new")).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::RootKeyUnavailable);
        assert!(error.message().contains("generation 1"), "{error}");
        kms.close().await.unwrap();
        calls(&aws);
    });
}

#[test]
fn a_key_that_cannot_wrap_is_not_added() {
    with_aws(test_name!(), async |aws| {
        let (place, key) = (Place::in_a_file(), aws.admin.create_key());
        let source = RootKeySource::aws(root(&aws, &key.arn));
        let kms = place.open().await;
        let session = admin(&kms);
        session.create_key(NewKey::aes("a")).await.unwrap();
        for (fault, expected) in [
            (Fault::Aws("AccessDeniedException"), ErrorCode::RootKeyRefused),
            (Fault::Cut, ErrorCode::RootKeyUnavailable),
        ] {
            aws.proxy.always(fault);
            assert_eq!(code(session.add_root_key(&source).await), expected);
        }
        // A rewrap that is refused halfway reports it, and continues when it is repeated.
        aws.proxy.always(Fault::Pass);
        assert_eq!(session.list_root_keys().await.unwrap().len(), 1);
        session.add_root_key(&source).await.unwrap();
        aws.proxy.always(Fault::Aws("DisabledException"));
        let refused = session.rewrap(&RootKeyJob::default()).await;
        assert!(refused.as_ref().map_or(true, |report| !report.is_complete()), "{refused:?}");
        aws.proxy.always(Fault::Pass);
        let report = session.rewrap(&RootKeyJob::default()).await.unwrap();
        assert!(report.is_complete(), "{report:?}");
        check_usable(&kms).await;
        kms.close().await.unwrap();
        calls(&aws);
    });
}
