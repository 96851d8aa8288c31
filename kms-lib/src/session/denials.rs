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

/// Denials that one record stands for.
struct Counted {
    actor: Actor,
    action: Action,
    code: ErrorCode,
    count: u64,
    counted_before: Timestamp,
}

/// Denials of the last minute, by principal and code.
#[derive(Default)]
pub struct Denials(Mutex<HashMap<(String, ErrorCode), Window>>);

impl Denials {
    /// Whether a denial gets a record of its own. If not, it is counted. One that was not decided on a `fresh` image always
    /// gets one: on its way into the log it is decided again.
    pub(super) fn is_recorded(
        &self,
        actor: &Actor,
        action: Action,
        code: ErrorCode,
        now: Timestamp,
        fresh: bool,
    ) -> bool {
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
        if window.count <= EACH || !fresh {
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

    /// One counted record that is due, if there is one.
    fn take_due(&self, now: Timestamp) -> Option<Counted> {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = |window: &Window| window.uncounted > 0 && micros(now, window.counted_at) >= SECOND;
        let ((_, code), window) = windows.iter_mut().find(|(_, window)| is_due(window))?;
        let counted = Counted {
            actor: window.actor.clone(),
            action: window.action,
            code: *code,
            count: std::mem::take(&mut window.uncounted),
            counted_before: window.counted_at,
        };
        window.counted_at = now;
        Some(counted)
    }

    /// Takes back what could not be written, so that the next record counts it too.
    fn put_back(&self, counted: &Counted) {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(window) = windows.get_mut(&(counted.actor.principal().to_owned(), counted.code)) {
            window.uncounted += counted.count;
            window.counted_at = counted.counted_before;
        }
    }
}

fn micros(now: Timestamp, then: Timestamp) -> u64 {
    // A clock that jumped back opens a new window rather than keep an old one for ever.
    now.micros().abs_diff(then.micros())
}

/// Writes the counted records that are due. Called every second, and when the service closes.
pub(crate) async fn write_counted(shared: &Shared, now: Timestamp) -> Result<()> {
    while let Some(counted) = shared.denials.take_due(now) {
        if let Err(error) = write(shared, &counted).await {
            shared.denials.put_back(&counted);
            return Err(error);
        }
    }
    Ok(())
}

async fn write(shared: &Shared, counted: &Counted) -> Result<()> {
    let Counted { actor, action, code, count, .. } = counted;
    let admission = shared.ledger.admit(Lane::Change, actor.principal(), 0)?;
    let mut details = Details::default();
    details.number("count", *count).text("error", code.as_str());
    let draft = Draft {
        id: RecordId::random(),
        actor: actor.clone(),
        action: *action,
        key_id: None,
        key_version: None,
        details,
    };
    let entry = Entry {
        attempts: Vec::new(),
        verdict: Verdict::Failed(*code),
        draft,
        rendered: None,
        uses: Vec::new(),
        tally: (0, *count),
        idempotency: None,
        remember: Vec::new(),
    };
    let revision = shared.catalog.image().revision();
    match shared.ledger.submit(&admission, revision, vec![entry], None, None).await {
        Outcome::Failed(error) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_could_not_be_written_is_counted_again() {
        let denials = Denials::default();
        let now = Timestamp::from_micros(1_000_000_000);
        for _ in 0..70 {
            denials.is_recorded(&Actor::internal("a"), Action::Encrypt, ErrorCode::AccessDenied, now, true);
        }
        let later = now.plus_seconds(2);
        let counted = denials.take_due(later).unwrap();
        assert_eq!(counted.count, 10);
        assert!(denials.take_due(later).is_none());
        denials.put_back(&counted);
        assert_eq!(denials.take_due(later).unwrap().count, 10);
    }

    #[test]
    fn only_a_fresh_denial_is_merely_counted() {
        let denials = Denials::default();
        let now = Timestamp::from_micros(1_000_000_000);
        let denied =
            |fresh| denials.is_recorded(&Actor::internal("a"), Action::Encrypt, ErrorCode::AccessDenied, now, fresh);
        assert!((0..60).all(|_| denied(false)));
        assert!(denied(false) && !denied(true));
        assert_eq!(denials.take_due(now.plus_seconds(2)).unwrap().count, 1);
    }
}
