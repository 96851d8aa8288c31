//! How many requests are worked on at a time, and who comes next: principals take turns, so that one caller's flood is
//! that caller's own wait.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The gate. Whoever is let in holds a [`Pass`].
pub struct FairQueue {
    most_active: usize,
    most_waiting: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    active: usize,
    waiting: usize,
    lines: HashMap<Arc<str>, VecDeque<oneshot::Sender<Pass>>>,
    /// Principals with somebody waiting, in the order of their turns.
    turns: VecDeque<Arc<str>>,
}

/// A place among the requests that are worked on; given up when dropped.
pub struct Pass(Option<Arc<FairQueue>>);

/// There is no room, not even to wait.
#[derive(Debug, PartialEq, Eq)]
pub enum Full {
    /// Others wait as well.
    Everyone,
    /// This principal has the longest line.
    Caller,
}

impl FairQueue {
    /// A gate for so many at a time, and so many that wait.
    pub fn new(most_active: usize, most_waiting: usize) -> Self {
        Self { most_active, most_waiting, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place.
    pub async fn enter(self: &Arc<Self>, principal: &str) -> Result<Pass, Full> {
        let turn = {
            let mut state = self.state();
            if state.active < self.most_active && state.waiting == 0 {
                state.active += 1;
                return Ok(Pass(Some(Arc::clone(self))));
            }
            if state.waiting >= self.most_waiting {
                state.forget_gone();
            }
            if state.waiting >= self.most_waiting && !state.make_room_for(principal) {
                let is_waiting = state.lines.contains_key(principal);
                return Err(if is_waiting { Full::Caller } else { Full::Everyone });
            }
            state.line_up(principal)
        };
        // Nobody answers who was sent away to make room for another principal.
        turn.await.map_err(|_| Full::Caller)
    }

    /// Lets the next one in, in place of one who leaves.
    fn leave(self: Arc<Self>) {
        loop {
            let next = {
                let mut state = self.state();
                match state.next() {
                    Some(next) => next,
                    None => {
                        state.active -= 1;
                        return;
                    }
                }
            };
            match next.send(Pass(Some(Arc::clone(&self)))) {
                Ok(()) => return,
                // It has gone away meanwhile. Its pass must not let the next one in a second time.
                Err(mut pass) => pass.0 = None,
            }
        }
    }

    /// Requests being worked on, and waiting.
    pub fn load(&self) -> (usize, usize) {
        let state = self.state();
        (state.active, state.waiting)
    }
}

impl State {
    fn line_up(&mut self, principal: &str) -> oneshot::Receiver<Pass> {
        let (call, turn) = oneshot::channel();
        let principal: Arc<str> = match self.lines.get_key_value(principal) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::from(principal),
        };
        let line = self.lines.entry(Arc::clone(&principal)).or_default();
        if line.is_empty() {
            self.turns.push_back(principal);
        }
        line.push_back(call);
        self.waiting += 1;
        turn
    }

    /// Takes those out of the lines who have gone away.
    fn forget_gone(&mut self) {
        self.lines.values_mut().for_each(|line| line.retain(|call| !call.is_closed()));
        self.lines.retain(|_, line| !line.is_empty());
        self.turns.retain(|principal| self.lines.contains_key(principal));
        self.waiting = self.lines.values().map(VecDeque::len).sum();
    }

    /// Sends the last one of the longest line away, if that is not the line this principal would lengthen.
    fn make_room_for(&mut self, principal: &str) -> bool {
        let own = self.lines.get(principal).map_or(0, VecDeque::len);
        let longest = self.lines.iter_mut().max_by_key(|(_, line)| line.len());
        let Some((_, line)) = longest.filter(|(_, line)| line.len() > own + 1) else { return false };
        line.pop_back();
        self.waiting -= 1;
        true
    }

    fn next(&mut self) -> Option<oneshot::Sender<Pass>> {
        let principal = self.turns.pop_front()?;
        let line = self.lines.get_mut(&principal)?;
        let next = line.pop_front()?;
        self.waiting -= 1;
        if line.is_empty() {
            self.lines.remove(&principal);
        } else {
            self.turns.push_back(principal);
        }
        Some(next)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(gate) = self.0.take() {
            gate.leave();
        }
    }
}

#[cfg(test)]
#[path = "../../tests/unit/fair_queue.rs"]
mod tests;
