//! Making what a new store needs: the root key's check value, the service's own keys, the first record and the head.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::audit::tree::Frontier;
use crate::catalog::run_blocking;
use crate::crypto::provider::{Ed25519, Provider};
use crate::envelope::{self, Binding, Derivation, LocalRootKey, RootKey, RootKeySource, RowSet, Seals};
use crate::ledger::{Details, Draft, HeadKeys};
use crate::storage::Connection;
use crate::storage::tables::secrets::{self, RootKeyRow, ServiceKeyRow};
use crate::storage::tables::{audit, head, usage};
use crate::types::actor::Actor;
use crate::types::audit::{Action, AuditRow, Head, Status};
use crate::types::error::Result;
use crate::types::ids::{LogId, RecordId};
use crate::types::time::Timestamp;

/// The root key that the source gives.
pub(super) async fn derive(
    source: &RootKeySource,
    derivation: Derivation,
    generation: u32,
    provider: &Arc<dyn Provider>,
) -> Result<Arc<dyn RootKey>> {
    let (source, provider) = (source.clone(), Arc::clone(provider));
    // A passphrase costs a tenth of a second of work.
    run_blocking(move || {
        let root: Arc<dyn RootKey> = Arc::new(LocalRootKey::new(provider, &source, &derivation, generation)?);
        Ok(root)
    })
    .await
}

/// Makes the log and the service's own keys, in one transaction, unless another process was first.
pub(super) async fn create(
    connection: &mut dyn Connection,
    source: &RootKeySource,
    provider: &Arc<dyn Provider>,
    now: Timestamp,
) -> Result<()> {
    let mut salt = [0; 16];
    provider.random(&mut salt)?;
    let derivation = Derivation::for_new(source, salt);
    let root = derive(source, derivation.clone(), 1, provider).await?;
    connection.begin_write().await?;
    let made = match head::read(connection).await {
        Ok(None) => create_locked(connection, &root, &derivation, provider, now).await,
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

async fn create_locked(
    connection: &mut dyn Connection,
    root: &Arc<dyn RootKey>,
    derivation: &Derivation,
    provider: &Arc<dyn Provider>,
    now: Timestamp,
) -> Result<()> {
    let log = LogId::random();
    let (text, salt) = derivation.to_stored();
    let row = RootKeyRow {
        generation: root.generation(),
        provider: "local".into(),
        derivation: text,
        salt: salt.map(Vec::from),
        check_value: envelope::make_check_value(root.as_ref()).await?,
        created_at: now,
    };
    secrets::insert_root_key(connection, &row).await?;
    let mut secret = Zeroizing::new([0; 32]);
    provider.random(secret.as_mut_slice())?;
    let integrity = ServiceKeyRow {
        kind: secrets::INTEGRITY.into(),
        number: 1,
        public_key: None,
        wrapped: root.wrap(&Binding::IntegrityKey { log }, secret.as_slice()).await?,
        first_seq: 1,
    };
    secrets::insert_service_key(connection, &integrity).await?;
    let no_rows = Seals::new(&secret)?.commitment(0, &RowSet::default());
    provider.random(secret.as_mut_slice())?;
    let key: Arc<dyn Ed25519> = Arc::from(provider.ed25519(&secret)?);
    let signing = ServiceKeyRow {
        kind: secrets::SIGNING.into(),
        number: 1,
        public_key: Some(key.public_key()),
        wrapped: root.wrap(&Binding::SigningKey { log, number: 1 }, secret.as_slice()).await?,
        first_seq: 1,
    };
    secrets::insert_service_key(connection, &signing).await?;
    let keys = HeadKeys::first(log, key, Arc::clone(provider))?;
    first_record(connection, log, now, &keys, no_rows).await
}

/// The log begins with the record of its making, which names the key that signs it.
async fn first_record(
    connection: &mut dyn Connection,
    log: LogId,
    now: Timestamp,
    keys: &HeadKeys,
    no_rows: [u8; 32],
) -> Result<()> {
    let mut details = Details::default();
    details.text("verifierKey", &keys.verifier_key());
    let draft = Draft {
        id: RecordId::random(),
        actor: Actor::internal("system"),
        action: Action::StoreCreate,
        key_id: None,
        key_version: None,
        details,
    };
    let prev_hash = [0; 32];
    let rendered = draft.render(Status::Success);
    let hash = crate::audit::record::record_hash(log, 1, now, &prev_hash, rendered.digest());
    let record = AuditRow {
        seq: 1,
        id: draft.id,
        timestamp: now,
        actor: draft.actor.principal().into(),
        role: draft.actor.role().as_str().into(),
        action: draft.action.as_str().into(),
        status: Status::Success.as_str().into(),
        request_id: None,
        key_id: None,
        key_version: None,
        details: Some(rendered.details().to_owned()),
        prev_hash,
        hash,
        format: crate::audit::record::FORMAT,
    };
    let mut tree = Frontier::new();
    tree.push(hash);
    let mut head = Head {
        log_id: log,
        seq: 1,
        hash,
        timestamp: now,
        revision: 0,
        frontier: tree.roots().to_vec(),
        checkpoint: String::new(),
    };
    keys.sign(&mut head, Some(no_rows))?;
    let mut statements = audit::insert(vec![record]);
    let count = (now.hour(), draft.action.as_str(), Status::Success.as_str(), 1);
    statements.extend(usage::count_up(connection.dialect(), [count]));
    connection.execute_all(statements).await?;
    head::insert(connection, &head).await
}
