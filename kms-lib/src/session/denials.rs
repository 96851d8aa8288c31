//! Denials are recorded, but cannot flood the log: after 60 a minute of one principal for one reason, they are counted
//! in one record a second.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;

use super::Shared;
use crate::ledger::{Details, Draft, Entry, Few, Lane, Outcome, Verdict};
use crate::types::actor::Actor;
use crate::types::audit::Action;
use crate::types::error::{ErrorCode, Result};
use crate::types::time::Timestamp;

/// The number of denials a minute, per principal and code, that each get a record.
const EACH: u32 = 60;
/// The length of a window, and the interval between counted records, in microseconds.
const MINUTE: u64 = 60_000_000;
const SECOND: u64 = 1_000_000;
/// The number of counted records that are written together.
const TOGETHER: usize = 128;
/// The approximate number of tracked pairs of principal and code. Above it the oldest are dropped; if all of them are
/// from the last minute, further principals share one window.
const FOLLOWED: usize = 10_000;

/// A principal and the code of its denials.
type Caller = (String, ErrorCode);

struct Window {
    begun: Timestamp,
    /// The number of denials since `begun`.
    count: u32,
    /// The number of denials without a record of their own since the last counted record.
    uncounted: u64,
    counted_at: Timestamp,
    actor: Actor,
    action: Action,
}

/// Denials that one record represents.
struct Counted {
    actor: Actor,
    action: Action,
    caller: Caller,
    count: u64,
    counted_before: Timestamp,
}

/// Denials of the last minute, by principal and code. Each call examines only a few of them.
#[derive(Default)]
pub struct Denials(Mutex<Windows>);

#[derive(Default)]
struct Windows {
    of: HashMap<Caller, Window>,
    /// Windows in the order in which they began, each with that time.
    order: VecDeque<(Caller, Timestamp)>,
    /// Callers with denials that no record represents yet.
    uncounted: HashSet<Caller>,
}

impl Denials {
    fn windows(&self) -> MutexGuard<'_, Windows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a denial gets its own record; otherwise count it with [`Denials::count`]. A denial that was not decided
    /// on a `fresh` snapshot always gets one, since the ledger decides it again.
    pub(super) fn is_recorded(&self, actor: &Actor, code: ErrorCode, now: Timestamp, fresh: bool) -> bool {
        let mut windows = self.windows();
        let window = windows.window(actor, code, now);
        window.count = window.count.saturating_add(1);
        window.count <= EACH || !fresh
    }

    /// Counts denied operations that get no record of their own.
    pub(super) fn count(&self, actor: &Actor, action: Action, code: ErrorCode, now: Timestamp, operations: u64) {
        let mut windows = self.windows();
        let caller = windows.caller(actor, code, now);
        let window = windows.window(actor, code, now);
        window.uncounted += operations;
        if !caller.0.is_empty() {
            window.actor = actor.clone();
        }
        window.action = action;
        windows.uncounted.insert(caller);
    }

    /// Whether the next denial of this principal and code may be only counted.
    pub(super) fn is_flooding(&self, actor: &Actor, code: ErrorCode, now: Timestamp) -> bool {
        let windows = self.windows();
        let caller = windows.caller(actor, code, now);
        windows.of.get(&caller).is_some_and(|window| window.count >= EACH)
    }

    /// Takes the counted records that are due.
    fn take_due(&self, now: Timestamp) -> Vec<Counted> {
        let mut guard = self.windows();
        let Windows { of, uncounted, .. } = &mut *guard;
        let mut due = Vec::new();
        uncounted.retain(|caller| {
            let Some(window) = of.get_mut(caller) else { return false };
            if micros(now, window.counted_at) < SECOND {
                return true;
            }
            due.push(Counted {
                actor: window.actor.clone(),
                action: window.action,
                caller: caller.clone(),
                count: std::mem::take(&mut window.uncounted),
                counted_before: window.counted_at,
            });
            window.counted_at = now;
            false
        });
        due
    }

    /// Adds back a count that could not be written, so that the next record includes it. If the caller's window was
    /// dropped meanwhile to make room for others, the count goes to a new window or to the shared one.
    fn put_back(&self, counted: Counted, now: Timestamp) {
        let Counted { actor, action, caller: (_, code), count, counted_before } = counted;
        let mut windows = self.windows();
        // The actor of the shared window has a name, but the window has none.
        let caller = match windows.of.contains_key(&counted.caller) {
            true => counted.caller,
            false => windows.caller(&actor, code, now),
        };
        let window = windows.window_of(&caller, &actor, now);
        window.uncounted += count;
        window.action = action;
        window.counted_at = counted_before;
        windows.uncounted.insert(caller);
    }

