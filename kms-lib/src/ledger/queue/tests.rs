#![allow(clippy::unwrap_used)]

use tokio::sync::oneshot;

use super::super::details::Details;
use super::super::few::Few;
use super::super::submission::{Admission, Draft, Entry, Outcome, Verdict, cost_of};
use super::*;
use crate::types::actor::{Actor, Role};
use crate::types::audit::Action;

/// A queue with its submissions.
struct Place {
    queue: Arc<Queue>,
    answers: Vec<oneshot::Receiver<Outcome>>,
}

fn entry(principal: &str) -> Entry {
    Entry {
        attempts: Few::default(),
        verdict: Verdict::Allowed { valid_until: None },
        draft: Draft {
            actor: Actor::new(principal, Role::Admin).unwrap(),
            action: Action::Encrypt,
            key_id: None,
            key_version: None,
            details: Details::default(),
        },
        rendered: None,
        uses: Few::default(),
        tally: (1, 0),
        idempotency: None,
        remember: Vec::new(),
    }
}

impl Place {
    fn new() -> Self {
        let limits = Limits { operations: 16_384, changes: 1_024, bytes: 1 << 28 };
        Self { queue: Arc::new(Queue::new(limits)), answers: Vec::new() }
    }

    /// Adds a submission with the given number of records.
    fn push(&mut self, principal: &str, records: usize, command: Option<Command>, retry: Option<RetrySlot>) {
        let (reply, answer) = oneshot::channel();
        let lane = if command.is_some() { Lane::Change } else { Lane::Use };
        let entries: Vec<Entry> = (0..records).map(|_| entry(principal)).collect();
        let cost = cost_of(&entries, command.as_ref());
        let admission = self.queue.admit(lane, principal, 0).unwrap();
        let (command, reply) = (command.map(Box::new), Some(reply));
        let submission =
            Submission { decided_at: 0, entries, command, cost, retry, released_at: None, admission, reply };
        self.queue.push(submission).unwrap();
        self.answers.push(answer);
    }

    fn take(&self) -> Vec<Submission> {
        let mut batch = Vec::new();
        self.queue.take_more(&mut batch);
        batch
    }
}

fn of<'a>(batch: &'a [Submission], principal: &str) -> impl Iterator<Item = &'a Submission> {
    batch.iter().filter(move |submission| &**submission.principal() == principal)
}

fn cost(batch: &[Submission]) -> usize {
    batch.iter().map(|submission| submission.cost).sum()
}

/// A command that changes the given number of rows.
fn of_rows(rows: usize) -> Command {
    Command::EraseWrappings(1, vec![[0; 16]; rows])
}

/// A submission over a thousand keys costs as much as a thousand operations: another principal's operation is in the
/// next batch, however many such submissions wait.
#[test]
fn large_batches_do_not_hold_up_single_operations() {
    let mut place = Place::new();
    for _ in 0..100 {
        place.push("greedy", 1_000, None, None);
    }
    let mut greedy = 0;
    for round in 0..10 {
        let modest = format!("modest-{round}");
        for _ in 0..20 {
            place.push(&modest, 1, None, None);
        }
        let batch = place.take();
        assert_eq!(of(&batch, &modest).count(), 20, "round {round}");
        assert!(cost(&batch) <= 2 * BATCH.cost, "{}", cost(&batch));
        greedy += of(&batch, "greedy").count();
    }
    assert!(greedy >= 10, "{greedy}");
}

/// Turns go by cost, not by number: many small operations get no larger share than a few large ones.
#[test]
fn principals_share_by_cost() {
    let mut place = Place::new();
    for _ in 0..2_000 {
        place.push("small", 1, None, None);
    }
    for _ in 0..40 {
        place.push("large", 50, None, None);
    }
    let batch = place.take();
    let (small, large) = (of(&batch, "small").count(), 50 * of(&batch, "large").count());
    assert!(small.abs_diff(large) <= 60, "{small} and {large}");
}

#[test]
fn heavy_changes_do_not_hold_up_revocations_and_operations() {
    let mut place = Place::new();
    for _ in 0..200 {
        place.push("greedy", 1, Some(of_rows(1_000)), None);
    }
    drop(place.take());
    place.push("modest", 1, Some(Command::RevokeKey(KeyId::random())), None);
    for _ in 0..50 {
        place.push("other", 1, None, None);
    }
    let batch = place.take();
    assert_eq!((of(&batch, "modest").count(), of(&batch, "other").count()), (1, 50));
    assert!(cost(&batch) <= 2 * BATCH.cost, "{}", cost(&batch));
    // Room that other lanes do not need is used: the rest of the batch is for waiting submissions.
    assert!(of(&batch, "greedy").count() >= 2);
}

/// Rotations wait for submissions that they superseded, but not indefinitely; a rotation that returns is the next one.
#[test]
fn rotations_come_behind_what_comes_back() {
    let mut place = Place::new();
    let rotate = || Some(Command::Rotate(KeyId::random(), new_version()));
    let slot = place.queue.open_retry();
    place.push("a", 1, rotate(), None);
    place.push("b", 1, None, None);
    let batch = place.take();
    assert!(batch.len() == 1 && batch[0].command.is_none(), "{}", batch.len());
    let retried = place.queue.open_retry();
    place.push("c", 1, rotate(), Some(retried));
    place.push("d", 1, None, Some(slot));
    let order: Vec<String> = place.take().iter().map(|submission| submission.principal().to_string()).collect();
    assert_eq!(order, ["d", "c", "a"]);
    // Held back for a limited time only.
    let _slot = place.queue.open_retry();
    place.push("e", 1, rotate(), None);
    assert!(place.take().is_empty());
    std::thread::sleep(HOLD);
    assert_eq!(place.take().len(), 1);
}

fn new_version() -> crate::lifecycle::NewVersion {
    crate::lifecycle::NewVersion {
        id: crate::types::ids::VersionId::random(),
        version: 2,
        material: crate::types::key::Material { wrapped: Vec::new(), public_key_pem: None },
        fingerprint: [0; 32],
    }
}

/// Principals without work are forgotten, however many there were and however long the queue is busy.
#[test]
fn principals_without_work_are_forgotten() {
    let mut place = Place::new();
    place.push("greedy", 10, None, None);
    for n in 0..3_000 {
        place.push(&format!("principal-{n}"), 1, None, None);
        place.push("greedy", 10, None, None);
        let done = [(); 2].map(|()| place.queue.lanes().uses.pop());
        assert!(done.iter().all(Option::is_some) && !place.queue.lanes().uses.is_empty());
    }
    assert!(place.queue.lanes().uses.ends_len() < 600);
}

/// Places that end together are free again, except for one that its caller still holds.
#[test]
fn admissions_that_end_together_free_their_places() {
    let queue = Arc::new(Queue::new(Limits { operations: 8, changes: 1, bytes: 0 }));
    let admit = |principal: &str| queue.admit(Lane::Use, principal, 0);
    for _ in 0..2 {
        let mut admitted: Vec<_> = ["a", "a", "b", "a", "a"].map(|principal| admit(principal).unwrap()).into();
        assert!(admit("a").is_err());
        let kept = admitted.first().map(Arc::clone);
        admitted.push(admit("c").unwrap());
        Admission::end_all(admitted);
        let again: Vec<_> = (0..3).map(|_| admit("a").unwrap()).collect();
        assert!(admit("a").is_err());
        drop((kept, again));
    }
}
