//! The golden store under a key in AWS KMS, with a server (moto) whose key has the material of the golden store's.

use std::path::Path;

use kms_lib::{AwsRootKey, Config, RootKeyJob, RootKeySource};
use kms_test_support::aws::{Aws, run_with_keys};
use kms_test_support::{KnownKey, REGION, test_name};

use crate::facts::{self, RootKey};
use crate::make::{self, Maker, ROOT_KEY};
use crate::{inventory, read};

/// The id of the key.
const ID: &str = "676f6c64-656e-4000-8000-6b6579203121";
/// The material of the key, which is not secret outside of the server.
const MATERIAL: &str = "676f6c64656e2073746f7265732c206d6174657269616c20696e20415753a3a3";

fn run<Body: Future<Output = ()>>(test: &str, body: impl FnOnce(Aws) -> Body) {
    let keys = [KnownKey { id: ID.to_owned(), material: MATERIAL.to_owned() }];
    run_with_keys(test, &keys, |aws| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(body(aws));
    });
}

fn root(aws: &Aws, id: &str) -> AwsRootKey {
    AwsRootKey::new(id).region(REGION).endpoint(aws.proxy.url())
}

/// Checks a store under the key in AWS KMS, alone and together with the local root key.
async fn check(aws: &Aws, folder: &Path) {
    read::check(folder, false, |config| config.aws_root_key(root(aws, ID))).await;
    let both = |config: Config| config.aws_root_key(root(aws, ID)).add_root_key(ROOT_KEY).unwrap();
    read::check(folder, true, both).await;
}

#[test]
fn golden_stores_under_a_key_in_aws_are_read() {
    run(test_name!(), async |aws| {
        let mut read = 0;
        for folder in facts::golden() {
            for root_key in facts::of(&folder).root_keys {
                let RootKey::AwsKms { id, material, .. } = root_key else { continue };
                assert_eq!((id.as_str(), material.as_str()), (ID, MATERIAL), "the server has one key");
                check(&aws, &folder).await;
                read += 1;
            }
        }
        assert!(read > 0, "no golden store is under a key in AWS KMS");
    });
}

#[test]
fn a_store_like_the_golden_one_is_made_under_a_key_in_aws() {
    run(test_name!(), async |aws| {
        let (folder, _kept) = make::new_folder();
        let folder = folder.join("aws-kms");
        let root_key = RootKey::AwsKms { generation: 1, id: ID.to_owned(), material: MATERIAL.to_owned() };
        let both = |config: Config| config.aws_root_key(root(&aws, ID)).add_root_key(ROOT_KEY).unwrap();
        let mut maker = Maker::new(root_key, both).await;
        make::root_keys::fill(&mut maker).await;
        let local = RootKeySource::parse(ROOT_KEY).unwrap();
        make::root_keys::add(&mut maker, &local, RootKey::Local { generation: 2, key: ROOT_KEY.to_owned() }).await;
        maker.session.verify_root_key(2, &RootKeyJob::default()).await.unwrap();
        maker.finish(&folder).await;
        check(&aws, &folder).await;
        read::check_local(&folder).await;
        inventory::compare(&[folder]).await;
    });
}
