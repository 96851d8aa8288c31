//! Fair sharing of limited resources between principals: in turns, or by limits on what one principal can hold.

mod joint;
mod places;

pub use joint::{Joint, Run};
pub use places::Places;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore};

/// Unused principals are removed when there are more than this, and twice as many as were left last time.
const KEPT: usize = 256;

/// Turns for a limited number of tasks at a time. Only one task of each principal waits in the common queue, and the
/// others wait in a queue of their own, so a principal with many tasks does not delay others. Clones share their state.
#[derive(Clone)]
pub struct Fair(Arc<Inner>);

struct Inner {
    places: Arc<Semaphore>,
    /// The maximum number of turns that one principal can have at a time.
    each: usize,
    principals: Mutex<Principals>,
}

#[derive(Default)]
struct Principals {
    of: HashMap<String, Weak<Own>>,
    /// Above this number, unused principals are removed.
    most: usize,
}

/// The queue and the turns of one principal.
struct Own {
    /// Locked by the task that waits in the common queue.
    line: AsyncMutex<()>,
    places: Arc<Semaphore>,
}

/// A turn, which ends when it is dropped.
pub struct Turn {
    _place: Option<OwnedSemaphorePermit>,
    _of_own: Option<OwnedSemaphorePermit>,
    // Keeps the principal's entry while it has a turn.
    _own: Arc<Own>,
}

impl Fair {
    /// Allows `most` turns at a time, of which one principal can have at most `each`.
    pub fn new(most: usize, each: usize) -> Self {
        let places = Arc::new(Semaphore::new(most));
        Self(Arc::new(Inner { places, each: each.clamp(1, most.max(1)), principals: Mutex::default() }))
    }

    /// Waits for a turn. Dropping the future leaves the queue.
    pub async fn turn(&self, principal: &str) -> Turn {
        let own = self.of(principal);
        // Acquiring fails only on closed semaphores, and these are never closed.
        let of_own = Arc::clone(&own.places).acquire_owned().await.ok();
        let first = own.line.lock().await;
        let place = Arc::clone(&self.0.places).acquire_owned().await.ok();
        drop(first);
        Turn { _place: place, _of_own: of_own, _own: own }
    }

    /// The number of tasks of this principal that have a turn or wait for one.
    #[cfg(test)]
    pub fn tasks_of(&self, principal: &str) -> usize {
        let principals = self.0.principals.lock().unwrap_or_else(PoisonError::into_inner);
        principals.of.get(principal).map_or(0, Weak::strong_count)
    }

    fn of(&self, principal: &str) -> Arc<Own> {
        let mut principals = self.0.principals.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = principals.of.get(principal).and_then(Weak::upgrade) {
            return own;
        }
        if principals.of.len() >= principals.most.max(KEPT) {
            principals.of.retain(|_, own| own.strong_count() > 0);
            principals.most = 2 * principals.of.len();
        }
        let own = Arc::new(Own { line: AsyncMutex::default(), places: Arc::new(Semaphore::new(self.0.each)) });
        principals.of.insert(principal.to_owned(), Arc::downgrade(&own));
        own
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Starts a task that notes its principal when it gets its turn, and ends on a signal.
    fn start(fair: &Fair, principal: &'static str, order: &Arc<Mutex<Vec<&'static str>>>, end: &Arc<Semaphore>) {
        let (fair, order, end) = (fair.clone(), Arc::clone(order), Arc::clone(end));
        tokio::spawn(async move {
            let _turn = fair.turn(principal).await;
            order.lock().unwrap().push(principal);
            end.acquire().await.unwrap().forget();
        });
    }

    #[tokio::test]
    async fn principals_take_turns() {
        let (fair, order, end) = (Fair::new(2, 2), Arc::default(), Arc::new(Semaphore::new(0)));
        for _ in 0..10 {
            start(&fair, "greedy", &order, &end);
            tokio::task::yield_now().await;
        }
        let gone = timeout(Duration::from_millis(20), fair.turn("gone")).await;
        assert!(gone.is_err(), "no more than two at a time");
        start(&fair, "modest", &order, &end);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(order.lock().unwrap().len(), 2);
        end.add_permits(11);
        while order.lock().unwrap().len() < 11 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let place = order.lock().unwrap().iter().position(|principal| *principal == "modest").unwrap();
        assert!(place <= 3, "{place}");
    }

    /// A principal whose turns never end leaves turns to others.
    #[tokio::test]
    async fn no_principal_has_all_turns() {
        let fair = Fair::new(3, 2);
        let held = (fair.turn("greedy").await, fair.turn("greedy").await);
        let third = timeout(Duration::from_millis(20), fair.turn("greedy")).await;
        assert!(third.is_err());
        timeout(Duration::from_secs(10), fair.turn("modest")).await.unwrap();
        drop(held);
        timeout(Duration::from_secs(10), fair.turn("greedy")).await.unwrap();
    }

    #[tokio::test]
    async fn principals_that_are_gone_are_forgotten() {
        let fair = Fair::new(1, 1);
        for n in 0..3 * KEPT {
            drop(fair.turn(&n.to_string()).await);
        }
        assert!(fair.0.principals.lock().unwrap().of.len() <= KEPT);
    }
}
