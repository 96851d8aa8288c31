//! Importing grants. A grant whose meaning would be different or ambiguous here is imported as one that allows nothing.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::reach::REACHES_FURTHER;
use super::report::{ImportFindingKind, ImportStage};
use super::run::Run;
use super::shown::shown;
use super::source::{GRANT_BYTES, SourceGrant, Table, source_time};
use crate::grants::check_new_grant;
use crate::ledger::Details;
use crate::lifecycle::{Command, ImportedGrant, ImportedGrants, import_grantor};
use crate::types::actor::{Actor, Role};
use crate::types::audit::Action;
use crate::types::change::Change;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::grant::{Grant, GrantScope, Permission, StoredConditions};
use crate::types::ids::GrantId;
use crate::types::view::CatalogView;

/// The number of grants that are read at once and written with one record.
const PAGE: usize = 100;
/// The permissions that the original knows. Others in its rows allowed nothing.
const KNOWN: [Permission; 8] = [
    Permission::Create,
    Permission::Read,
    Permission::Encrypt,
    Permission::Decrypt,
    Permission::Sign,
    Permission::Verify,
    Permission::Rotate,
    Permission::Revoke,
];

/// The reason why a grant is not imported.
enum Refusal {
    /// The grant allows nothing at the source either.
    Void(Error),
    /// The grant cannot be imported.
    Refused(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// Hashed lower-case principals, each with the hash of its first spelling and whether there is another spelling.
type Folded = HashMap<[u8; 32], ([u8; 32], bool)>;

/// A grant to import, with findings about it.
struct Mapped {
    grant: ImportedGrant,
    notes: Vec<(ImportFindingKind, String)>,
}

impl Run<'_> {
    /// Imports every grant, page by page, and withdraws grants that are no longer in the source.
    pub(super) async fn import_grants(&mut self) -> Result<()> {
        let folded = self.folded_principals().await?;
        let repeated = self.source.repeated(Table::Grants).await?;
        let total = self.source.counts().await?.grants;
        let mut seen: HashSet<GrantId> = HashSet::new();
        let mut after: Option<String> = None;
        loop {
            self.job.tell(ImportStage::Grants, self.report.grants.total, total.max(self.report.grants.total));
            let page = self.source.grants(after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id.clone());
            let mut mapped = Vec::new();
            for row in &page {
                let one = if repeated.has(&row.id) { Err(repeated_id()) } else { self.map(row, &folded) };
                match one {
                    // The ids of a table without snapshots may be repeated since.
                    Ok(one) if seen.contains(&one.grant.id) => self.refuse_grant(row, &repeated_id()),
                    Ok(one) => {
                        seen.insert(one.grant.id);
                        mapped.push((row.id.clone(), one));
                    }
                    // A grant that was imported before and is now refused is withdrawn with the missing ones.
                    Err(refusal) => self.refuse_grant(row, &refusal),
                }
            }
            self.report.grants.total += page.len() as u64;
            self.commit_grants(mapped).await?;
        }
        let unread = self.unread("grants", total, self.report.grants.total);
        self.report.grants.total += unread;
        self.report.grants.refused += unread;
        self.note_grants_of_others();
        self.withdraw_missing(&seen).await
    }

    fn refuse_grant(&mut self, row: &SourceGrant, refusal: &Refusal) {
        let (count, error) = match refusal {
            Refusal::Void(error) => (&mut self.report.grants.ignored, error),
            Refusal::Refused(error) => (&mut self.report.grants.refused, error),
        };
        *count += 1;
        self.report.refuse(ImportFindingKind::GrantRefused, &row.id, None, error);
    }

    /// The principals of the source in lower case, each with whether two spellings of it hold grants.
    async fn folded_principals(&mut self) -> Result<Folded> {
        let mut folded = Folded::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.source.grants(after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { return Ok(folded) };
            after = Some(last.id.clone());
            for row in page {
                let spelling = Sha256::digest(&row.principal).into();
                let (first, differs) = folded.entry(fold(&row.principal)).or_insert((spelling, false));
                *differs |= *first != spelling;
            }
        }
    }

    fn map(&self, row: &SourceGrant, folded: &Folded) -> std::result::Result<Mapped, Refusal> {
        if row.bytes > GRANT_BYTES {
            let text = format!("the grant has {} bytes; at most {GRANT_BYTES} are read", row.bytes);
            return Err(Error::new(ErrorCode::LimitExceeded, text).into());
        }
        let id: GrantId = row.id.parse().map_err(|_| Error::invalid("the grant's id is not a UUID"))?;
        let mut notes = Vec::new();
        let scope = self.scope_of(&row.key_id)?;
        let permissions = permissions_of(row, scope, &mut notes)?;
        let role = Role::parse(&row.role).unwrap_or_else(|_| {
            notes.push((ImportFindingKind::GrantChanged, format!("its role {:?} is not known; app is used", row.role)));
            Role::App
        });
        let is_shared = folded.get(&fold(&row.principal)).is_some_and(|(_, differs)| *differs);
        let (principal, mut denied) = match Actor::check_principal(&row.principal) {
            Err(error) => (shown(&row.principal), Some(error.message().to_owned())),
            Ok(()) if Actor::is_reserved(&row.principal) => {
                (row.principal.clone(), Some("the principal is reserved here".to_owned()))
            }
            Ok(()) if is_shared => (
                row.principal.clone(),
                Some("another grant's principal differs from this one only in upper and lower case".to_owned()),
            ),
            Ok(()) if self.job.fold_principals => (row.principal.to_lowercase(), None),
            Ok(()) => (row.principal.clone(), None),
        };
        let conditions = match row.conditions.as_deref().filter(|text| text.trim() != "null") {
            None => StoredConditions::Known(crate::types::grant::Conditions::default()),
            Some(text) => StoredConditions::from_json(text),
        };
        if scope == GrantScope::AllKeys && self.reaches_further(id, &principal, &permissions, &conditions) {
            denied.get_or_insert_with(|| REACHES_FURTHER.to_owned());
        }
        match &conditions {
            StoredConditions::Unknown(text) => {
                denied.get_or_insert_with(|| format!("its conditions are not known to this service: {}", shown(text)));
            }
            StoredConditions::Known(known) => {
                if let Err(error) = check_new_grant(scope, &permissions, known) {
                    denied.get_or_insert_with(|| error.message().to_owned());
                }
            }
        }
        let conditions = match &denied {
            Some(reason) => StoredConditions::Unknown(denying(reason, row.conditions.as_deref())?),
            None => conditions,
        };
        if let Some(reason) = denied {
            let text = format!("the grant of {:?} on {} denies: {reason}", shown(&row.principal), row.key_id);
            notes.push((ImportFindingKind::GrantDenied, text));
        }
        let created_at = source_time(&row.created_at)?;
        let grant = ImportedGrant { id, principal, role, scope, permissions, conditions, created_at };
        Ok(Mapped { grant, notes })
    }

    fn scope_of(&self, key: &str) -> std::result::Result<GrantScope, Refusal> {
        let scope = GrantScope::parse(key).map_err(|_| {
            Refusal::Void(Error::invalid(format!("it is on {:?}, which is neither the id of a key nor *", shown(key))))
        })?;
        let GrantScope::Key(id) = scope else { return Ok(scope) };
        let snapshot = self.session.shared().catalog.snapshot();
        let is_of_source = |source: &str| source == self.job.name;
        match snapshot.key(id) {
            Some(key) if key.import.as_ref().is_some_and(|import| is_of_source(&import.source)) => Ok(scope),
            // In a dry run the keys are not stored.
            None if self.planned.has_key(id) => Ok(scope),
            None if self.refused_keys.contains(&id) => {
                let text = format!("its key {id} was not imported; the grant will be imported once the key is");
                Err(Refusal::Refused(Error::new(ErrorCode::KeyNotFound, text)))
            }
            _ => {
                let text = format!("its key {id} did not come from this source");
                Err(Refusal::Void(Error::new(ErrorCode::KeyNotFound, text)))
            }
        }
    }

    async fn commit_grants(&mut self, mapped: Vec<(String, Mapped)>) -> Result<()> {
        let grantor = import_grantor(&self.job.name);
        let (mut grants, mut known) = (Vec::with_capacity(mapped.len()), 0);
        for (id, one) in mapped {
            known += 1;
            let present = {
                let snapshot = self.session.shared().catalog.snapshot();
                snapshot.grant(one.grant.id).map(|grant| (grant.grantor == grantor, grant.withdrawn_at.is_some()))
            };
            match present {
                Some((false, _)) => {
                    known -= 1;
                    self.report.grants.refused += 1;
                    let text = "a grant with this id exists that did not come from this import; it was not changed";
                    let error = Error::new(ErrorCode::Conflict, text);
                    self.report.refuse(ImportFindingKind::GrantRefused, &id, None, &error);
                    continue;
                }
                Some((true, true)) => {
                    let text = "the grant was withdrawn here and stays withdrawn";
                    self.report.note(ImportFindingKind::GrantChanged, &id, text);
                    continue;
                }
                _ => {}
            }
            for (kind, text) in one.notes {
                self.report.note(kind, &id, text);
            }
            grants.push(one.grant);
        }
        let imported = ImportedGrants { run: self.run.clone(), grants, withdrawn: Vec::new() };
        let changes = self.change_grants(imported).await?;
        let is_new = |change: &&Change| matches!(change, Change::InsertGrant(_));
        let new = changes.iter().filter(is_new).count() as u64;
        let counts = &mut self.report.grants;
        counts.imported += new;
        counts.updated += changes.len() as u64 - new;
        counts.unchanged += known - changes.len() as u64;
        Ok(())
    }

    /// Withdraws grants that are no longer in the source, since a removal at the source revokes them.
    async fn withdraw_missing(&mut self, seen: &HashSet<GrantId>) -> Result<()> {
        let grantor = import_grantor(&self.job.name);
        let gone: Vec<GrantId> = {
            let snapshot = self.session.shared().catalog.snapshot();
            let is_gone =
                |grant: &&Grant| grant.grantor == grantor && grant.withdrawn_at.is_none() && !seen.contains(&grant.id);
            snapshot.grants().filter(is_gone).map(|grant| grant.id).collect()
        };
        for page in gone.chunks(PAGE) {
            let (run, withdrawn) = (self.run.clone(), page.to_vec());
            let changes = self.change_grants(ImportedGrants { run, grants: Vec::new(), withdrawn }).await?;
            self.report.grants.withdrawn += changes.len() as u64;
        }
        Ok(())
    }

    /// Commits, unless nothing changes or this is a dry run.
    async fn change_grants(&self, imported: ImportedGrants) -> Result<Vec<Change>> {
        let mut details = Details::default();
        details.number("grants", imported.grants.len() as u64).number("withdrawn", imported.withdrawn.len() as u64);
        let command = Command::ImportGrants(imported);
        let changes = self.preview(&command)?;
        if changes.is_empty() || self.job.dry_run {
            return Ok(changes);
        }
        let (changes, _) = self.session.change(self.intent(Action::GrantImport, details), command).await?;
        Ok(changes)
    }
}

/// The permissions of a grant that this service knows, sorted.
fn permissions_of(
    row: &SourceGrant,
    scope: GrantScope,
    notes: &mut Vec<(ImportFindingKind, String)>,
) -> std::result::Result<Vec<Permission>, Refusal> {
    let listed: Vec<Value> = serde_json::from_str(&row.allowed_ops)
        .map_err(|_| Error::invalid("its permissions are not an array of names"))?;
    let mut permissions = Vec::new();
    // The original skipped empty names, too.
    for name in listed.iter().filter(|name| name.as_str() != Some("")) {
        let known = name.as_str().and_then(|name| Permission::parse(name).ok()).filter(|it| KNOWN.contains(it));
        match known {
            Some(Permission::Create) if scope != GrantScope::AllKeys => {
                let text = "the permission create is left out; it exists only on all keys";
                notes.push((ImportFindingKind::GrantChanged, text.to_owned()));
            }
            Some(permission) => permissions.push(permission),
            None => {
                let text = format!(
                    "the permission {} is unknown to the original or to this service, and is left out",
                    shown(&name.to_string())
                );
                notes.push((ImportFindingKind::GrantChanged, text));
            }
        }
    }
    permissions.sort_unstable();
    permissions.dedup();
    if permissions.is_empty() {
        return Err(Refusal::Void(Error::invalid("it allows no operation that the original knows")));
    }
    Ok(permissions)
}

fn repeated_id() -> Refusal {
    Error::new(ErrorCode::Conflict, "several rows of the source have this id").into()
}

/// The hash of a principal in lower case: hashes bound the memory that a source's principals need.
fn fold(principal: &str) -> [u8; 32] {
    Sha256::digest(principal.to_lowercase()).into()
}

/// Conditions that this service does not know, so that the grant denies; they include the source's own for information.
fn denying(reason: &str, conditions: Option<&str>) -> Result<String> {
    let original = conditions.and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
    let text = serde_json::to_string(&serde_json::json!({ "deniedByImport": reason, "conditions": original }));
    text.map_err(|error| Error::new(ErrorCode::Internal, format!("conditions do not serialize: {error}")))
}
