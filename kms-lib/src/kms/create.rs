//! Creating a new store: the root key's check value, the service's own keys, the first record and the head.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::audit::tree::Frontier;
use crate::catalog::change_row;
use crate::crypto::provider::{Ed25519, Provider};
use crate::envelope::{
    self, Binding, Envelope, INTEGRITY_KEY_BYTES, NewRootKey, RootKeySource, RowSet, Seals, connect_new,
    service_fingerprint,
};
use crate::ledger::{Details, Draft, HeadKeys, changed_rows, wrapping_seals};
use crate::storage::Connection;
use crate::storage::tables::entities::{self, RowSeals};
use crate::storage::tables::secrets::ServiceKeyRow;
use crate::storage::tables::{audit, head};
use crate::types::actor::Actor;
use crate::types::audit::{Action, Head, Status};
use crate::types::change::Change;
use crate::types::error::Result;
use crate::types::ids::{LogId, RootKeyId, ServiceKeyId};
use crate::types::root_key::{RootKeyGeneration, RootKeyState, ServiceKey, ServiceKeyKind, ServiceKeyState};
use crate::types::tallies::Tallies;
use crate::types::time::Timestamp;

/// Creates the log and the service's own keys in one transaction, unless another process was first.
pub(super) async fn create(
    connection: &mut dyn Connection,
    source: &RootKeySource,
    provider: &Arc<dyn Provider>,
    now: Timestamp,
) -> Result<()> {
    let new = connect_new(source, 1, provider).await?;
    let root = first_generation(&new, now).await?;
    let envelope = Envelope::new(Arc::clone(provider), root.clone(), new.key);
    let log = LogId::random();
    let integrity = new_integrity_key(log, &envelope, provider).await?;
    let signing = new_signing_key(log, &envelope, provider).await?;
    let new = NewStore { log, root, integrity, signing };
    connection.begin_write().await?;
    let made = match head::read(connection).await {
        Ok(None) => create_locked(connection, &new, provider, now).await,
        Ok(Some(_)) => Ok(()),
        Err(error) => Err(error),
    };
    match made {
        Ok(()) => connection.commit().await,
        Err(error) => {
            connection.rollback().await?;
            Err(error)
        }
    }
}

/// The first rows of a new store. They are made before the transaction, since the root key provider may be remote.
struct NewStore {
    log: LogId,
    root: RootKeyGeneration,
    integrity: (ServiceKeyRow, Zeroizing<[u8; INTEGRITY_KEY_BYTES]>),
    signing: (ServiceKeyRow, Zeroizing<[u8; 32]>),
}

/// The row of the first root key generation, which the first record covers.
async fn first_generation(new: &NewRootKey, now: Timestamp) -> Result<RootKeyGeneration> {
    Ok(RootKeyGeneration {
        id: RootKeyId::random(),
        generation: new.key.generation(),
        provider: new.provider,
        reference: new.reference.clone(),
        derivation: new.derivation.clone(),
        salt: new.salt.map(Vec::from),
        check_value: envelope::make_check_value(new.key.as_ref()).await?,
        state: RootKeyState::Active,
        compromised_at: None,
        closed_seq: None,
        created_at: now,
        retired_at: None,
        revision: 1,
    })
}

/// Generates the first integrity key. Returns its wrapped row and the key itself.
async fn new_integrity_key(
    log: LogId,
    envelope: &Envelope,
    provider: &Arc<dyn Provider>,
) -> Result<(ServiceKeyRow, Zeroizing<[u8; INTEGRITY_KEY_BYTES]>)> {
    let mut secret = Zeroizing::new([0; INTEGRITY_KEY_BYTES]);
    provider.random(secret.as_mut_slice())?;
    let kind = ServiceKeyKind::Integrity;
    let fingerprint = service_fingerprint(kind, log, 1, secret.as_slice())?;
    let wrapped = envelope.wrap(&Binding::IntegrityKey { log, number: 1 }, secret.as_slice()).await?;
    Ok((ServiceKeyRow { key: first_of(kind, None, fingerprint), wrapped }, secret))
}

