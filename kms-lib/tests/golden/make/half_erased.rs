//! A store with a key whose erasure was interrupted: the first step has erased 500 versions, and one is left.

use kms_lib::{Config, Context, NewKey};

use super::{Maker, ROOT_KEY};
use crate::facts::RootKey;

/// One version more than the service erases in one step.
const VERSIONS: u32 = 501;
/// Counts the versions that have wrappings.
const LEFT: &str = "SELECT COUNT(*) FROM key_versions WHERE id IN (SELECT subject FROM wrappings)";

/// Makes the store. It is not closed.
pub async fn make() -> Maker {
    let root_key = RootKey::Local { generation: 1, key: ROOT_KEY.to_owned() };
    let mut maker = Maker::new(root_key, config).await;
    maker.session.create_key(NewKey::aes("kept")).await.unwrap();
    maker.encrypt("kept", &Context::new()).await;
    // If the erasure is over before it is interrupted, another key is erased.
    for number in 1.. {
        let name = format!("half-erased-{number}");
        maker.session.create_key(NewKey::aes(name.as_str())).await.unwrap();
        maker.encrypt(&name, &Context::new()).await;
        for _ in 1..VERSIONS {
            maker.session.rotate_key(name.as_str(), None).await.unwrap();
        }
        maker.encrypt(&name, &Context::new()).await;
        interrupt_erasure(&mut maker, &name).await;
        if maker.place.number(LEFT).await == 2 {
            break;
        }
    }
    maker
}

fn config(config: Config) -> Config {
    config.root_key(ROOT_KEY).unwrap().deletion_wait(1, 1)
}

/// Deletes the key and drops the scheduler's call once the first step of the erasure is committed.
async fn interrupt_erasure(maker: &mut Maker, name: &str) {
    maker.session.schedule_deletion(name, Some(1)).await.unwrap();
    maker.place.pass_days(2);
    let kms = maker.kms.clone();
    let call = tokio::spawn(async move { kms.run_scheduler().await });
    while !call.is_finished() && maker.place.number(LEFT).await > i64::from(VERSIONS) {}
    call.abort();
    // Closing commits what the call has submitted.
    maker.reopen(config).await;
}
