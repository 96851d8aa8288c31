//! Denials are recorded, but nobody can fill the log with them: from 60 a minute on, by one principal for one reason, one
//! counted record a second stands for them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::Shared;
use crate::ledger::{Details, Draft, Entry, Lane, Outcome, Verdict};
use crate::types::actor::Actor;
use crate::types::audit::Action;
use crate::types::error::{ErrorCode, Result};
use crate::types::ids::RecordId;
use crate::types::time::Timestamp;

/// Denials of one principal and code in a minute that each have their record.
const EACH: u32 = 60;
/// Microseconds of the window, and between counted records.
const MINUTE: u64 = 60_000_000;
const SECOND: u64 = 1_000_000;
/// Principals and codes that are followed; the longest silent are forgotten beyond it.
const FOLLOWED: usize = 10_000;

struct Window {
    begun: Timestamp,
    count: u32,
    /// Denials without a record of their own, since the last counted one.
    uncounted: u64,
    counted_at: Timestamp,
    actor: Actor,
    action: Action,
}

/// Denials of the last minute, by principal and code.
#[derive(Default)]
pub struct Denials(Mutex<HashMap<(String, ErrorCode), Window>>);

impl Denials {
    /// Whether a denial gets a record of its own. If not, it is counted.
    pub(super) fn is_recorded(&self, actor: &Actor, action: Action, code: ErrorCode, now: Timestamp) -> bool {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() >= FOLLOWED {
            windows.retain(|_, window| window.uncounted > 0 || micros(now, window.begun) < MINUTE);
        }
        let window = windows.entry((actor.principal().to_owned(), code)).or_insert_with(|| Window {
            begun: now,
            count: 0,
            uncounted: 0,
            counted_at: now,
            actor: actor.clone(),
            action,
        });
        if micros(now, window.begun) >= MINUTE {
            (window.begun, window.count) = (now, 0);
        }
        window.count = window.count.saturating_add(1);
        if window.count <= EACH {
            return true;
        }
        window.uncounted += 1;
        (window.actor, window.action) = (actor.clone(), action);
        false
    }

    /// Whether the next denial of this principal and code may be one that is only counted.
    pub(super) fn is_flooding(&self, actor: &Actor, code: ErrorCode) -> bool {
        let windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        windows.get(&(actor.principal().to_owned(), code)).is_some_and(|window| window.count >= EACH)
    }

    /// What a counted record is due for.
    fn take_due(&self, now: Timestamp) -> Vec<(Actor, Action, ErrorCode, u64)> {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        for ((_, code), window) in windows.iter_mut() {
            if window.uncounted > 0 && micros(now, window.counted_at) >= SECOND {
                due.push((window.actor.clone(), window.action, *code, std::mem::take(&mut window.uncounted)));
                window.counted_at = now;
            }
        }
        due
    }
}

fn micros(now: Timestamp, then: Timestamp) -> u64 {
    // A clock that jumped back opens a new window rather than keep an old one for ever.
    now.micros().abs_diff(then.micros())
}

/// Writes the counted records that are due. Called every second, and when the service closes.
pub(crate) async fn write_counted(shared: &Shared, now: Timestamp) -> Result<()> {
    for (actor, action, code, count) in shared.denials.take_due(now) {
        let admission = shared.ledger.admit(Lane::Change, actor.principal(), 0)?;
        let mut details = Details::default();
        details.number("count", count).text("error", code.as_str());
        let draft = Draft { id: RecordId::random(), actor, action, key_id: None, key_version: None, details };
        let entry = Entry {
            attempts: Vec::new(),
            verdict: Verdict::Failed(code),
            draft,
            rendered: None,
            uses: Vec::new(),
            tally: (0, count),
            idempotency: None,
            remember: Vec::new(),
        };
        let revision = shared.catalog.image().revision();
        if let Outcome::Failed(error) = shared.ledger.submit(&admission, revision, vec![entry], None, None).await {
            return Err(error);
        }
    }
    Ok(())
}
