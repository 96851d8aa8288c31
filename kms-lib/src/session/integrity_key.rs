//! Replacing the integrity key, and resealing rows.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use zeroize::Zeroizing;

use super::Session;
use super::change::{Changed, REDO, overtaken};
use super::root_key_targets::Target;
use crate::audit::recorded::Recorded;
use crate::catalog::{Snapshot, Trust};
use crate::envelope::{Binding, INTEGRITY_KEY_BYTES, Seals, row, service_fingerprint};
use crate::ledger::Details;
use crate::lifecycle::{CheckedWrapping, Command, NewIntegrityKey, ResealedRow, Resealing};
use crate::storage::tables::entities;
use crate::storage::tables::sealed::Sealed;
use crate::storage::tables::{root_keys, secrets, wrappings};
use crate::storage::{Connection, StoreFuture};
use crate::types::audit::Action;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::ServiceKeyId;
use crate::types::root_key::{ServiceKeyKind, ServiceKeyState};
use crate::types::view::current_service_key;
use crate::verification::Verifier;

/// The number of rows that are resealed in one transaction.
const PAGE: usize = 500;
/// The message when the rows in memory are not those that the log recorded.
const UNRECORDED: &str = "the rows in memory do not match the log; verify the log and repair the rows that it names; \
                          if it names none, close the service and open it again";

/// The result of replacing the integrity key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct IntegrityKeyReplacement {
    /// The number of the current integrity key, counted from 1.
    pub number: u32,
    /// The number of rows and wrappings that this call resealed.
    pub resealed: u64,
    /// The number of wrappings whose seals were invalid before. They stay unsealed; a verification of the log names
    /// them.
    pub left: u64,
}

impl Session {
    /// Replaces the integrity key and reseals every row under the new one. The service continues meanwhile, and other
    /// nodes follow. For admins.
    ///
    /// First the whole log is verified: `IntegrityFailure` unless all rows match the log, except those in quarantine.
    /// After the replacement, a row that the former key sealed is accepted only if it was written before it and is
    /// covered by the row commitment, which is under the new key at once. The former key is erased at the end. The
    /// scheduler completes a call that was interrupted; so does another call, which then creates no further key.
    ///
    /// Marks of verified wrappings are withdrawn, since an attacker with the former key could forge them
    /// ([`Session::verify_root_key`]). Requests repeated with idempotency keys from before the replacement fail with
    /// `IdempotencyConflict` until these expire. Contexts keep their HMACs.
    ///
    /// Cancellation: dropping the future ends the job; submitted pages are kept, and another call continues.
    pub async fn replace_integrity_key(&self) -> Result<IntegrityKeyReplacement> {
        self.permit_changing(Action::IntegrityKeyReplace).await?;
        if !self.is_resealing() {
            match self.require_sound_rows().await {
                Ok(recorded) => self.commit_integrity_key(recorded).await?,
                Err(error) => return Err(self.refuse(Action::IntegrityKeyReplace, Details::default(), error).await),
            }
        }
        self.reseal().await
    }

    /// Completes a replacement that was interrupted.
    pub(crate) async fn finish_resealing(&self) -> Result<()> {
        let is_trusted = self.shared().catalog.snapshot().trust() == Trust::Verified;
        if is_trusted && self.is_resealing() { self.reseal().await.map(drop) } else { Ok(()) }
    }

    /// Whether some rows are still sealed by the previous integrity key.
    fn is_resealing(&self) -> bool {
        let snapshot = self.shared().catalog.snapshot();
        snapshot.service_keys().any(|key| key.state == ServiceKeyState::Resealing)
    }

