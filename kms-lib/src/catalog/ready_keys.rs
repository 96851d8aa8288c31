//! Ready keys in memory, bounded in number and age.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indexmap::IndexMap;

use crate::crypto::provider::{Aead, RsaPrivate, RsaPublic};
use crate::types::ids::KeyId;

/// Unwrapped material, ready for use by the cryptography provider.
pub enum ReadyKey {
    /// AES-256-GCM under this key.
    Aes(Box<dyn Aead>),
    /// RSA-2048: private and public key.
    Rsa {
        /// The private key, which decrypts and signs.
        private: Box<dyn RsaPrivate>,
        /// The public key, which encrypts and verifies.
        public: Box<dyn RsaPublic>,
    },
}

/// A key and the number of a version.
pub(super) type VersionKey = (KeyId, u32);

/// Ready keys by key and version. When there is no room for another one, one that was not used for long makes room:
/// second-chance replacement, known as CLOCK.
pub(super) struct ReadyKeys {
    keys: Mutex<Keys>,
    size: usize,
    time_to_live: Duration,
}

#[derive(Default)]
struct Keys {
    slots: IndexMap<VersionKey, Slot>,
    /// The index of the slot that is examined first when room is needed.
    hand: usize,
    /// Whether nothing more is kept.
    is_closed: bool,
}

struct Slot {
    ready: Arc<ReadyKey>,
    /// The time from which the key is not used any more.
    end: Instant,
    /// Whether the key was used since the slot was examined last.
    is_used: bool,
}

impl ReadyKeys {
    /// Room for `size` keys, each kept for `time_to_live`.
    pub fn new(size: u64, time_to_live: Duration) -> Self {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        Self { keys: Mutex::default(), size, time_to_live }
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ready key of a version, unless it is too old.
    pub fn get(&self, id: &VersionKey) -> Option<Arc<ReadyKey>> {
        let now = Instant::now();
        let mut keys = self.keys();
        let slot = keys.slots.get_mut(id).filter(|slot| now < slot.end)?;
        slot.is_used = true;
        Some(Arc::clone(&slot.ready))
    }

    /// Keeps a ready key, unless everything was cleared.
    pub fn insert(&self, id: VersionKey, ready: Arc<ReadyKey>) {
        let slot = Slot { ready, end: Instant::now() + self.time_to_live, is_used: false };
        let mut keys = self.keys();
        if keys.is_closed {
            return;
        }
        let replaced = keys.slots.insert(id, slot);
        let displaced = if keys.slots.len() > self.size { keys.displace() } else { None };
        // Wiped outside the lock.
        drop(keys);
        drop((displaced, replaced));
    }

    /// Stops keeping a version; those who use it now may finish.
    pub fn remove(&self, id: &VersionKey) {
        let removed = self.keys().slots.swap_remove(id);
        // Wiped outside the lock.
        drop(removed);
    }

    /// The versions that are kept.
    pub fn ids(&self) -> Vec<VersionKey> {
        self.keys().slots.keys().copied().collect()
    }

    /// Drops the keys that are too old.
    pub fn sweep(&self) {
        let now = Instant::now();
        let is_old = |(id, slot): (&VersionKey, &Slot)| (slot.end <= now).then_some(*id);
        let old: Vec<VersionKey> = self.keys().slots.iter().filter_map(is_old).collect();
        for id in &old {
            self.remove(id);
        }
    }

    /// Drops all keys, and keeps none from then on.
    pub fn close(&self) {
        let closed = Keys { is_closed: true, ..Keys::default() };
        let dropped = std::mem::replace(&mut *self.keys(), closed);
        drop(dropped);
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.keys().slots.len()
    }
}

impl Keys {
    /// Removes the next key that was not used since it was examined last. The newest key, in the last slot, takes its
    /// place behind the hand, so it is examined last.
    fn displace(&mut self) -> Option<Slot> {
        let newest = self.slots.len().saturating_sub(1);
        loop {
            if self.hand >= newest {
                self.hand = 0;
            }
            let at = self.hand;
            self.hand += 1;
            let (_, slot) = self.slots.get_index_mut(at)?;
            if !std::mem::take(&mut slot.is_used) {
                return self.slots.swap_remove_index(at).map(|(_, slot)| slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::crypto::provider::{CryptoProvider, Provider};

    fn ready() -> Arc<ReadyKey> {
        let provider: Arc<dyn Provider> = crate::crypto::provider(CryptoProvider::RustCrypto).unwrap();
        Arc::new(ReadyKey::Aes(provider.aes(&[7; 32]).unwrap()))
    }

    fn id(n: u8) -> VersionKey {
        (KeyId::from_bytes([n; 16]), 1)
    }

    #[test]
    fn keys_that_are_used_stay_when_others_come_and_go() {
        let keys = ReadyKeys::new(8, Duration::from_secs(3_600));
        for n in 0..100 {
            keys.insert(id(n), ready());
            assert!(keys.get(&id(0)).is_some() && keys.get(&id(1)).is_some() == (n > 0), "{n}");
            assert!(keys.len() <= 8);
        }
        // Beside them, those that came last are kept.
        assert!((94..100).all(|n| keys.get(&id(n)).is_some()));
        // A key that replaces itself displaces no other.
        keys.insert(id(99), ready());
        assert!(keys.len() == 8 && keys.get(&id(94)).is_some());
    }

    #[test]
    fn a_key_is_dropped_when_it_is_removed_too_old_or_all_are() {
        let (keys, one) = (ReadyKeys::new(8, Duration::from_millis(50)), ready());
        keys.insert(id(1), Arc::clone(&one));
        keys.remove(&id(1));
        assert_eq!(Arc::strong_count(&one), 1);
        keys.insert(id(1), Arc::clone(&one));
        std::thread::sleep(Duration::from_millis(60));
        assert!(keys.get(&id(1)).is_none());
        keys.sweep();
        assert_eq!((keys.len(), Arc::strong_count(&one)), (0, 1));
        keys.insert(id(1), Arc::clone(&one));
        keys.close();
        assert_eq!(Arc::strong_count(&one), 1);
        keys.insert(id(1), Arc::clone(&one));
        assert_eq!((keys.len(), Arc::strong_count(&one)), (0, 1));
    }
}
