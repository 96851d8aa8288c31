//! Sessions on a store that fails as it is told to: what is committed is answered, and absent keys cost what present
//! ones do.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::Ordering;

use super::{DecryptItem, GrantFilter, NewGrant, NewToken, Paging, Session};
use crate::ledger::tests::{Faults, open};
use crate::{Actor, Context, ErrorCode, KeyFilter, KeyId, KeyRef, KeyUpdate, NewKey, Permission, Result, Role};

/// More than any change reads.
const READS: u32 = 8;

/// Does a change on a store of which only the first so many reads succeed; answers its result.
async fn with_reads<T>(faults: &Faults, reads: u32, change: impl Future<Output = Result<T>>) -> Result<T> {
    faults.readers_left.store(reads, Ordering::SeqCst);
    let done = change.await;
    faults.readers_left.store(u32::MAX, Ordering::SeqCst);
    done
}

/// Whether a change is reported as made exactly if it was.
#[track_caller]
fn agree<T>(what: &str, reads: u32, answered: &Result<T>, is_made: bool) {
    let code = answered.as_ref().err().map(crate::Error::code);
    assert_eq!(answered.is_ok(), is_made, "{what} with {reads} reads: {code:?}");
}

/// A store that can be written but no longer read: no change that took place is answered with a failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_committed_change_is_answered_whatever_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let (_shared, session, faults) = open(&folder.path().join("kms.db")).await;
    let version = async |name: &str| session.get_key(name).await.unwrap().current_version;
    for reads in 0..READS {
        for (once, kind) in [(false, "plain"), (true, "once")] {
            let session =
                if once { session.with_idempotency_key(&format!("create {reads}")).unwrap() } else { session.clone() };
            let name = format!("{kind}{reads}");
            let made = with_reads(&faults, reads, session.create_key(NewKey::rsa_signing(&name))).await;
            agree("create", reads, &made, session.get_key(name.as_str()).await.is_ok());
            if let Ok(made) = made {
                let first = &made.versions.as_ref().unwrap()[0];
                assert!(first.public_key_pem.is_some() && first.encryptions == Some(0), "{first:?}");
            }

            let session =
                if once { session.with_idempotency_key(&format!("rotate {reads}")).unwrap() } else { session.clone() };
            let before = version("k").await;
            let rotated = with_reads(&faults, reads, session.rotate_key("k", None)).await;
            agree("rotate", reads, &rotated, version("k").await == before + 1);
            if let Ok(rotated) = rotated {
                assert_eq!((rotated.current_version, rotated.versions.unwrap().len() as u32), (before + 1, before + 1));
            }
        }
        let update = KeyUpdate::new().grace_period_days(reads + 1);
        let updated = with_reads(&faults, reads, session.update_key("k", update)).await;
        let is_made = session.get_key("k").await.unwrap().grace_period_days == Some(reads + 1);
        agree("update", reads, &updated, is_made);

        let to = format!("app{reads}");
        let grant = session.put_grant(NewGrant::new(&to, Role::App).on_all_keys().allow([Permission::Read]));
        let made = with_reads(&faults, reads, grant).await;
        let granted = session.list_grants(&GrantFilter::new().principal(&to), &Paging::new(1)).await.unwrap();
        agree("grant", reads, &made, !granted.items.is_empty());
        let tokens = async || session.list_credentials(&Paging::new(1_000)).await.unwrap().items.len();
        let before = tokens().await;
        let made = with_reads(&faults, reads, session.create_token(NewToken::new(&to, Role::App))).await;
        agree("token", reads, &made, tokens().await == before + 1);
    }
    assert!(session.verify_audit().await.unwrap().ok);
}

/// How many reading connections an attempt takes that must fail with this code.
async fn reads<T>(faults: &Faults, expected: ErrorCode, attempt: impl Future<Output = Result<T>>) -> u32 {
    faults.readers_left.store(u32::MAX, Ordering::SeqCst);
    let error = attempt.await.err().unwrap();
    assert_eq!(error.code(), expected, "{error}");
    u32::MAX - faults.readers_left.load(Ordering::SeqCst)
}

/// A caller without rights cannot tell by the work that is done whether there is a key.
#[tokio::test(flavor = "multi_thread")]
async fn absent_keys_take_the_same_reads_as_present_ones() {
    let folder = tempfile::tempdir().unwrap();
    let (shared, session, faults) = open(&folder.path().join("kms.db")).await;
    let present = session.get_key("k").await.unwrap().id;
    let sealed = session.encrypt("k", b"x", &Context::new()).await.unwrap().ciphertext;
    let nobody = Session::new(shared, Actor::new("nobody", Role::App).unwrap());
    let pairs: [(KeyRef, KeyRef); 2] = [("k".into(), "unknown".into()), (present.into(), KeyId::random().into())];
    for (present, absent) in pairs {
        let mut counts = Vec::new();
        for key in [present, absent] {
            let denied = ErrorCode::AccessDenied;
            let none = Context::new();
            let beside = |ciphertext| DecryptItem::new(ciphertext, Context::new()).key(&key);
            let grant = NewGrant::new("friend", Role::App).on_key(&key).allow([Permission::Read]);
            counts.push([
                reads(&faults, denied, nobody.get_key(&key)).await,
                reads(&faults, denied, nobody.public_key(&key, 1)).await,
                reads(&faults, denied, nobody.put_grant(grant)).await,
                reads(&faults, denied, nobody.rotate_key(&key, None)).await,
                reads(&faults, denied, nobody.revoke_key(&key)).await,
                reads(&faults, denied, nobody.revoke_version(&key, 1)).await,
                reads(&faults, denied, nobody.encrypt(&key, b"x", &none)).await,
                reads(&faults, denied, nobody.decrypt_item(beside(b"rubbish"))).await,
                reads(&faults, denied, nobody.decrypt_oaep(&key, 1, b"rubbish")).await,
            ]);
        }
        assert_eq!(counts[0], counts[1]);
    }
    // Beside a ciphertext: another key, and one that there is not.
    let other = session.create_key(NewKey::aes("other")).await.unwrap().id;
    for (caller, code) in [(&session, ErrorCode::InvalidCiphertext), (&nobody, ErrorCode::AccessDenied)] {
        let mut counts = Vec::new();
        let keys: [KeyRef; 4] = [other.into(), KeyId::random().into(), "other".into(), "unknown".into()];
        for key in keys {
            counts.push(reads(&faults, code, caller.decrypt_with(key, &sealed, &Context::new())).await);
        }
        assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
    }
    let all = session.list_keys(&KeyFilter::new(), &Paging::new(10)).await.unwrap();
    assert_eq!(all.items.len(), 2);
}
