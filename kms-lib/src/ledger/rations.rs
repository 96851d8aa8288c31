//! Each principal's use of the disk reserve. The reserve is for changes that revoke permissions or keys, and no
//! principal may use it up.

use std::collections::HashMap;
use std::sync::Arc;

/// The use of the reserve since the store became full, in bytes.
#[derive(Default)]
pub(super) struct Rations {
    all: usize,
    by: HashMap<Arc<str>, usize>,
}

impl Rations {
    /// Takes `cost` bytes of the reserve for a principal; returns whether that is allowed. No principal may use more
    /// than is left after it: a single one gets half of the reserve.
    pub fn take(&mut self, principal: &Arc<str>, cost: usize, reserve: usize) -> bool {
        let left = reserve.saturating_sub(self.all.saturating_add(cost));
        let own = self.by.get(principal).copied().unwrap_or_default();
        if own > 0 && own.saturating_add(cost) > left {
            return false;
        }
        self.all = self.all.saturating_add(cost);
        self.by.insert(Arc::clone(principal), own + cost);
        true
    }

    /// Forgets all use of the reserve: the store has room again.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_uses_the_reserve_up() {
        let (mut rations, names) = (Rations::default(), ["greedy", "second", "modest"].map(Arc::from));
        let mut taken = [0; 3];
        for (name, taken) in names.iter().zip(&mut taken) {
            while *taken < 10_000 && rations.take(name, 1_000, 4 << 20) {
                *taken += 1;
            }
        }
        let [greedy, second, modest] = taken;
        assert!(greedy <= 2_098 && second >= 1_040 && modest >= 500, "{taken:?}");
        // A principal that comes last is not refused altogether.
        assert!(rations.take(&Arc::from("last"), 1_000, 4 << 20));
        rations.clear();
        assert!(rations.take(&names[0], 1_000, 4 << 20));
    }
}
