//! The scheduler's task: it waits for the next period, takes the lease, and runs the jobs.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::jobs;
use super::lease::{self, Node, Turn};
use super::steady::{self, Steady};
use crate::scheduler::{Schedule, SchedulerConfig};
use crate::session::{Session, Shared};
use crate::types::actor::Actor;
use crate::types::ids::RecordId;
use crate::types::time::{Clock, Timestamp};

/// The scheduler reads the clock at least this often, so that a jump of the clock cannot make it sleep indefinitely.
const WAKE: Duration = Duration::from_secs(30);
/// The interval at which a node on standby checks whether the lease holder has finished or stopped renewing.
const STAND_BY: Duration = Duration::from_secs(10);

/// Waits for `time`. Returns true if the service is still running.
pub(super) async fn pause(time: Duration, stopped: &mut watch::Receiver<bool>) -> bool {
    // Otherwise the service was stopped or dropped.
    timeout(time, stopped.wait_for(|stopped| *stopped)).await.is_err()
}

/// The periods of a schedule, read with a clock that may jump.
struct Timetable {
    schedule: Schedule,
    clock: Clock,
    /// Periods after this time are considered.
    from: Timestamp,
    /// The time at the last reading of the clock.
    seen: Timestamp,
    steady: Steady,
    /// The last period that became due.
    done: Option<Timestamp>,
    /// Whether irreversible jobs are postponed until the clock has run steadily for long enough.
    is_put_off: bool,
}

/// The work that is due.
#[derive(Clone, Copy)]
struct Due {
    /// The period that became due; none if only postponed jobs are due.
    period: Option<Timestamp>,
    /// Whether the clock has run steadily for long enough to run irreversible jobs.
    is_steady: bool,
}

impl Timetable {
    fn new(schedule: Schedule, clock: Clock) -> Self {
        let now = clock.now();
        let steady = Steady::new(now, Instant::now());
        Self { schedule, clock, from: now, seen: now, steady, done: None, is_put_off: false }
    }

    /// The next period. None if the schedule has no further one.
    fn next(&self) -> Option<Timestamp> {
        let next = self.schedule.next_after(self.from)?;
        // The same minute is not run twice, whatever the clock does.
        if Some(next) == self.done { self.schedule.next_after(next) } else { Some(next) }
    }

    /// Waits until something is due. None if the service is closed or no further period exists.
    async fn wait(&mut self, stopped: &mut watch::Receiver<bool>) -> Option<Due> {
        loop {
            let next = self.next()?;
            let (now, is_steady) = loop {
                let (now, is_back, is_steady) = self.look();
                if now >= next || is_back || (self.is_put_off && is_steady) {
                    break (now, is_steady);
                }
                if !pause(next.distance(now).min(WAKE), stopped).await {
                    return None;
                }
            };
            self.from = now;
            if now >= next {
                self.done = Some(next);
                return Some(Due { period: Some(next), is_steady });
            }
            if self.is_put_off && is_steady {
                return Some(Due { period: None, is_steady });
            }
            // The clock was set back, so the next period is a different one.
        }
    }

    /// Reads the clock. Returns the time, whether the clock was set back, and whether it has run steadily for long
    /// enough.
    fn look(&mut self) -> (Timestamp, bool, bool) {
        let now = self.clock.now();
        let back = if now < self.seen { now.distance(self.seen) } else { Duration::ZERO };
        if back > steady::FAR {
            // The runs so far were dated by a wrong clock.
            self.done = None;
        }
        self.seen = now;
        let at = Instant::now();
        self.steady.look(now, at);
        (now, back > steady::JUMP, self.steady.lasts(at) >= steady::STEADY)
    }

    /// Whether the next period has already begun.
    fn is_over(&self, period: Timestamp) -> bool {
        self.schedule.next_after(period).is_none_or(|following| self.clock.now() >= following)
    }
}

/// The outcome of a run of the jobs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    Done,
    /// A job failed, or another node took over.
    Failed,
    /// The service was closed meanwhile.
    Stopped,
}