    /// Verifies the whole log and compares the tables with it. Returns what the log records of all rows.
    pub(super) fn require_sound_rows<'a>(&'a self) -> StoreFuture<'a, Recorded> {
        Box::pin(async move {
            let verifier = self.verifier();
            let comparing = verifier.compare_recorded_rows();
            match self.shared().turns.alone(self.actor().principal(), comparing).await? {
                None => Err(altered_log()),
                Some((found, _)) if found.is_beyond_quarantine || !found.altered.is_empty() => {
                    let text = "rows of the store were altered; close the service and open it again to quarantine them";
                    Err(Error::new(ErrorCode::IntegrityFailure, text))
                }
                Some((_, recorded)) => Ok(recorded),
            }
        })
    }

    fn verifier(&self) -> Verifier<'_> {
        let shared = self.shared();
        let (store, catalog, signer) = (&shared.store, &shared.catalog, &shared.signer);
        Verifier { store, catalog, signer, workers: &shared.workers, kept: None }
    }

    /// Creates a new key; from the commit on, everything is sealed under it. At the commit the rows in memory are
    /// compared with the log once more, since this process may use rows that are no longer in the tables.
    pub(super) fn commit_integrity_key<'a>(&'a self, recorded: Recorded) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let admission = self.admit_change()?;
            let (mut recorded, mut retry) = (Arc::new(recorded), None);
            for _ in 0..=REDO {
                let mut intent = self.root_key_intent(Action::IntegrityKeyReplace, Details::default());
                let prepared = async {
                    let present = self.verifier().go_on(Arc::unwrap_or_clone(recorded)).await?;
                    self.generate_integrity_key(Arc::new(present.ok_or_else(altered_log)?)).await
                };
                let new = match prepared.await {
                    Ok(new) => new,
                    Err(error) => return Err(self.fail(&admission, &intent, error).await),
                };
                recorded = Arc::clone(&new.recorded);
                intent.details.number("number", new.number.into());
                let (decision, revision) = self.decide(&intent.attempt);
                let command = Some(Command::ReplaceIntegrityKey(Box::new(new)));
                match self.commit(&admission, &intent, decision, revision, command, retry.take()).await {
                    Ok(Changed::Done(..)) => return Ok(()),
                    Ok(Changed::Redo(slot)) => retry = slot,
                    Err(error) if error.code() == ErrorCode::IntegrityFailure => {
                        return Err(error.with_message(UNRECORDED));
                    }
                    Err(error) => return Err(error),
                }
            }
            Err(overtaken())
        })
    }

    /// Generates a new integrity key and wraps it. The half of the key that computes the HMACs of contexts is kept.
    async fn generate_integrity_key(&self, recorded: Arc<Recorded>) -> Result<NewIntegrityKey> {
        let shared = self.shared();
        let target = self.integrity_target().await?;
        let Binding::IntegrityKey { log, number } = target.binding else { return Err(no_integrity_key()) };
        let present = shared.envelope.unwrap(&target.binding, &target.wrapped).await?;
        target.check(&present)?;
        let mut secret = Zeroizing::new([0; INTEGRITY_KEY_BYTES]);
        let (rows, contexts) = secret.split_at_mut(INTEGRITY_KEY_BYTES / 2);
        shared.provider.random(rows)?;
        contexts.copy_from_slice(present.get(INTEGRITY_KEY_BYTES / 2..).unwrap_or_default());
        let number = number + 1;
        let wrapped = shared.envelope.wrap(&Binding::IntegrityKey { log, number }, secret.as_slice()).await?;
        let fingerprint = service_fingerprint(ServiceKeyKind::Integrity, log, number, secret.as_slice())?;
        let seals = Seals::new(number, &secret)?;
        Ok(NewIntegrityKey { number, id: ServiceKeyId::random(), wrapped, fingerprint, seals, recorded })
    }

    async fn integrity_target(&self) -> Result<Target> {
        let targets = self.service_targets().await?;
        let current = current_service_key(&*self.shared().catalog.snapshot(), ServiceKeyKind::Integrity);
        let id = current.map(|key| *key.id.as_bytes());
        targets.into_iter().find(|target| Some(target.of.subject()) == id).ok_or_else(no_integrity_key)
    }

    /// Reseals, page by page, everything that the former key sealed, and erases the former key.
    fn reseal<'a>(&'a self) -> StoreFuture<'a, IntegrityKeyReplacement> {
        Box::pin(async move {
            self.shared().catalog.ensure_fresh().await?;
            let seals = self.shared().catalog.seals();
            let mut report = IntegrityKeyReplacement { number: seals.number(), ..IntegrityKeyReplacement::default() };
            let rows = self.stale_rows(&seals).await?;
            for page in rows.chunks(PAGE) {
                let command = Command::Reseal(Resealing { number: seals.number(), rows: page.to_vec() });
                report.resealed += self.reseal_page(page.len(), command).await?;
            }
            let (wrappings, left) = self.stale_wrappings(&seals).await?;
            report.left = left;
            for page in wrappings.chunks(PAGE) {
                report.resealed += self.reseal_page(page.len(), Command::MarkVerified(page.to_vec())).await?;
            }
            let mut details = Details::default();
            details.number("number", u64::from(seals.number()).saturating_sub(1));
            let intent = self.root_key_intent(Action::IntegrityKeyErase, details);
            self.change(intent, Command::EndResealing(seals.number())).await?;
            Ok(report)
        })
    }

    async fn reseal_page(&self, count: usize, command: Command) -> Result<u64> {
        let mut details = Details::default();
        details.number("rows", count as u64);
        let intent = self.root_key_intent(Action::RowsReseal, details);
        self.change(intent, command).await.map(|_| count as u64)
    }

    /// Returns the rows that the former key sealed and that match those covered by the row commitment.
    async fn stale_rows(&self, seals: &Seals) -> Result<Vec<ResealedRow>> {
        let mut connection = self.shared().store.long_reader().await?;
        let stored = stored_rows(connection.as_mut()).await?;
        drop(connection);
        let committed = committed_rows(&self.shared().catalog.snapshot());
        let mut rows = Vec::new();
        for StoredRow { table, id, bytes, revision, seal } in stored {
            if seals.is_stale(&bytes, &seal, revision) && committed.get(&(table, id)) == Some(&bytes) {
                rows.push(ResealedRow { table, id, former: seal, seal: seals.seal(&bytes) });
            }
        }
        Ok(rows)
    }

    /// Returns the wrappings that the former key sealed, as they are to be marked, and how many have no valid seal at
    /// all.
    async fn stale_wrappings(&self, seals: &Seals) -> Result<(Vec<CheckedWrapping>, u64)> {
        let fingerprints: HashMap<[u8; 16], [u8; 32]> = {
            let snapshot = self.shared().catalog.snapshot();
            let of_versions = snapshot.versions().map(|version| (*version.id.as_bytes(), version.fingerprint));
            let of_service = snapshot.service_keys().map(|key| (*key.id.as_bytes(), key.fingerprint));
            of_versions.chain(of_service).collect()
        };
        let mut connection = self.shared().store.long_reader().await?;
        let (stored, unreadable) = wrappings::all(connection.as_mut()).await?;
        drop(connection);
        let (mut stale, mut left) = (Vec::new(), unreadable);
        for (stored, seal) in stored {
            let Some(fingerprint) = fingerprints.get(&stored.subject).copied() else {
                left += 1;
                continue;
            };
            let bytes = row::wrapping(&stored, &fingerprint);
            // A wrapping names no record, so it counts as written before the replacement.
            if seals.is_stale(&bytes, &seal, 0) {
                stale.push(CheckedWrapping { stored, seal, fingerprint, opens: false });
            } else if !seals.is_sealed(&bytes, &seal) {
                left += 1;
            }
        }
        Ok((stale, left))
    }
}

