//! Indexes over the grants that are not revoked: by scope and principal for decisions, in the order of lists for
//! pages, and the granted keys of a principal by name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use crate::types::grant::{Grant, GrantScope};
use crate::types::ids::{GrantId, KeyId};

/// The grants of one scope, by principal; of each principal those of all grantors, sorted by id.
type Holders = BTreeMap<Arc<str>, Vec<GrantId>>;

/// A position in the order of lists: a principal and one of its grants.
type Place<'a> = (&'a str, GrantId);

/// The grants of a principal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Held {
    grants: BTreeSet<GrantId>,
    /// The keys that have grants, by name, except keys without a row.
    keys: BTreeMap<Arc<str>, KeyId>,
}

/// The indexes over the grants that are not revoked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    by_scope: HashMap<GrantScope, Holders>,
    by_principal: BTreeMap<Arc<str>, Held>,
}

impl Rights {
    /// Adds a grant. `name` is the name of the grant's key, if the key's row exists.
    pub fn insert(&mut self, grant: &Grant, name: Option<&str>) {
        let principal = match self.by_principal.get_key_value(grant.principal.as_str()) {
            Some((principal, _)) => Arc::clone(principal),
            None => Arc::from(grant.principal.as_str()),
        };
        let held = self.by_principal.entry(Arc::clone(&principal)).or_default();
        held.grants.insert(grant.id);
        if let (GrantScope::Key(key), Some(name)) = (grant.scope, name) {
            held.keys.insert(Arc::from(name), key);
        }
        let ids = self.by_scope.entry(grant.scope).or_default().entry(principal).or_default();
        if let Err(place) = ids.binary_search(&grant.id) {
            ids.insert(place, grant.id);
        }
    }

    /// Removes a grant. `name` must be the same as when it was added.
    pub fn remove(&mut self, grant: &Grant, name: Option<&str>) {
        let principal = grant.principal.as_str();
        let is_last = self.remove_from_scope(grant);
        let Some(held) = self.by_principal.get_mut(principal) else { return };
        held.grants.remove(&grant.id);
        if let Some(name) = name.filter(|_| is_last) {
            held.keys.remove(name);
        }
        if held.grants.is_empty() {
            self.by_principal.remove(principal);
        }
    }

    /// Removes a grant from the index by scope; returns whether the principal has no other grant on that scope.
    fn remove_from_scope(&mut self, grant: &Grant) -> bool {
        let Some(holders) = self.by_scope.get_mut(&grant.scope) else { return true };
        let Some(ids) = holders.get_mut(grant.principal.as_str()) else { return true };
        ids.retain(|id| *id != grant.id);
        if !ids.is_empty() {
            return false;
        }
        holders.remove(grant.principal.as_str());
        if holders.is_empty() {
            self.by_scope.remove(&grant.scope);
        }
        true
    }

    /// Notes the name of a key whose row was added.
    pub fn name_key(&mut self, key: KeyId, name: &str) {
        let Some(holders) = self.by_scope.get(&GrantScope::Key(key)) else { return };
        let name: Arc<str> = Arc::from(name);
        for principal in holders.keys() {
            if let Some(held) = self.by_principal.get_mut(principal) {
                held.keys.insert(Arc::clone(&name), key);
            }
        }
    }

    /// Removes the name of a key whose row was removed.
    pub fn unname_key(&mut self, key: KeyId, name: &str) {
        let Some(holders) = self.by_scope.get(&GrantScope::Key(key)) else { return };
        for principal in holders.keys() {
            if let Some(held) = self.by_principal.get_mut(principal) {
                held.keys.remove(name);
            }
        }
    }

    /// The grants of a principal on exactly this scope.
    pub fn on(&self, principal: &str, scope: GrantScope) -> &[GrantId] {
        let holders = self.by_scope.get(&scope);
        holders.and_then(|holders| holders.get(principal)).map_or(&[], Vec::as_slice)
    }

