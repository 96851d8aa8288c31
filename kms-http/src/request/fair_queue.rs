//! Limits the number of concurrent requests and schedules waiting ones round-robin by principal, so that one caller's
//! flood delays only that caller.
//!
//! A principal that has requests in process is given another place only while it holds fewer than are free. An only
//! caller therefore holds at most half of the places (rounded up), and another principal enters at once.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The queue. A request holds a [`Pass`] while it is processed.
pub struct FairQueue {
    most_active: usize,
    most_waiting: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    active: usize,
    /// The number of requests in process of each principal that has any.
    active_of: HashMap<Arc<str>, usize>,
    waiting: usize,
    lines: HashMap<Arc<str>, VecDeque<oneshot::Sender<Pass>>>,
    /// Principals with waiting requests, in the order of their turns.
    turns: VecDeque<Arc<str>>,
}

/// Permission to process a request; dropping it admits the next one.
pub struct Pass(Option<(Arc<FairQueue>, Arc<str>)>);

/// The queue is full, including the places for waiting requests.
#[derive(Debug, PartialEq, Eq)]
pub enum Full {
    /// The queue is full, and this principal has no waiting request.
    Everyone,
    /// This principal has waiting requests, or its request was removed to make room for another principal.
    Caller,
}

impl FairQueue {
    /// A queue with at most `most_active` requests in process and `most_waiting` requests waiting.
    pub fn new(most_active: usize, most_waiting: usize) -> Self {
        Self { most_active, most_waiting, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the principal's request may be processed.
    pub async fn enter(self: &Arc<Self>, principal: &str) -> Result<Pass, Full> {
        let turn = {
            let mut state = self.state();
            // While a place is free, only principals that may not take it are waiting: see `leave`.
            if state.may_take(principal, self.most_active) {
                let principal = Arc::from(principal);
                state.take(&principal);
                return Ok(Pass(Some((Arc::clone(self), principal))));
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
        // The sender is dropped if this request was removed to make room for another principal.
        turn.await.map_err(|_| Full::Caller)
    }

    /// Frees the place of a finished request, and admits waiting requests until no place is free or no principal that
    /// waits may take one.
    fn leave(self: Arc<Self>, principal: &str) {
        self.state().release(principal);
        loop {
            let next = self.state().next(self.most_active);
            let Some((principal, next)) = next else { return };
            // The waiting caller may have disconnected. Its pass must not call `leave` again when it is dropped.
            if let Err(mut pass) = next.send(Pass(Some((Arc::clone(&self), Arc::clone(&principal))))) {
                pass.0 = None;
                self.state().release(&principal);
            }
        }
    }

    /// The number of requests in process, and the number of waiting requests.
    pub fn load(&self) -> (usize, usize) {
        let state = self.state();
        (state.active, state.waiting)
    }
}

impl State {
    /// Whether a place is free for another request of this principal.
    fn may_take(&self, principal: &str, most_active: usize) -> bool {
        let free = most_active.saturating_sub(self.active);
        free > 0 && self.active_of.get(principal).is_none_or(|own| *own < free)
    }

    fn take(&mut self, principal: &Arc<str>) {
        self.active += 1;
        *self.active_of.entry(Arc::clone(principal)).or_default() += 1;
    }

    fn release(&mut self, principal: &str) {
        self.active -= 1;
        if let Some(own) = self.active_of.get_mut(principal) {
            *own -= 1;
            if *own == 0 {
                self.active_of.remove(principal);
            }
        }
    }

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

    /// Removes waiting requests whose callers have disconnected.
    fn forget_gone(&mut self) {
        self.lines.values_mut().for_each(|line| line.retain(|call| !call.is_closed()));
        self.lines.retain(|_, line| !line.is_empty());
        self.turns.retain(|principal| self.lines.contains_key(principal));
        self.waiting = self.lines.values().map(VecDeque::len).sum();
    }

    /// Removes the last request of the longest line if that line is longer than this principal's would become. Returns
    /// whether it did.
    fn make_room_for(&mut self, principal: &str) -> bool {
        let own = self.lines.get(principal).map_or(0, VecDeque::len);
        let longest = self.lines.iter_mut().max_by_key(|(_, line)| line.len());
        let Some((_, line)) = longest.filter(|(_, line)| line.len() > own + 1) else { return false };
        line.pop_back();
        self.waiting -= 1;
        true
    }

    /// Takes a place for the first waiting request, in the order of turns, whose principal may have one.
    fn next(&mut self, most_active: usize) -> Option<(Arc<str>, oneshot::Sender<Pass>)> {
        // A principal without a request in process may always take a free place, so few are skipped.
        let at = self.turns.iter().position(|principal| self.may_take(principal, most_active))?;
        let principal = self.turns.remove(at)?;
        let line = self.lines.get_mut(&principal)?;
        let next = line.pop_front()?;
        self.waiting -= 1;
        if line.is_empty() {
            self.lines.remove(&principal);
        } else {
            self.turns.push_back(Arc::clone(&principal));
        }
        self.take(&principal);
        Some((principal, next))
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some((gate, principal)) = self.0.take() {
            gate.leave(&principal);
        }
    }
}

#[cfg(test)]
#[path = "../../tests/unit/fair_queue.rs"]
mod tests;
