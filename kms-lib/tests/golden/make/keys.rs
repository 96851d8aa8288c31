//! A store with keys and versions of every type and state, ciphertexts of every format, signatures, an idempotency
//! record, replaced signing keys, and enough records for the indexes of the log.

use kms_lib::{AuditContext, Context, NewKey};
use serde_json::json;

use super::{Maker, ROOT_KEY};
use crate::facts::{Idempotent, RootKey};

/// Makes the store. It is not closed.
pub async fn make() -> Maker {
    let root_key = RootKey::Local { generation: 1, key: ROOT_KEY.to_owned() };
    let mut maker = Maker::new(root_key, |config| config.root_key(ROOT_KEY).unwrap().deletion_wait(1, 1)).await;
    ended(&mut maker).await;
    in_use(&mut maker).await;
    let session = maker.session.clone();
    session.replace_signing_key().await.unwrap();
    for number in 0..80 {
        let context = Context::from([("row", number.to_string())]);
        session.encrypt("users", b"a message", &context).await.unwrap();
    }
    session.replace_signing_key().await.unwrap();
    disabled(&mut maker).await;
    let (idempotency_key, name) = ("golden-request".to_owned(), "created-once".to_owned());
    let repeatable = session.with_idempotency_key(&idempotency_key).unwrap();
    let id = repeatable.create_key(NewKey::aes(name.as_str())).await.unwrap().id;
    maker.facts.idempotent = Some(Idempotent { idempotency_key, name, id });
    maker.kms.run_scheduler().await.unwrap();
    maker
}

/// Keys whose material is erased, and a version whose grace window has ended.
async fn ended(maker: &mut Maker) {
    let session = maker.session.clone();
    for name in ["destroyed", "trimmed", "windowed"] {
        session.create_key(NewKey::aes(name).grace_period_days(2)).await.unwrap();
        maker.encrypt(name, &Context::new()).await;
    }
    session.rotate_key("trimmed", None).await.unwrap();
    session.rotate_key("windowed", None).await.unwrap();
    session.revoke_version("trimmed", 1).await.unwrap();
    session.trim_key("trimmed").await.unwrap();
    session.schedule_deletion("destroyed", Some(1)).await.unwrap();
    maker.place.pass_days(3);
    let report = maker.kms.run_scheduler().await.unwrap();
    assert_eq!(report.destroyed.len(), 1, "{report:?}");
}

/// Keys that are in use, with former versions.
async fn in_use(maker: &mut Maker) {
    let session = maker.session.clone();
    let context = Context::from([("table", "users"), ("\u{1f600}", "\u{1}\"\\\u{e9}"), ("\u{fb33}", "")]);
    let metadata = json!({"team": "billing", "tags": ["a", "b"], "cost": 1.5});
    let users = NewKey::aes("users").rotation_period_days(90).grace_period_days(30).metadata(metadata);
    session.create_key(users).await.unwrap();
    session.create_key(NewKey::aes("hashed-contexts").audit_context(AuditContext::Hmac)).await.unwrap();
    session.create_key(NewKey::rsa_encryption("letters")).await.unwrap();
    session.create_key(NewKey::rsa_signing("invoices")).await.unwrap();
    for round in 0..2 {
        for key in ["users", "hashed-contexts", "letters"] {
            maker.encrypt(key, &context).await;
            maker.stream(key, &context, 3).await;
        }
        maker.sign("invoices").await;
        if round == 0 {
            for key in ["users", "hashed-contexts", "letters", "invoices"] {
                session.rotate_key(key, None).await.unwrap();
            }
        }
    }
    for length in [0, 65_537] {
        maker.stream("users", &Context::new(), length).await;
    }
}

/// Keys and versions that are disabled, revoked, or going to be deleted.
async fn disabled(maker: &mut Maker) {
    let session = maker.session.clone();
    let names = [
        "off",
        "version-off",
        "without-current",
        "version-revoked",
        "revoked",
        "to-be-deleted",
        "revoked-to-be-deleted",
    ];
    for name in names {
        session.create_key(NewKey::aes(name)).await.unwrap();
        maker.encrypt(name, &Context::new()).await;
        session.rotate_key(name, None).await.unwrap();
        maker.encrypt(name, &Context::new()).await;
    }
    session.disable_key("off").await.unwrap();
    session.disable_version("version-off", 1).await.unwrap();
    session.revoke_version("without-current", 2).await.unwrap();
    session.revoke_version("version-revoked", 1).await.unwrap();
    session.revoke_key("revoked").await.unwrap();
    session.schedule_deletion("to-be-deleted", Some(20)).await.unwrap();
    session.schedule_deletion("revoked-to-be-deleted", Some(20)).await.unwrap();
    session.revoke_key("revoked-to-be-deleted").await.unwrap();
}
