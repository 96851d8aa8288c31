//! The combined record of a batch's operations with one key.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::item::{Decided, Item, Ruling, Worked};
use super::job::{Job, Product};
use crate::ledger::{Details, Use, Verdict};
use crate::types::attempt::{Attempt, Operation};
use crate::types::context::Context;
use crate::types::error::ErrorCode;
use crate::types::ids::KeyId;
use crate::types::time::Timestamp;

/// Accumulates the operations of a batch with one key.
#[derive(Default)]
pub(super) struct KeyTally<'a> {
    /// The attempts that the ledger decides again, one for each decision.
    pub attempts: Vec<Arc<Attempt>>,
    /// The decision to which the last of `attempts` belongs.
    attempted: Option<&'a Arc<Decided>>,
    /// Successful operations by version.
    versions: BTreeMap<u32, u64>,
    /// Failed operations by error.
    errors: BTreeMap<&'static str, u64>,
    first_error: Option<ErrorCode>,
    has_failed_otherwise: bool,
    /// The grants that allowed an operation, in the order of their first use.
    grants: Vec<String>,
    /// The distinct contexts, in the order of their first use.
    contexts: Vec<&'a Arc<Context>>,
    seen: HashSet<&'a Arc<Context>>,
    uses: BTreeMap<(KeyId, u32), u64>,
    valid_until: Option<Timestamp>,
    /// Signatures that did not verify.
    invalid: u64,
}

impl<'a> KeyTally<'a> {
    /// Counts the result of an operation, success or failure.
    pub fn add(&mut self, item: &'a Item<'_>, decided: &'a Arc<Decided>, worked: &Worked) {
        if let Some(context) = item.job.context()
            && self.contexts.last() != Some(&context)
            && self.seen.insert(context)
        {
            self.contexts.push(context);
        }
        match (worked, &decided.ruling) {
            (Ok(_), Ruling::Work { .. }) => self.add_success(item, decided, worked),
            (Err(error), ruling) => {
                *self.errors.entry(error.code().as_str()).or_default() += 1;
                self.first_error.get_or_insert(error.code());
                self.has_failed_otherwise |= !matches!(ruling, Ruling::Denied(_));
            }
            (Ok(_), _) => {}
        }
    }

    fn add_success(&mut self, item: &Item<'_>, decided: &'a Arc<Decided>, worked: &Worked) {
        let (Ok((product, version)), Ruling::Work { grant, .. }) = (worked, &decided.ruling) else { return };
        *self.versions.entry(*version).or_default() += 1;
        self.invalid += u64::from(matches!(product, Product::Valid(false)));
        self.valid_until = [self.valid_until, decided.valid_until(*version)].into_iter().flatten().min();
        if let Some(grant) = grant.map(|grant| grant.to_string())
            && !self.grants.contains(&grant)
        {
            self.grants.push(grant);
        }
        // One attempt represents all that share a decision, unless the work fills in a version.
        let is_open = matches!(decided.attempt.operation, Operation::Verify { version: None });
        if is_open || !self.attempted.is_some_and(|before| Arc::ptr_eq(before, decided)) {
            self.attempts.push(settled(decided, worked));
        }
        self.attempted = Some(decided);
        if let Some(used) = used(item, decided, worked) {
            *self.uses.entry((used.key, used.version)).or_default() += used.encryptions;
        }
    }

    /// The verdict on all operations: allowed if one succeeded, denied if all were denied, otherwise failed.
    pub fn verdict(&self) -> Verdict {
        match self.first_error {
            Some(code) if self.versions.is_empty() && self.has_failed_otherwise => Verdict::Failed(code),
            Some(code) if self.versions.is_empty() => Verdict::Denied(code),
            _ => Verdict::Allowed { valid_until: self.valid_until },
        }
    }

    /// The numbers of successful and of failed operations.
    pub fn successes_and_failures(&self) -> (u64, u64) {
        (self.versions.values().sum(), self.errors.values().sum())
    }

    /// The version that did the work, if all successful operations used the same one.
    pub fn only_version(&self) -> Option<u32> {
        let mut versions = self.versions.keys();
        versions.next().copied().filter(|_| versions.next().is_none())
    }

    /// The uses to count, per version.
    pub fn uses(&self) -> Vec<Use> {
        let each = self.uses.iter();
        each.map(|((key, version), encryptions)| Use { key: *key, version: *version, encryptions: *encryptions })
            .collect()
    }

    /// The distinct contexts, in the order of their first use.
    pub fn contexts(&self) -> &[&'a Arc<Context>] {
        &self.contexts
    }

    /// Adds errors, versions and grants to the details of the record.
    pub fn describe(&self, details: &mut Details) {
        if !self.errors.is_empty() {
            details.raw("errors", counted(self.errors.iter().map(|(code, n)| (code.to_string(), *n))));
        }
        if !self.versions.is_empty() {
            let mut by_name: Vec<(String, u64)> = self.versions.iter().map(|(v, n)| (v.to_string(), *n)).collect();
            by_name.sort_unstable();
            details.raw("versions", counted(by_name.into_iter()));
        }
        if !self.grants.is_empty() {
            let quoted: Vec<String> = self.grants.iter().map(|grant| format!("\"{grant}\"")).collect();
            details.raw("grants", format!("[{}]", quoted.join(",")));
        }
        if self.invalid > 0 {
            details.number("invalid", self.invalid);
        }
    }
}

/// The attempt as it is recorded. If the caller named no version to verify with, it names the one that verified.
pub(super) fn settled(decided: &Decided, worked: &Worked) -> Arc<Attempt> {
    match (&decided.attempt.operation, worked) {
        (Operation::Verify { .. }, Ok((Product::Valid(true), found))) => {
            let operation = Operation::Verify { version: Some(*found) };
            Arc::new(Attempt { operation, ..Attempt::clone(&decided.attempt) })
        }
        _ => Arc::clone(&decided.attempt),
    }
}

/// The use to count for the version of an operation; none if the operation failed.
pub(super) fn used(item: &Item<'_>, decided: &Decided, worked: &Worked) -> Option<Use> {
    let (key, version) = (decided.attempt.key?, worked.as_ref().ok()?.1);
    Some(Use { key, version, encryptions: u64::from(matches!(item.job, Job::Encrypt(..))) })
}

fn counted(counts: impl Iterator<Item = (String, u64)>) -> String {
    let members: Vec<String> = counts.map(|(name, count)| format!("\"{name}\":{count}")).collect();
    format!("{{{}}}", members.join(","))
}
