//! The scheduler's task: it waits for the next period, takes its turn among the nodes, and has the jobs done.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;

use super::background::pause;
use super::jobs;
use super::lease::{self, Node, Turn};
use super::steady::{self, Steady};
use crate::scheduler::{Schedule, SchedulerConfig};
use crate::session::{Session, Shared};
use crate::types::actor::Actor;
use crate::types::ids::RecordId;
use crate::types::time::{Clock, Timestamp};

/// The scheduler looks at the clock at least this often, so that a clock that jumps does not make it sleep for ever.
const WAKE: Duration = Duration::from_secs(30);
/// How often a node that stands by looks whether the one that does the jobs has ended or fallen silent.
const STAND_BY: Duration = Duration::from_secs(10);

/// The periods of a schedule, as a clock that may jump comes to them.
struct Timetable {
    schedule: Schedule,
    clock: Clock,
    /// Periods are looked for after this time.
    from: Timestamp,
    /// When the clock was last looked at.
    seen: Timestamp,
    steady: Steady,
    /// The last period whose time came.
    done: Option<Timestamp>,
    /// Whether jobs that cannot be undone wait until the clock has run evenly for long enough.
    is_put_off: bool,
}

/// What is due.
#[derive(Clone, Copy)]
struct Due {
    /// The period whose time has come; none if only what was put off is due.
    period: Option<Timestamp>,
    /// Whether the clock has run evenly for long enough for what cannot be undone.
    is_steady: bool,
}

impl Timetable {
    fn new(schedule: Schedule, clock: Clock) -> Self {
        let now = clock.now();
        let steady = Steady::new(now, Instant::now());
        Self { schedule, clock, from: now, seen: now, steady, done: None, is_put_off: false }
    }

    /// The next period. None if there is none any more.
    fn next(&self) -> Option<Timestamp> {
        let next = self.schedule.next_after(self.from)?;
        // Not twice for the same minute, whatever the clock does.
        if Some(next) == self.done { self.schedule.next_after(next) } else { Some(next) }
    }

    /// Waits until something is due. None if the service is closed, or there is no further period.
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
            // The clock was put back: the next period is another one.
        }
    }

    /// Looks at the clock: the time, whether it was put back, and whether it has run evenly for long enough.
    fn look(&mut self) -> (Timestamp, bool, bool) {
        let now = self.clock.now();
        let back = if now < self.seen { now.distance(self.seen) } else { Duration::ZERO };
        if back > steady::FAR {
            // What was done was done by a clock that was wrong.
            self.done = None;
        }
        self.seen = now;
        let at = Instant::now();
        self.steady.look(now, at);
        (now, back > steady::JUMP, self.steady.lasts(at) >= steady::STEADY)
    }

    /// Whether the period after this one has come.
    fn is_over(&self, period: Timestamp) -> bool {
        self.schedule.next_after(period).is_none_or(|following| self.clock.now() >= following)
    }
}

/// How a run of the jobs ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    Done,
    /// A job failed, or another node took over.
    Failed,
    /// The service was closed meanwhile.
    Stopped,
}

/// The task. It holds the service weakly: it may be dropped without being closed.
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

    /// Does the jobs at their times until the service is closed or gone.
    pub(super) async fn run(mut self) {
        while let Some(due) = self.timetable.wait(&mut self.stopped).await {
            // Of several nodes one does the jobs of a period. What it has put off it does later by itself.
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
            // What cannot be undone is done as soon as the clock can be trusted.
            self.timetable.is_put_off = !due.is_steady && (self.config.destroy || self.config.revoke_expired);
            if let Some(period) = due.period {
                let ended = if run == Run::Done { node.end(period).await } else { node.release(period).await };
                ended.inspect_err(|error| tracing::debug!(%error, "the lease of jobs runs out by itself")).ok();
            }
            if run == Run::Stopped {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Does what is due. Given up when the service is closed: what was submitted is done, and the rest is still due.
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
                    tracing::error!(%error, "the scheduler's jobs could not be done");
                    Run::Failed
                }
            },
            () = keep_turn(node, due.period) => Run::Failed,
            _ = self.stopped.wait_for(|stopped| *stopped) => Run::Stopped,
        }
    }

    /// Whose turn it is to do the jobs of a period: waits while another node does them, and until the next period at
    /// most. None if the service is closed.
    async fn turn(&mut self, node: &Node, period: Timestamp) -> Option<Turn> {
        loop {
            let is_over = self.timetable.is_over(period);
            match node.take(period).await {
                Ok(Turn::Theirs) if !is_over => {}
                Ok(turn) => return Some(turn),
                // That the store does not answer is said elsewhere.
                Err(error) if is_over => {
                    tracing::error!(%error, "the scheduler's jobs could not be done");
                    return Some(Turn::Theirs);
                }
                Err(error) => tracing::debug!(%error, "the lease of jobs cannot be asked for"),
            }
            if !pause(STAND_BY, &mut self.stopped).await {
                return None;
            }
        }
    }
}

/// Renews the lease of a period for as long as it is waited for.
async fn keep_turn(node: &Node, period: Option<Timestamp>) {
    loop {
        sleep(lease::RENEW).await;
        if let Some(period) = period
            && let Err(error) = node.renew(period).await
        {
            tracing::debug!(%error, "the lease of jobs cannot be renewed");
        }
    }
}
