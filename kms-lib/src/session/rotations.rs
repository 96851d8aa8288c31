//! Rotations of one key take turns: one that is prepared beside another is superseded by it, and has to be prepared
//! again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as Turns, OwnedMutexGuard};

use crate::types::ids::KeyId;

/// Entries of ended rotations are removed when there are more than this.
const KEPT: usize = 256;

/// Whose turn it is to rotate a key, within this process.
#[derive(Default)]
pub struct Rotations(Mutex<HashMap<KeyId, Weak<Turns<()>>>>);

impl Rotations {
    /// Waits until the rotations of this key that came before have ended, in the order of arrival. The turn ends when
    /// the guard is dropped.
    pub async fn turn(&self, key: KeyId) -> OwnedMutexGuard<()> {
        self.of(key).lock_owned().await
    }

    fn of(&self, key: KeyId) -> Arc<Turns<()>> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turns) = keys.get(&key).and_then(Weak::upgrade) {
            return turns;
        }
        if keys.len() >= KEPT {
            keys.retain(|_, turns| turns.strong_count() > 0);
        }
        let turns = Arc::new(Turns::new(()));
        keys.insert(key, Arc::downgrade(&turns));
        turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_of_one_key_follow_each_other() {
        let rotations = Rotations::default();
        let (key, other) = (KeyId::random(), KeyId::random());
        let first = rotations.turn(key).await;
        let second = rotations.of(key);
        assert!(Arc::clone(&second).try_lock_owned().is_err());
        drop(rotations.turn(other).await);
        drop(first);
        assert!(second.try_lock_owned().is_ok());
    }

    #[tokio::test]
    async fn ended_rotations_are_forgotten() {
        let rotations = Rotations::default();
        for _ in 0..3 * KEPT {
            drop(rotations.turn(KeyId::random()).await);
        }
        assert!(rotations.0.lock().is_ok_and(|keys| keys.len() <= KEPT));
    }
}