    /// All grants of a principal.
    pub fn of<'r>(&'r self, principal: &str) -> impl Iterator<Item = GrantId> + use<'r> {
        self.by_principal.get(principal).into_iter().flat_map(|held| held.grants.iter().copied())
    }

    /// The keys that grants of a principal are on, in the order of their names, from a name on.
    pub fn keys_of<'r>(&'r self, principal: &str, from: Bound<&str>) -> impl Iterator<Item = KeyId> + use<'r> {
        let keys = self.by_principal.get(principal).map(|held| held.keys.range::<str, _>((from, Bound::Unbounded)));
        keys.into_iter().flatten().map(|(_, id)| *id)
    }

    /// All grants in the order of lists, after a position.
    pub fn all<'r>(&'r self, after: Option<Place<'_>>) -> impl Iterator<Item = GrantId> + use<'r> {
        let begun = after.map(|place| self.of_behind(place.0, after)).into_iter().flatten();
        let from = after.map_or(Bound::Unbounded, |(principal, _)| Bound::Excluded(principal));
        let rest = self.by_principal.range::<str, _>((from, Bound::Unbounded));
        begun.chain(rest.flat_map(|(_, held)| held.grants.iter().copied()))
    }

    /// The grants of a principal after a position.
    pub fn of_behind<'r>(
        &'r self,
        principal: &str,
        after: Option<Place<'_>>,
    ) -> impl Iterator<Item = GrantId> + use<'r> {
        let from = match after {
            Some((of, id)) if of == principal => Bound::Excluded(id),
            Some((of, _)) if of > principal => return None.into_iter().flatten(),
            _ => Bound::Unbounded,
        };
        let held = self.by_principal.get(principal).map(|held| held.grants.range((from, Bound::Unbounded)).copied());
        held.into_iter().flatten()
    }

    /// The grants of one scope in the order of lists, each with its principal, after a position.
    pub fn of_scope<'a>(
        &'a self,
        scope: GrantScope,
        after: Option<Place<'a>>,
    ) -> impl Iterator<Item = (&'a str, GrantId)> + 'a {
        let from = after.map_or(Bound::Unbounded, |(principal, _)| Bound::Included(principal));
        let holders = self.by_scope.get(&scope).into_iter();
        let holders = holders.flat_map(move |holders| holders.range::<str, _>((from, Bound::Unbounded)));
        holders
            .flat_map(|(principal, ids)| ids.iter().map(|id| (principal.as_ref(), *id)))
            .filter(move |place| after.is_none_or(|after| *place > after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::actor::Role;
    use crate::types::grant::{Conditions, Grantor, StoredConditions};
    use crate::types::time::Timestamp;

    fn grant(number: u8, principal: &str, scope: GrantScope) -> Grant {
        Grant {
            id: GrantId::from_bytes([number; 16]),
            principal: principal.into(),
            role: Role::App,
            scope,
            permissions: Vec::new(),
            conditions: StoredConditions::Known(Conditions::new()),
            created_at: Timestamp::from_micros(0),
            withdrawn_at: None,
            grantor: Grantor::service(),
            cascade: false,
            revision: 1,
        }
    }

    fn name(scope: GrantScope) -> Option<&'static str> {
        match scope {
            GrantScope::AllKeys => None,
            GrantScope::Key(key) if *key.as_bytes() == [1; 16] => Some("one"),
            GrantScope::Key(_) => Some("two"),
        }
    }

    #[test]
    fn indexes_agree_with_the_grants_that_are_left() {
        let (one, two) = (GrantScope::Key(KeyId::from_bytes([1; 16])), GrantScope::Key(KeyId::from_bytes([2; 16])));
        let scopes = [GrantScope::AllKeys, one, two];
        let mut grants: Vec<Grant> = (0..36)
            .map(|n| grant(n * 7 % 36, ["a", "b", "c"][usize::from(n) % 3], scopes[usize::from(n) / 3 % 3]))
            .collect();
        let mut rights = Rights::default();
        grants.iter().for_each(|grant| rights.insert(grant, name(grant.scope)));
        while !grants.is_empty() {
            grants.sort_by(|a, b| (&a.principal, a.id).cmp(&(&b.principal, b.id)));
            check(&rights, &grants, &scopes);
            let gone = grants.remove(grants.len() / 2);
            rights.remove(&gone, name(gone.scope));
        }
        assert_eq!(rights, Rights::default());
    }

    /// Compares every index, from every position, with the sorted grants.
    fn check(rights: &Rights, grants: &[Grant], scopes: &[GrantScope]) {
        for n in 0..=grants.len() {
            let after = n.checked_sub(1).map(|n| (grants[n].principal.as_str(), grants[n].id));
            let ids = |of: &dyn Fn(&Grant) -> bool| -> Vec<GrantId> {
                grants[n..].iter().filter(|grant| of(grant)).map(|grant| grant.id).collect()
            };
            assert_eq!(rights.all(after).collect::<Vec<_>>(), ids(&|_| true));
            for scope in scopes {
                let found: Vec<GrantId> = rights.of_scope(*scope, after).map(|(_, id)| id).collect();
                assert_eq!(found, ids(&|grant| grant.scope == *scope));
            }
            if let Some((principal, _)) = after {
                let found: Vec<GrantId> = rights.of_behind(principal, after).collect();
                assert_eq!(found, ids(&|grant| grant.principal == principal));
            }
        }
        for principal in ["a", "b", "c"] {
            let mut keys = Vec::new();
            for scope in scopes {
                let expected: Vec<GrantId> = grants
                    .iter()
                    .filter(|grant| grant.principal == principal && grant.scope == *scope)
                    .map(|grant| grant.id)
                    .collect();
                assert_eq!(rights.on(principal, *scope), expected);
                if let (GrantScope::Key(key), false) = (*scope, expected.is_empty()) {
                    keys.push(key);
                }
            }
            assert_eq!(rights.keys_of(principal, Bound::Unbounded).collect::<Vec<_>>(), keys);
        }
    }
}
