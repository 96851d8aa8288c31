//! Random histories of several actors and tasks, replayed from the log against a small model: no operation succeeded
//! that states and grants at that point forbid, none was refused that they permit, and the final state is the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::common::{Place, actor, admin, whole_log};
use kms_lib::{
    AuditAck, AuditRecord, Context, GrantFilter, KeyId, KeyState, Kms, NewGrant, NewKey, Paging, Permission, Role,
    Session, VersionState,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

/// The state of a key in the model.
#[derive(Debug, Default)]
struct ModelKey {
    disabled: bool,
    current_revoked: bool,
    revoked: bool,
    current: u32,
    versions: HashMap<u32, VersionState>,
}

#[derive(Debug, Default)]
struct Model {
    keys: HashMap<KeyId, ModelKey>,
    /// Grants by id: principal, scope and operations.
    grants: HashMap<String, (String, String, Vec<String>)>,
}

impl Model {
    fn may(&self, row: &AuditRecord, permission: &str) -> bool {
        row.role == "admin"
            || self.grants.values().any(|(principal, scope, operations)| {
                *principal == row.actor
                    && (scope == "*" || Some(scope.as_str()) == row.key_id.map(|id| id.to_string()).as_deref())
                    && operations.iter().any(|operation| operation == permission)
            })
    }

    /// The error with which the model refuses the operation of a record, or `None` if it permits it.
    fn refusal(&self, row: &AuditRecord) -> Option<&'static str> {
        if row.action == "GRANT_WITHDRAW" {
            let details: Value = serde_json::from_str(row.details.as_deref().unwrap()).unwrap();
            let known = self.grants.contains_key(details["grantId"].as_str().unwrap());
            return (!known).then_some("GrantNotFound");
        }
        let permission = match row.action.as_str() {
            "ENCRYPT" => "encrypt",
            "DECRYPT" => "decrypt",
            "KEY_ROTATE" => "rotate",
            "KEY_REVOKE" | "KEY_DISABLE" => "revoke",
            "KEY_ENABLE" => "manage",
            _ => return None,
        };
        if !self.may(row, permission) {
            return Some("AccessDenied");
        }
        let Some(key) = row.key_id.and_then(|id| self.keys.get(&id)) else { return Some("KeyNotFound") };
        let asked = row.key_version.unwrap_or(0);
        let version = key.versions.get(&asked).copied();
        if key.revoked && row.action != "KEY_REVOKE" {
            return Some("KeyRevoked");
        }
        match row.action.as_str() {
            "ENCRYPT" if key.disabled => Some("KeyDisabled"),
            "ENCRYPT" if key.current_revoked => Some("VersionRevoked"),
            "ENCRYPT" if version == Some(VersionState::Disabled) => Some("VersionDisabled"),
            "ENCRYPT" => (asked != key.current).then_some("superseded"),
            "DECRYPT" | "KEY_ROTATE" if key.disabled => Some("KeyDisabled"),
            "DECRYPT" if version == Some(VersionState::Revoked) => Some("VersionRevoked"),
            "DECRYPT" => version.is_none().then_some("VersionNotFound"),
            "KEY_ROTATE" => (asked != key.current + 1).then_some("superseded"),
            // Enabling a key whose current version was revoked never counts as a repeated request.
            "KEY_ENABLE" => (!key.disabled && key.current_revoked).then_some("WrongState"),
            "KEY_DISABLE" => None,
            "KEY_REVOKE" if row.key_version.is_none() => None,
            "KEY_REVOKE" => version.is_none().then_some("VersionNotFound"),
            _ => None,
        }
    }

    fn apply(&mut self, row: &AuditRecord) {
        let details: Value = serde_json::from_str(row.details.as_deref().unwrap_or("{}")).unwrap();
        match row.action.as_str() {
            "KEY_CREATE" => {
                let versions = HashMap::from([(1, VersionState::Enabled)]);
                self.keys.insert(row.key_id.unwrap(), ModelKey { current: 1, versions, ..ModelKey::default() });
            }
            "GRANT_CREATE" | "GRANT_UPDATE" => {
                let text = |name: &str| details[name].as_str().unwrap().to_owned();
                let operations = details["allowedOps"].as_array().unwrap();
                let operations = operations.iter().map(|o| o.as_str().unwrap().to_owned()).collect();
                let id = details["rows"][0][1].as_str().unwrap().to_owned();
                self.grants.insert(id, (text("principal"), text("scope"), operations));
            }
            "GRANT_WITHDRAW" => {
                self.grants.remove(details["grantId"].as_str().unwrap()).unwrap();
            }
            _ => {}
        }
        let Some(key) = row.key_id.and_then(|id| self.keys.get_mut(&id)) else { return };
        match (row.action.as_str(), row.key_version) {
            ("KEY_ROTATE", Some(version)) => {
                if let Some(VersionState::Enabled) = key.versions.get(&key.current) {
                    key.versions.insert(key.current, VersionState::Disabled);
                }
                key.versions.insert(version, VersionState::Enabled);
                key.current = version;
                key.current_revoked = false;
            }
            ("KEY_DISABLE", None) => key.disabled = true,
            ("KEY_ENABLE", None) => key.disabled = false,
            ("KEY_REVOKE", Some(version)) => {
                key.versions.insert(version, VersionState::Revoked);
                key.current_revoked |= version == key.current;
            }
            ("KEY_REVOKE", None) => {
                key.revoked = true;
                key.versions.values_mut().for_each(|state| *state = VersionState::Revoked);
            }
            _ => {}
        }
    }
}

type Sealed = Arc<Mutex<Vec<Vec<u8>>>>;

