//! Everything that is wrapped under root keys: the material of versions, and the service's own keys.

use std::collections::HashMap;

use zeroize::Zeroizing;

use super::Session;
use super::change::{REDO, overtaken};
use crate::envelope::row;
use crate::envelope::{Binding, fingerprint, service_fingerprint};
use crate::lifecycle::{NewWrapping, Wrapping};
use crate::storage::tables::head;
use crate::storage::tables::secrets::{self, ServiceKeyRow};
use crate::storage::tables::wrappings::{self, WrappingRow};
use crate::types::audit::Head;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::LogId;
use crate::types::key::KeyType;
use crate::types::root_key::{ServiceKey, ServiceKeyKind, Wrapped};
use crate::types::view::{CatalogView, has_material};

/// A version or service key with wrapped material.
#[derive(Clone)]
pub(super) struct Target {
    pub of: Wrapping,
    pub binding: Binding,
    pub fingerprint: [u8; 32],
    /// The wrappings, as far as they were read.
    pub wrapped: Vec<Wrapped>,
}

impl Target {
    /// Fails unless the unwrapped material matches the target's fingerprint.
    pub fn check(&self, material: &[u8]) -> Result<()> {
        let found = match &self.binding {
            Binding::Version { key, version, key_type } => fingerprint(*key, *version, *key_type, material)?,
            Binding::IntegrityKey { log, number } => {
                service_fingerprint(ServiceKeyKind::Integrity, *log, *number, material)?
            }
            Binding::SigningKey { log, number } => {
                service_fingerprint(ServiceKeyKind::Signing, *log, *number, material)?
            }
            Binding::CheckValue => return Err(Error::new(ErrorCode::Internal, "a check value has no fingerprint")),
        };
        if found == self.fingerprint {
            return Ok(());
        }
        Err(Error::new(ErrorCode::IntegrityFailure, "the material in the wrapping does not match its fingerprint"))
    }

    /// Creates a row for a new wrapping of the material.
    pub fn wrapping(&self, generation: u32, bytes: Vec<u8>) -> NewWrapping {
        NewWrapping { subject: self.of, fingerprint: self.fingerprint, wrapped: Wrapped { generation, bytes } }
    }
}

/// A wrapping as it was read from the store.
pub(super) struct FoundWrapping {
    pub row: WrappingRow,
    /// Whether the wrapping matched its seal when it was read.
    pub is_sealed: bool,
}

impl Session {
    /// Returns everything that has material, the service's own keys first.
    pub(super) async fn targets(&self) -> Result<Vec<Target>> {
        self.shared().catalog.ensure_fresh().await?;
        let mut targets = self.service_targets().await?;
        let snapshot = self.shared().catalog.snapshot();
        let mut versions: Vec<_> = snapshot.versions().filter(|version| has_material(&*snapshot, version)).collect();
        versions.sort_unstable_by_key(|version| version.id);
        targets.extend(versions.into_iter().map(|version| {
            // If the key's row is in quarantine, its type is not known, and its wrappings cannot be opened.
            let key_type = snapshot.key(version.key_id).map_or(KeyType::Aes256Gcm, |key| key.key_type);
            Target {
                of: Wrapping::Version(version.key_id, version.version, version.id),
                binding: Binding::Version { key: version.key_id, version: version.version, key_type },
                fingerprint: version.fingerprint,
                wrapped: Vec::new(),
            }
        }));
        Ok(targets)
    }

    /// Returns the service's own keys that have material, with their wrappings.
    pub(super) async fn service_targets(&self) -> Result<Vec<Target>> {
        for _ in 0..=REDO {
            self.shared().catalog.ensure_fresh().await?;
            let (keys, revision) = {
                let snapshot = self.shared().catalog.snapshot();
                let in_use = snapshot.service_keys().filter(|key| key.has_material());
                (in_use.map(|key| (key.id, key.clone())).collect::<HashMap<_, _>>(), snapshot.revision())
            };
            let (head, rows) = self.stored_service_keys().await?;
            // Otherwise a key may have been replaced in between, and its wrappings erased.
            if head.revision == revision {
                // Only the wrappings of these rows are used; the keys themselves come from the catalog, whose seals are
                // verified.
                let in_use = rows.into_iter().filter_map(|row| Some((keys.get(&row.key.id)?, row.wrapped)));
                return Ok(in_use.map(|(key, wrapped)| service_target(key, wrapped, head.log_id)).collect());
            }
        }
        Err(overtaken())
    }

