//! Rotations of one key run in turn, by principal, since a rotation that is prepared concurrently with another is
//! superseded by it and must be prepared again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::fair::{Fair, Turn};
use crate::types::ids::KeyId;

/// Entries of finished rotations are removed when there are more than this.
const KEPT: usize = 256;

/// The queues of rotations by key, within this process.
#[derive(Default)]
pub struct Rotations(Mutex<HashMap<KeyId, Weak<Fair>>>);

/// The turn of a rotation, which ends when this is dropped.
pub struct Rotating {
    _turn: Turn,
    // Keeps the queue of the key alive while one of its rotations has the turn.
    _of_key: Arc<Fair>,
}

impl Rotations {
    /// Waits for the turn of this principal to rotate a key, whether or not it may rotate the key.
    pub async fn turn(&self, key: KeyId, principal: &str) -> Rotating {
        let of_key = self.of(key);
        Rotating { _turn: of_key.turn(principal).await, _of_key: of_key }
    }

    fn of(&self, key: KeyId) -> Arc<Fair> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turns) = keys.get(&key).and_then(Weak::upgrade) {
            return turns;
        }
        if keys.len() >= KEPT {
            keys.retain(|_, turns| turns.strong_count() > 0);
        }
        let turns = Arc::new(Fair::new(1, 1));
        keys.insert(key, Arc::downgrade(&turns));
        turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_of_one_key_follow_each_other_by_principal() {
        let rotations = Arc::new(Rotations::default());
        let (key, other) = (KeyId::random(), KeyId::random());
        let first = rotations.turn(key, "greedy").await;
        drop(rotations.turn(other, "greedy").await);
        let order: Arc<Mutex<Vec<&str>>> = Arc::default();
        let rotate = |principal: &'static str| {
            let (rotations, order) = (Arc::clone(&rotations), Arc::clone(&order));
            tokio::spawn(async move {
                let _turn = rotations.turn(key, principal).await;
                order.lock().unwrap_or_else(PoisonError::into_inner).push(principal);
            })
        };
        let mut all: Vec<_> = (0..20).map(|_| rotate("greedy")).collect();
        tokio::task::yield_now().await;
        all.push(rotate("modest"));
        tokio::task::yield_now().await;
        assert!(order.lock().is_ok_and(|order| order.is_empty()));
        drop(first);
        for rotation in all {
            assert!(rotation.await.is_ok());
        }
        let place = order.lock().ok().and_then(|order| order.iter().position(|principal| *principal == "modest"));
        assert!(place.is_some_and(|place| place <= 1), "{place:?}");
    }

    #[tokio::test]
    async fn ended_rotations_are_forgotten() {
        let rotations = Rotations::default();
        for _ in 0..3 * KEPT {
            drop(rotations.turn(KeyId::random(), "a").await);
        }
        assert!(rotations.0.lock().is_ok_and(|keys| keys.len() <= KEPT));
    }
}
