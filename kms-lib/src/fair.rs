//! A few at a time, in turns by principal.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore};

/// Turns for so many at a time. Of each principal only one waits in the line of all, and the others behind it, so a
/// principal with many waits no less long than one with few. All clones are the same.
#[derive(Clone)]
pub struct Fair(Arc<Inner>);

struct Inner {
    places: Arc<Semaphore>,
    /// Held by the one of a principal that is in the line of all.
    principals: Mutex<HashMap<String, Weak<AsyncMutex<()>>>>,
}

/// A turn, until it is dropped.
pub struct Turn(#[expect(dead_code, reason = "held until it is dropped")] Option<OwnedSemaphorePermit>);

impl Fair {
    /// Turns for so many at a time.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Inner { places: Arc::new(Semaphore::new(most)), principals: Mutex::default() }))
    }

    /// Waits for a turn. Dropping the future leaves the line.
    pub async fn turn(&self, principal: &str) -> Turn {
        let own = self.of(principal);
        let _first = own.lock().await;
        // It fails only once it is closed, which it never is.
        Turn(Arc::clone(&self.0.places).acquire_owned().await.ok())
    }

    fn of(&self, principal: &str) -> Arc<AsyncMutex<()>> {
        let mut all = self.0.principals.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.get(principal).and_then(Weak::upgrade) {
            return own;
        }
        all.retain(|_, own| own.strong_count() > 0);
        let own = Arc::default();
        all.insert(principal.to_owned(), Arc::downgrade(&own));
        own
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    /// Starts a task of this principal that notes its number when it has its turn, and ends when it is told to.
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
        let (fair, order, end) = (Fair::new(2), Arc::default(), Arc::new(Semaphore::new(0)));
        for _ in 0..10 {
            start(&fair, "greedy", &order, &end);
            tokio::task::yield_now().await;
        }
        let gone = tokio::time::timeout(Duration::from_millis(20), fair.turn("gone")).await;
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

    #[tokio::test]
    async fn principals_that_are_gone_are_forgotten() {
        let fair = Fair::new(1);
        for n in 0..100 {
            drop(fair.turn(&n.to_string()).await);
        }
        assert!(fair.0.principals.lock().unwrap().len() <= 1);
    }
}
