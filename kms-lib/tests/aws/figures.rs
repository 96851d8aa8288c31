//! Measures the time and the calls for moving 10,000 keys to AWS KMS, and the time of the next start. Only in the long
//! run (`tests/run --full`); `KMS_TEST_KEYS` sets another number of keys. moto answers only a few hundred calls a
//! second, so the number of calls matters more than the time.

use std::time::{Duration, Instant};

use kms_lib::{Context, Kms, NewKey, RetireOptions, RootKeyJob, RootKeySource};
use kms_test_support::aws::figure;
use kms_test_support::test_name;

use crate::common::{Place, admin};
use crate::{calls, count, root, with_aws};

#[test]
fn moving_ten_thousand_keys() {
    if std::env::var("KMS_TEST_MODE").as_deref() != Ok("full") {
        return;
    }
    with_aws(test_name!(), async |aws| {
        let keys: usize = std::env::var("KMS_TEST_KEYS").map_or(10_000, |keys| keys.parse().unwrap());
        let (place, key) = (Place::in_a_file(), aws.admin.create_key());
        let of_aws = root(&aws, &key.arn).timeout(Duration::from_secs(60)).attempt_timeout(Duration::from_secs(20));
        let kms = Kms::open(place.config().add_aws_root_key(of_aws.clone())).await.unwrap();
        let makers = (0..16).map(|maker| {
            let session = admin(&kms);
            tokio::spawn(async move {
                for n in (maker..keys).step_by(16) {
                    session.create_key(NewKey::aes(format!("key-{n}"))).await.unwrap();
                }
            })
        });
        for maker in makers.collect::<Vec<_>>() {
            maker.await.unwrap();
        }
        let session = admin(&kms);
        session.add_root_key(&RootKeySource::aws(of_aws.clone())).await.unwrap();
        calls(&aws);
        let (begun, materials) = (Instant::now(), keys + 2);
        assert!(session.rewrap(&RootKeyJob::default()).await.unwrap().is_complete());
        let (took, made) = (begun.elapsed(), calls(&aws));
        figure(&format!("rewrap of {keys} keys, local to AWS KMS: {took:.1?}, {} calls", made.len()));
        // The keys of the service were wrapped when the root key was added.
        assert_eq!((count(&made, "Encrypt"), made.len()), (keys, keys));
        let begun = Instant::now();
        assert!(session.verify_root_key(2, &RootKeyJob::default()).await.unwrap().is_complete());
        let (took, made) = (begun.elapsed(), calls(&aws));
        figure(&format!("verification of {materials} materials under AWS KMS: {took:.1?}, {} calls", made.len()));
        assert_eq!((count(&made, "Decrypt"), made.len()), (materials, materials));
        session.retire_root_key(1, &RetireOptions::default()).await.unwrap();
        // The keys of the service must open without the retired key.
        assert_eq!(calls(&aws), ["Decrypt"; 2]);
        kms.close().await.unwrap();

        let begun = Instant::now();
        let kms = Kms::open(place.config().aws_root_key(of_aws)).await.unwrap();
        let (took, made) = (begun.elapsed(), calls(&aws));
        figure(&format!("start with AWS KMS and {keys} keys: {took:.1?}, {} calls", made.len()));
        assert_eq!(made, ["Decrypt"; 3]);
        let mut cold: Vec<Duration> = Vec::new();
        for n in 0..keys.min(200) {
            let begun = Instant::now();
            admin(&kms).encrypt(format!("key-{n}").as_str(), b"x", &Context::new()).await.unwrap();
            cold.push(begun.elapsed());
        }
        cold.sort_unstable();
        figure(&format!(
            "first use of a key: p50 {:.1?}, p99 {:.1?}",
            cold[cold.len() / 2],
            cold[cold.len() * 99 / 100]
        ));
        kms.close().await.unwrap();
        calls(&aws);
    });
}