    /// The number of denials that no record represents yet.
    pub(crate) fn uncounted(&self) -> u64 {
        let windows = self.windows();
        windows.uncounted.iter().filter_map(|caller| windows.of.get(caller)).map(|window| window.uncounted).sum()
    }
}

impl Windows {
    /// The window to which a denial belongs: the principal's own, or a shared one with an empty name while there are
    /// too many.
    fn caller(&self, actor: &Actor, code: ErrorCode, now: Timestamp) -> Caller {
        let own = (actor.principal().to_owned(), code);
        let is_full =
            self.of.len() >= FOLLOWED && self.order.front().is_some_and(|(_, begun)| micros(now, *begun) < MINUTE);
        if is_full && !self.of.contains_key(&own) { (String::new(), code) } else { own }
    }

    fn window(&mut self, actor: &Actor, code: ErrorCode, now: Timestamp) -> &mut Window {
        let caller = self.caller(actor, code, now);
        self.window_of(&caller, actor, now)
    }

    /// The window of this caller; a new one that begins now if there is none.
    fn window_of(&mut self, caller: &Caller, actor: &Actor, now: Timestamp) -> &mut Window {
        if !self.of.contains_key(caller) {
            self.forget_oldest();
            self.order.push_back((caller.clone(), now));
        }
        let is_shared = caller.0.is_empty();
        let window = self.of.entry(caller.clone()).or_insert_with(|| Window {
            begun: now,
            count: 0,
            uncounted: 0,
            counted_at: now,
            actor: if is_shared { Actor::internal("system") } else { actor.clone() },
            action: Action::Encrypt,
        });
        if micros(now, window.begun) >= MINUTE {
            (window.begun, window.count) = (now, 0);
        }
        window
    }

    /// Makes room for another window. Only the two oldest are examined, so the work does not depend on their number.
    fn forget_oldest(&mut self) {
        for _ in 0..2 {
            if self.of.len() < FOLLOWED {
                return;
            }
            let Some((caller, begun)) = self.order.pop_front() else { return };
            match self.of.get(&caller) {
                // The window began again since, or has denials that are not written yet.
                Some(window) if window.begun != begun || window.uncounted > 0 => {
                    self.order.push_back((caller, window.begun));
                }
                _ => drop(self.of.remove(&caller)),
            }
        }
    }
}

fn micros(now: Timestamp, then: Timestamp) -> u64 {
    // A clock that jumped back starts a new window instead of keeping an old one indefinitely.
    now.micros().abs_diff(then.micros())
}

/// Writes the counted records that are due. Called every second, and when the service closes.
pub(crate) async fn write_counted(shared: &Shared, now: Timestamp) -> Result<()> {
    let mut failed: Result<()> = Ok(());
    let mut due = shared.denials.take_due(now).into_iter().peekable();
    while due.peek().is_some() {
        // Written together, so that the records of thousands of principals take only a few commits.
        let together: Vec<Counted> = due.by_ref().take(TOGETHER).collect();
        let written = match &failed {
            Ok(()) => join_all(together.iter().map(|counted| write(shared, counted))).await,
            Err(_) => vec![failed.clone(); together.len()],
        };
        for (counted, written) in together.into_iter().zip(written) {
            if let Err(error) = written {
                shared.denials.put_back(counted, now);
                // A principal that has used up its share of the queue must not keep the records of others from the log.
                if !matches!(error.code(), ErrorCode::Overloaded | ErrorCode::CallerOverloaded) {
                    failed = Err(error);
                }
            }
        }
    }
    failed
}

/// Writes all counted records before the service closes, as far as the ledger takes them. Returns the number of denials
/// that no record represents.
pub(crate) async fn write_last(shared: &Shared) -> u64 {
    // Every count is due at this time.
    let now = shared.clock.now().plus_seconds(2);
    loop {
        let before = shared.denials.uncounted();
        if before == 0 {
            return 0;
        }
        // A principal with many counts may have no more places in the queue, so the rest takes further rounds.
        let written = write_counted(shared, now).await;
        let after = shared.denials.uncounted();
        if after >= before || written.is_err() {
            return after;
        }
    }
}