    /// Reads the head and the service's own keys at one moment.
    async fn stored_service_keys(&self) -> Result<(Head, Vec<ServiceKeyRow>)> {
        let mut connection = self.shared().store.reader().await?;
        connection.begin_read().await?;
        let head = head::require(connection.as_mut()).await;
        let rows = secrets::service_keys(connection.as_mut()).await;
        connection.rollback().await?;
        Ok((head?, rows?))
    }

    /// Reads the wrappings of these materials, by subject, and checks each against its seal.
    pub(super) async fn rows_of(&self, page: &[Target]) -> Result<HashMap<[u8; 16], Vec<FoundWrapping>>> {
        let fingerprints: HashMap<[u8; 16], [u8; 32]> =
            page.iter().map(|target| (target.of.subject(), target.fingerprint)).collect();
        let subjects: Vec<[u8; 16]> = page.iter().map(|target| target.of.subject()).collect();
        let catalog = &self.shared().catalog;
        for _ in 0..=REDO {
            let mut connection = self.shared().store.reader().await?;
            let found = wrappings::of_subjects(connection.as_mut(), &subjects).await?;
            if !catalog.has_newest_seals(connection.as_mut()).await? {
                drop(connection);
                catalog.catch_up_seals().await?;
                continue;
            }
            let seals = catalog.seals();
            let mut rows: HashMap<[u8; 16], Vec<FoundWrapping>> = HashMap::new();
            for row in found {
                let fingerprint = fingerprints.get(&row.stored.subject).copied().unwrap_or_default();
                let is_sealed = seals.is_sealed(&row::wrapping(&row.stored, &fingerprint), &row.seal);
                rows.entry(row.stored.subject).or_default().push(FoundWrapping { row, is_sealed });
            }
            return Ok(rows);
        }
        Err(overtaken())
    }

    /// Opens a material by one of its wrappings with a valid seal and compares it with the fingerprint. If none has a
    /// valid seal, the fingerprint alone decides: seals of quarantined material are lost when the integrity key is
    /// replaced.
    pub(super) async fn open(&self, target: &Target, present: &[FoundWrapping]) -> Result<Zeroizing<Vec<u8>>> {
        let (good, others): (Vec<&FoundWrapping>, Vec<&FoundWrapping>) =
            present.iter().partition(|found| found.is_sealed);
        let used = if good.is_empty() { others } else { good };
        if used.is_empty() {
            return Err(Error::new(ErrorCode::IntegrityFailure, "the material has no wrapping"));
        }
        let wrapped: Vec<Wrapped> = used.into_iter().map(|found| found.row.wrapped()).collect();
        let plaintext = self.shared().envelope.unwrap(&target.binding, &wrapped).await?;
        target.check(&plaintext)?;
        Ok(plaintext)
    }

    /// Whether the material has been erased since it was listed.
    pub(super) fn is_gone(&self, target: &Target) -> bool {
        let snapshot = self.shared().catalog.snapshot();
        match target.of {
            Wrapping::Version(key, number, _) => {
                snapshot.version(key, number).is_none_or(|version| !has_material(&*snapshot, version))
            }
            Wrapping::Service(_, _, id) => !snapshot.service_keys().any(|key| key.id == id && key.has_material()),
        }
    }

    /// The name of a material in reports.
    pub(super) fn name_of(&self, target: &Target) -> String {
        match target.of {
            Wrapping::Service(kind, number, _) => format!("{kind} key {number} of the service"),
            Wrapping::Version(key, version, _) => {
                let snapshot = self.shared().catalog.snapshot();
                let name = snapshot.key(key).map_or_else(|| key.to_string(), |key| key.name.clone());
                format!("{name} v{version}")
            }
        }
    }
}

fn service_target(key: &ServiceKey, wrapped: Vec<Wrapped>, log: LogId) -> Target {
    Target {
        of: Wrapping::Service(key.kind, key.number, key.id),
        binding: match key.kind {
            ServiceKeyKind::Integrity => Binding::IntegrityKey { log, number: key.number },
            ServiceKeyKind::Signing => Binding::SigningKey { log, number: key.number },
        },
        fingerprint: key.fingerprint,
        wrapped,
    }
}