fn altered_log() -> Error {
    let text = "the log was altered, so it cannot show which rows are genuine; verify it, and restore a backup";
    Error::new(ErrorCode::IntegrityFailure, text)
}

fn no_integrity_key() -> Error {
    Error::new(ErrorCode::StoreCorrupt, "the integrity key is missing; restore a backup")
}

/// A row as it is stored in the database.
struct StoredRow {
    table: &'static str,
    id: [u8; 16],
    bytes: Vec<u8>,
    revision: u64,
    seal: Vec<u8>,
}

/// Reads all rows that the row commitment may cover.
async fn stored_rows(connection: &mut dyn Connection) -> Result<Vec<StoredRow>> {
    let mut rows = Vec::new();
    let keys = entities::keys_since(connection, None).await?;
    collect(&mut rows, "keys", keys, |key| (*key.id.as_bytes(), Ok(row::key(key)), key.revision));
    let versions = entities::versions_since(connection, None).await?;
    collect(&mut rows, "key_versions", versions, |version| {
        (*version.id.as_bytes(), Ok(row::version(version)), version.revision)
    });
    let grants = entities::grants_since(connection, None).await?;
    collect(&mut rows, "grants", grants, |grant| (*grant.id.as_bytes(), row::grant(grant), grant.revision));
    let credentials = entities::credentials_since(connection, None).await?;
    collect(&mut rows, "credentials", credentials, |credential| {
        (*credential.id.as_bytes(), Ok(row::credential(credential)), credential.revision)
    });
    let entries = entities::quarantined_since(connection, None).await?;
    collect(&mut rows, "quarantine", entries, |entry| {
        (*entry.id.as_bytes(), Ok(row::quarantined(entry)), entry.revision)
    });
    let generations = root_keys::since(connection, None).await?;
    collect(&mut rows, "root_keys", generations, |root| (*root.id.as_bytes(), Ok(row::root_key(root)), root.revision));
    let service_keys = secrets::since(connection, None).await?;
    collect(&mut rows, "service_keys", service_keys, |key| {
        (*key.id.as_bytes(), Ok(row::service_key(key)), key.revision)
    });
    Ok(rows)
}

fn collect<T>(
    rows: &mut Vec<StoredRow>,
    table: &'static str,
    found: Vec<Sealed<T>>,
    describe: impl Fn(&T) -> ([u8; 16], Result<Vec<u8>>, u64),
) {
    rows.extend(found.into_iter().filter_map(|sealed| {
        let (id, bytes, revision) = describe(&sealed.row.ok()?);
        Some(StoredRow { table, id, bytes: bytes.ok()?, revision, seal: sealed.seal })
    }));
}

/// Returns the rows of the snapshot, which the row commitment covers.
fn committed_rows(snapshot: &Snapshot) -> HashMap<(&'static str, [u8; 16]), Vec<u8>> {
    let mut rows = HashMap::new();
    snapshot.each_row(&mut |table, id, bytes| {
        rows.insert((table, id), bytes);
    });
    rows
}