async fn write(shared: &Shared, counted: &Counted) -> Result<()> {
    let Counted { actor, action, caller: (_, code), count, .. } = counted;
    let admission = shared.ledger.admit_last(Lane::Change, actor.principal(), 0)?;
    let mut details = Details::default();
    details.number("count", *count).text("error", code.as_str());
    let draft = Draft { actor: actor.clone(), action: *action, key_id: None, key_version: None, details };
    let entry = Entry {
        attempts: Few::default(),
        verdict: Verdict::Failed(*code),
        draft,
        rendered: None,
        uses: Few::default(),
        tally: (0, *count),
        idempotency: None,
        remember: Vec::new(),
    };
    let revision = shared.catalog.snapshot().revision();
    match shared.ledger.submit(&admission, revision, vec![entry], None, None).await {
        Outcome::Failed(error) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const CODE: ErrorCode = ErrorCode::AccessDenied;

    /// Handles a denial as sessions do; returns whether it has its own record.
    fn deny(denials: &Denials, principal: &'static str, now: Timestamp, fresh: bool) -> bool {
        deny_actor(denials, &Actor::internal(principal), now, fresh)
    }

    fn deny_actor(denials: &Denials, actor: &Actor, now: Timestamp, fresh: bool) -> bool {
        let is_recorded = denials.is_recorded(actor, CODE, now, fresh);
        if !is_recorded {
            denials.count(actor, Action::Encrypt, CODE, now, 1);
        }
        is_recorded
    }

    #[test]
    fn what_could_not_be_written_is_counted_again() {
        let denials = Denials::default();
        let now = Timestamp::from_micros(1_000_000_000);
        for _ in 0..70 {
            deny(&denials, "a", now, true);
        }
        let later = now.plus_seconds(2);
        let counted = denials.take_due(later).pop().unwrap();
        assert_eq!(counted.count, 10);
        assert!(denials.take_due(later).is_empty());
        denials.put_back(counted, later);
        assert_eq!(denials.take_due(later)[0].count, 10);
    }

    /// While a count is being written, other principals may take the place of its window.
    #[test]
    fn a_count_without_a_window_is_counted_with_the_others() {
        let denials = Denials::default();
        let now = Timestamp::from_micros(1_000_000_000);
        for _ in 0..70 {
            deny(&denials, "a", now, true);
        }
        let later = now.plus_seconds(61);
        let counted = denials.take_due(later).pop().unwrap();
        for n in 0..FOLLOWED {
            deny_actor(&denials, &Actor::new(format!("principal-{n}"), crate::Role::App).unwrap(), later, true);
        }
        assert!(!denials.windows().of.contains_key(&("a".to_owned(), CODE)));
        denials.put_back(counted, later);
        assert_eq!(denials.uncounted(), 10);
        let again = denials.take_due(later.plus_seconds(2)).pop().unwrap();
        assert_eq!((again.count, again.actor.principal()), (10, "system"));
        // The same for the record of the shared window.
        denials.put_back(again, later);
        assert_eq!(denials.take_due(later.plus_seconds(2))[0].count, 10);
    }

    #[test]
    fn only_a_fresh_denial_is_merely_counted() {
        let denials = Denials::default();
        let now = Timestamp::from_micros(1_000_000_000);
        assert!((0..60).all(|_| deny(&denials, "a", now, false)));
        assert!(deny(&denials, "a", now, false) && !deny(&denials, "a", now, true));
        assert_eq!(denials.take_due(now.plus_seconds(2))[0].count, 1);
    }

    /// However many principals are denied, the memory and the number of records stay bounded, and every denial is
    /// counted.
    #[test]
    fn many_principals_fill_neither_memory_nor_the_log() {
        let denials = Denials::default();
        let (mut recorded, mut counted, mut now) = (0, 0, Timestamp::from_micros(1_000_000_000));
        let principals = 3 * FOLLOWED;
        for round in 0..3 {
            for n in 0..principals {
                let actor = Actor::new(format!("principal-{n}"), crate::Role::App).unwrap();
                recorded += u64::from(deny_actor(&denials, &actor, now, true));
            }
            assert!(denials.windows().of.len() <= FOLLOWED + 1, "round {round}");
            now = now.plus_seconds(2);
            counted += denials.take_due(now).iter().map(|counted| counted.count).sum::<u64>();
        }
        assert_eq!(recorded + counted, 3 * principals as u64);
        assert!(recorded <= 3 * FOLLOWED as u64 + u64::from(EACH), "{recorded} records");
        // After the minute, other principals replace the oldest.
        now = now.plus_seconds(61);
        assert!(deny(&denials, "late", now, true));
        assert!(denials.windows().of.contains_key(&("late".to_owned(), CODE)));
    }
}