/// The scheduler's task. It holds the service weakly, since the service may be dropped without being closed.
pub(super) struct Runner {
    shared: Weak<Shared>,
    config: SchedulerConfig,
    timetable: Timetable,
    node: RecordId,
    stopped: watch::Receiver<bool>,
}

impl Runner {
    pub(super) fn new(
        shared: &Arc<Shared>,
        config: SchedulerConfig,
        schedule: Schedule,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let timetable = Timetable::new(schedule, shared.clock.clone());
        Self { shared: Arc::downgrade(shared), config, timetable, node: RecordId::random(), stopped }
    }

    /// Runs the jobs on schedule until the service is closed or dropped.
    pub(super) async fn run(mut self) {
        while let Some(due) = self.timetable.wait(&mut self.stopped).await {
            // One of several nodes runs the jobs of a period. Jobs that it postponed it runs later without a lease.
            let Some(node) = self.shared.upgrade().map(|shared| Node::new(&shared, self.node)) else { return };
            if let Some(period) = due.period {
                match self.turn(&node, period).await {
                    Some(Turn::Ours) => {}
                    Some(Turn::Theirs | Turn::Done) => continue,
                    None => return,
                }
            }
            let Some(shared) = self.shared.upgrade() else { return };
            let run = self.do_jobs(Session::new(shared, Actor::internal("scheduler")), &node, due).await;
            // Irreversible jobs run as soon as the clock can be trusted.
            self.timetable.is_put_off = !due.is_steady && (self.config.destroy || self.config.revoke_expired);
            if let Some(period) = due.period {
                let ended = if run == Run::Done { node.end(period).await } else { node.release(period).await };
                if let Err(error) = ended {
                    tracing::debug!(%error, "the scheduler's lease could not be released; it expires automatically");
                }
            }
            if run == Run::Stopped {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Runs the jobs that are due. The run is cancelled when the service closes: submitted changes are completed, and
    /// the rest stays due.
    async fn do_jobs(&mut self, session: Session, node: &Node, due: Due) -> Run {
        let is_time = due.period.is_some();
        let jobs = SchedulerConfig {
            rotate: self.config.rotate && is_time,
            destroy: self.config.destroy && due.is_steady,
            revoke_expired: self.config.revoke_expired && due.is_steady,
            verify: self.config.verify && is_time,
            ..self.config.clone()
        };
        tokio::select! {
            done = jobs::run(&session, &jobs) => match done {
                Ok(_) => Run::Done,
                Err(error) => {
                    tracing::error!(%error, "the scheduler's jobs failed; they stay due");
                    Run::Failed
                }
            },
            () = keep_turn(node, due.period) => Run::Failed,
            _ = self.stopped.wait_for(|stopped| *stopped) => Run::Stopped,
        }
    }

    /// Asks for the lease of a period. Waits while another node runs the jobs, until the next period at most. None if
    /// the service is closed.
    async fn turn(&mut self, node: &Node, period: Timestamp) -> Option<Turn> {
        loop {
            let is_over = self.timetable.is_over(period);
            match node.take(period).await {
                Ok(Turn::Theirs) if !is_over => {}
                Ok(turn) => return Some(turn),
                // An unavailable store is reported elsewhere.
                Err(error) if is_over => {
                    tracing::error!(%error, "the scheduler's jobs of this period could not be run");
                    return Some(Turn::Theirs);
                }
                Err(error) => tracing::debug!(%error, "the scheduler's lease could not be requested"),
            }
            if !pause(STAND_BY, &mut self.stopped).await {
                return None;
            }
        }
    }
}

/// Renews the lease of a period until the future is dropped.
async fn keep_turn(node: &Node, period: Option<Timestamp>) {
    loop {
        sleep(lease::RENEW).await;
        if let Some(period) = period
            && let Err(error) = node.renew(period).await
        {
            tracing::debug!(%error, "the scheduler's lease could not be renewed");
        }
    }
}
