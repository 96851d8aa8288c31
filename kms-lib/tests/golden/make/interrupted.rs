//! A store in which two jobs were interrupted: the retirement of a leaked root key, and a replacement of the integrity
//! key.

use kms_lib::{Config, NewGrant, Permission, RetireOptions, Role, RootKeyJob, RootKeySource};

use super::root_keys::{self, local};
use super::{Maker, ROOT_KEY};

/// The root key of generation 2.
const SUCCESSOR: &str = "hex:676f6c64656e2073746f7265732c207465737420726f6f74206b657920322121";
/// Enough rows that sealing them again takes several commits.
const GRANTS: u32 = 200;
/// Counts the integrity keys under which rows are still sealed after their replacement.
const RESEALING: &str = "SELECT COUNT(*) FROM service_keys WHERE state = 'RESEALING'";

/// Makes the store: the first root key is `RETIRING`, and nothing is wrapped under it alone; an integrity key is
/// `RESEALING`. It is not closed.
pub async fn make() -> Maker {
    let mut maker = Maker::new(local(1, ROOT_KEY), both).await;
    root_keys::fill(&mut maker).await;
    for number in 0..GRANTS {
        let grant = NewGrant::new(format!("reader-{number}"), Role::App).on_all_keys().allow([Permission::Decrypt]);
        maker.session.put_grant(grant).await.unwrap();
    }
    interrupt_retirement(&mut maker).await;
    interrupt_resealing(&mut maker).await;
    maker
}

fn both(config: Config) -> Config {
    config.root_key(ROOT_KEY).unwrap().add_root_key(SUCCESSOR).unwrap()
}

/// Retires the first root key before all keys are wrapped under its successor, so the retirement stops after it has
/// begun. Then everything is wrapped under the successor.
async fn interrupt_retirement(maker: &mut Maker) {
    maker.session.add_root_key(&RootKeySource::parse(SUCCESSOR).unwrap()).await.unwrap();
    let leaked = RetireOptions::default().compromised(true).verify_new(true);
    maker.session.retire_root_key(1, &leaked).await.unwrap_err();
    maker.session.replace_signing_key().await.unwrap();
    maker.session.replace_integrity_key().await.unwrap();
    maker.session.retire_root_key(1, &leaked).await.unwrap_err();
    assert!(maker.session.rewrap(&RootKeyJob::default()).await.unwrap().is_complete());
    assert_eq!(maker.place.number("SELECT COUNT(*) FROM root_keys WHERE state = 'RETIRING'").await, 1);
    maker.facts.root_keys = vec![local(2, SUCCESSOR)];
}

/// Replaces the integrity key and drops the call once the new key is committed.
async fn interrupt_resealing(maker: &mut Maker) {
    while maker.place.number(RESEALING).await == 0 {
        let session = maker.session.clone();
        let call = tokio::spawn(async move { session.replace_integrity_key().await });
        while !call.is_finished() && maker.place.number(RESEALING).await == 0 {}
        call.abort();
        // Closing commits what the call has submitted.
        maker.reopen(both).await;
    }
}
