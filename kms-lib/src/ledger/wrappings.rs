//! Wrappings that are added, verified and erased, written in the transaction of their record.

use std::collections::{HashMap, HashSet};

use super::remaining::{Retirable, is_retirable};
use super::submission::Submission;
use crate::catalog::Catalog;
use crate::envelope::Seals;
use crate::envelope::row::{self, StoredWrapping};
use crate::lifecycle::{CheckedWrapping, Command, NewWrapping};
use crate::storage::tables::wrappings::{self as table, NewRow};
use crate::storage::{Connection, Statement};
use crate::types::error::Result;

/// The changes of wrappings that a plan writes.
#[derive(Default)]
pub(super) struct WrappingChanges {
    pub added: Vec<NewWrapping>,
    pub checked: Vec<CheckedWrapping>,
    pub erased: Vec<(u32, [u8; 16])>,
    /// Subjects that lose all their wrappings.
    pub erased_subjects: Vec<[u8; 16]>,
}

impl WrappingChanges {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.checked.is_empty() && self.erased.is_empty() && self.erased_subjects.is_empty()
    }
}

/// The generations that the batch wants to retire, and whether they may be. Read under the lock on the head: no
/// wrapping changes in the meantime. All material was checked before; only what was changed since is checked again.
pub(super) async fn retirable(
    connection: &mut dyn Connection,
    batch: &[Submission],
    catalog: &Catalog,
) -> Result<HashMap<u32, Retirable>> {
    let mut found = HashMap::new();
    for submission in batch {
        if let Some(Command::RetireRootKey(check)) = submission.command.as_deref() {
            // The least certain answer counts: of two submissions in a batch, one is repeated.
            let may = is_retirable(connection, catalog, check).await?;
            let known = found.entry(check.generation).or_insert(may);
            *known = may.max(*known);
        }
    }
    Ok(found)
}

/// Writes the wrappings that a plan adds, marks and erases.
pub(super) async fn write(connection: &mut dyn Connection, changes: WrappingChanges, seals: &Seals) -> Result<()> {
    let WrappingChanges { added, checked, erased, erased_subjects } = changes;
    let mut statements: Vec<Statement> = Vec::new();
    if !added.is_empty() {
        statements = add(connection, added, seals).await?;
    }
    for CheckedWrapping { stored, seal, fingerprint, opens } in checked {
        let stored = StoredWrapping { verified: opens, ..stored };
        let marked = seals.seal(&row::wrapping(&stored, &fingerprint));
        statements.push(table::mark(&stored, &seal, &marked));
    }
    statements.extend(erased.iter().map(|(generation, subject)| table::erase(subject, *generation)));
    statements.extend(table::erase_subjects(&erased_subjects));
    if statements.is_empty() { Ok(()) } else { connection.execute_all(statements).await.map(drop) }
}

/// Adds wrappings where none with a valid seal exists: another node may have been first.
async fn add(connection: &mut dyn Connection, added: Vec<NewWrapping>, seals: &Seals) -> Result<Vec<Statement>> {
    let subjects: Vec<[u8; 16]> = added.iter().map(|new| new.subject.subject()).collect();
    let fingerprints: HashMap<[u8; 16], [u8; 32]> =
        added.iter().map(|new| (new.subject.subject(), new.fingerprint)).collect();
    let (mut good, mut bad) = (HashSet::new(), HashSet::new());
    for found in table::of_subjects(connection, &subjects).await? {
        let place = (found.stored.subject, found.stored.generation);
        let Some(fingerprint) = fingerprints.get(&place.0) else { continue };
        let is_good = seals.is_sealed(&row::wrapping(&found.stored, fingerprint), &found.seal);
        if is_good {
            good.insert(place)
        } else {
            bad.insert(place)
        };
    }
    let mut statements = Vec::new();
    let mut rows = Vec::new();
    for NewWrapping { subject, fingerprint, wrapped } in added {
        let subject = subject.subject();
        let place = (subject, wrapped.generation);
        // Also within the batch: of two concurrent rewraps, one writes.
        if !good.insert(place) {
            continue;
        }
        if bad.contains(&place) {
            statements.push(table::erase(&subject, wrapped.generation));
        }
        let seal = seals.seal(&row::wrapping(&StoredWrapping::new(subject, &wrapped), &fingerprint));
        rows.push(NewRow { subject, wrapped, seal });
    }
    statements.extend(table::insert(rows));
    Ok(statements)
}