/// Generates the first signing key of the log. Returns its wrapped row and the key itself.
async fn new_signing_key(
    log: LogId,
    envelope: &Envelope,
    provider: &Arc<dyn Provider>,
) -> Result<(ServiceKeyRow, Zeroizing<[u8; 32]>)> {
    let mut secret = Zeroizing::new([0; 32]);
    provider.random(secret.as_mut_slice())?;
    let kind = ServiceKeyKind::Signing;
    let public_key = provider.ed25519(&secret)?.public_key();
    let fingerprint = service_fingerprint(kind, log, 1, secret.as_slice())?;
    let wrapped = envelope.wrap(&Binding::SigningKey { log, number: 1 }, secret.as_slice()).await?;
    Ok((ServiceKeyRow { key: first_of(kind, Some(public_key), fingerprint), wrapped }, secret))
}

/// The row of the first service key of this kind.
fn first_of(kind: ServiceKeyKind, public_key: Option<[u8; 32]>, fingerprint: [u8; 32]) -> ServiceKey {
    ServiceKey {
        id: ServiceKeyId::random(),
        kind,
        number: 1,
        public_key,
        fingerprint,
        first_seq: 1,
        state: ServiceKeyState::Current,
        revision: 1,
    }
}

async fn create_locked(
    connection: &mut dyn Connection,
    new: &NewStore,
    provider: &Arc<dyn Provider>,
    now: Timestamp,
) -> Result<()> {
    let seals = Seals::new(1, &new.integrity.1)?;
    let mut changes = vec![Change::InsertRootKey(new.root.clone())];
    for ServiceKeyRow { key, wrapped } in [&new.integrity.0, &new.signing.0] {
        changes.push(Change::InsertServiceKey(key.clone(), wrapped.clone()));
    }
    let mut rows = RowSet::default();
    for change in &changes {
        let row = change_row(change)?;
        rows.toggle(&seals, &row);
        let wrappings = match change {
            Change::InsertServiceKey(key, wrapped) => {
                wrapping_seals(&seals, *key.id.as_bytes(), &key.fingerprint, wrapped)
            }
            _ => Vec::new(),
        };
        entities::write(connection, change.clone(), RowSeals { row: seals.seal(&row), wrappings }).await?;
    }
    let commitment = seals.commitment(new.root.revision, &rows);
    let key: Arc<dyn Ed25519> = Arc::from(provider.ed25519(&new.signing.1)?);
    let keys = HeadKeys::first(new.log, key, Arc::clone(provider))?;
    first_record(connection, new.log, now, &keys, &changes, commitment).await
}

/// The first record of the log: it records the creation of the store and names the signing key.
async fn first_record(
    connection: &mut dyn Connection,
    log: LogId,
    now: Timestamp,
    keys: &HeadKeys,
    changes: &[Change],
    rows: [u8; 32],
) -> Result<()> {
    let mut details = Details::default();
    details.text("verifierKey", &keys.verifier_key()).raw("rows", changed_rows(changes)?);
    let draft = Draft {
        actor: Actor::internal("system"),
        action: Action::StoreCreate,
        key_id: None,
        key_version: None,
        details,
    };
    let prev_hash = [0; 32];
    let rendered = draft.render(Status::Success);
    let hash = crate::audit::record::record_hash(log, 1, now, &prev_hash, rendered.digest());
    let record = audit::NewRecord {
        seq: 1,
        timestamp: now,
        actor: (draft.actor.principal().to_owned(), draft.actor.role().as_str()),
        action: draft.action,
        status: Status::Success,
        request_id: None,
        key_id: None,
        key_version: None,
        details: rendered.details().to_owned(),
        hash,
    };
    let mut tree = Frontier::new();
    tree.push(hash);
    let mut head = Head {
        log_id: log,
        seq: 1,
        hash,
        timestamp: now,
        revision: 1,
        frontier: tree.roots().to_vec(),
        checkpoint: String::new(),
        tallies: Tallies::default(),
        indexed: 0,
    };
    head.tallies.add(now.hour(), draft.action.as_str(), Status::Success.as_str(), 1);
    keys.sign(&mut head, Some(rows))?;
    connection.execute_all(audit::insert(vec![record])).await?;
    head::insert(connection, &head).await
}