/// Performs one random operation; receipts of successes are compared with the log later.
async fn act(
    random: &mut StdRng,
    session: &Session,
    root: &Session,
    keys: &[KeyId],
    sealed: &Sealed,
) -> Option<(u64, u32)> {
    let key = keys[random.random_range(0..keys.len())];
    let none = Context::new();
    match random.random_range(0..40) {
        0..=17 => {
            let made = session.encrypt(key, b"x", &none).await.ok()?;
            sealed.lock().unwrap().push(made.ciphertext);
            Some((made.receipt.seq, made.version))
        }
        18..=29 => {
            let blob = {
                let sealed = sealed.lock().unwrap();
                let count = sealed.len();
                (count > 0).then(|| sealed[random.random_range(0..count)].clone())?
            };
            let opened = session.decrypt(&blob, &none).await.ok()?;
            Some((opened.receipt.seq, opened.version))
        }
        30 | 31 => session.rotate_key(key, None).await.map(|_| None).ok()?,
        32 => root.disable_key(key).await.map(|_| None).ok()?,
        33 | 34 => root.enable_key(key).await.map(|_| None).ok()?,
        35 => session.revoke_version(key, random.random_range(1..6)).await.map(|_| None).ok()?,
        36 if random.random_ratio(1, 10) => session.revoke_key(key).await.map(|_| None).ok()?,
        37 => {
            let grants = root.list_grants(&GrantFilter::new(), &Paging::new(10)).await.unwrap().items;
            let grant = grants.first()?;
            root.revoke_grant(grant.id).await.map(|()| None).ok()?
        }
        _ => {
            let principal = ["app-1", "app-2"][random.random_range(0..2)];
            let grant = NewGrant::new(principal, Role::App);
            let grant = if random.random() { grant.on_all_keys() } else { grant.on_key(key) };
            let permissions: Vec<Permission> =
                [Permission::Encrypt, Permission::Decrypt, Permission::Rotate, Permission::Revoke]
                    .into_iter()
                    .filter(|_| random.random())
                    .collect();
            if permissions.is_empty() {
                return None;
            }
            root.put_grant(grant.allow(permissions)).await.map(|_| None).ok()?
        }
    }
}

async fn history(seed: u64) {
    let place = Place::new();
    let ack = if seed.is_multiple_of(3) && place.is_a_file() { AuditAck::Queued } else { AuditAck::Durable };
    let kms = Kms::open(place.config().audit_ack(ack)).await.unwrap();
    let root = admin(&kms);
    let mut keys = Vec::new();
    for i in 0..3 {
        keys.push(root.create_key(NewKey::aes(format!("key-{i}"))).await.unwrap().id);
    }
    let sealed = Sealed::default();
    let tasks: Vec<_> = (0..8u64)
        .map(|task| {
            let session = match task % 4 {
                0 => kms.session(actor("app-1", Role::App)),
                1 => kms.session(actor("app-2", Role::App)),
                _ => kms.session(actor("boss", Role::Admin)),
            };
            let (root, keys, sealed) = (root.clone(), keys.clone(), Arc::clone(&sealed));
            tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(seed * 100 + task);
                let mut receipts = Vec::new();
                for _ in 0..60 {
                    receipts.extend(act(&mut random, &session, &root, &keys, &sealed).await);
                }
                receipts
            })
        })
        .collect();
    let mut receipts = Vec::new();
    for task in tasks {
        receipts.extend(task.await.unwrap());
    }
    kms.close().await.unwrap();

    let kms = place.open().await;
    let root = admin(&kms);
    let report = root.verify_audit().await.unwrap();
    assert!(report.ok, "seed {seed}: {:?}", report.faults);
    let rows = whole_log(&root).await;
    let mut model = Model::default();
    for row in &rows {
        let refusal = model.refusal(row);
        if row.status == "SUCCESS" {
            assert_eq!(refusal, None, "seed {seed}, record {}: succeeded, but must not\n{row:?}", row.seq);
            model.apply(row);
        } else {
            let details: Value = serde_json::from_str(row.details.as_deref().unwrap()).unwrap();
            // Denials in a flood are only counted, so the log does not show when each was made.
            if details["count"].is_null() && row.key_id.is_some() {
                assert_eq!(refusal, details["error"].as_str(), "seed {seed}, record {}\n{row:?}", row.seq);
            }
        }
    }
    // Compares the receipts with the log, except those of results released before they had a sequence number.
    for (seq, version) in receipts.into_iter().filter(|(seq, _)| *seq > 0) {
        let row = &rows[usize::try_from(seq - 1).unwrap()];
        assert_eq!((row.seq, row.status.as_str(), row.key_version), (seq, "SUCCESS", Some(version)));
    }
    for id in keys {
        let key = root.get_key(id).await.unwrap();
        let expected = &model.keys[&id];
        assert_eq!(key.current_version, expected.current);
        assert_eq!(key.state == KeyState::Revoked, expected.revoked);
        assert_eq!(
            key.state == KeyState::Enabled,
            !expected.revoked && !expected.disabled && !expected.current_revoked
        );
        for version in key.versions.unwrap() {
            assert_eq!(version.state, expected.versions[&version.version], "seed {seed}: {version:?}");
        }
    }
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn histories_agree_with_the_model() {
    let full = std::env::var("KMS_TEST_MODE").is_ok_and(|mode| mode == "full");
    let mut seeds = 1..=if full { 10_000 } else { 25 };
    // Runs several histories concurrently, because each waits for its disk now and then.
    let mut running = tokio::task::JoinSet::new();
    while running.len() < 4
        && let Some(seed) = seeds.next()
    {
        running.spawn(history(seed));
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
        if let Some(seed) = seeds.next() {
            running.spawn(history(seed));
        }
    }
}
