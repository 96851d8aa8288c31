//! What goes on while the service is open: the scheduler at its times, and every second a look at the store.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::jobs;
use super::lease::{self, Node, Turn};
use crate::catalog::run_blocking;
use crate::config::Config;
use crate::outage::Outage;
use crate::scheduler::{Schedule, SchedulerConfig};
use crate::session::{Session, Shared, write_counted};
use crate::storage::inspection;
use crate::types::actor::Actor;
use crate::types::error::Result;
use crate::types::ids::RecordId;
use crate::types::time::{Clock, Timestamp};

/// How often the head is looked at, and expired material dropped.
const LOOK: Duration = Duration::from_secs(1);
/// How often the schema is inspected. On SQLite, a change that its counter shows is noticed at once. One that was found
/// altered is inspected at every look: it may have been amidst a migration.
const INSPECT: Duration = Duration::from_secs(60);
/// The scheduler looks at the clock at least this often, so that a clock that jumps does not make it sleep for ever.
const WAKE: Duration = Duration::from_secs(30);

/// How often a node that stands by looks whether the one that does the jobs has ended or fallen silent.
const STAND_BY: Duration = Duration::from_secs(10);

/// How far the clock may be from where the time that has passed would have put it.
const JUMP: Duration = Duration::from_secs(30);
/// A clock that is put back further than this comes to other minutes, though they have the same names.
const FAR: Duration = Duration::from_secs(120);
/// Nothing is done that cannot be undone before the clock has run evenly for so long: one that was set wrongly, or is
/// yet to be set, would erase keys whose deletion can still be cancelled.
const STEADY: Duration = Duration::from_secs(600);

/// Holds the clock against the one that nobody sets.
struct Steady {
    seen: (Timestamp, Instant),
    since: Instant,
}

impl Steady {
    fn new(now: Timestamp, at: Instant) -> Self {
        Self { seen: (now, at), since: at }
    }

    fn look(&mut self, now: Timestamp, at: Instant) {
        let (before, seen_at) = self.seen;
        let passed = at.saturating_duration_since(seen_at);
        let moved = before.distance(now);
        let is_even = now >= before && moved.abs_diff(passed) <= JUMP;
        if !is_even && moved.max(passed) > JUMP {
            tracing::warn!(%before, %now, ?passed, "the clock jumped: nothing that cannot be undone is done for a while");
            self.since = at;
        }
        self.seen = (now, at);
    }

    /// For how long it has run evenly.
    fn lasts(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.since)
    }
}

/// Starts the tasks. They hold the service weakly: it may be dropped without being closed.
pub(super) fn start(
    shared: &Arc<Shared>,
    config: &Config,
    stopped: &watch::Receiver<bool>,
) -> Result<Vec<JoinHandle<()>>> {
    let mut tasks = vec![tokio::spawn(look(Arc::downgrade(shared), config.high_water.clone(), stopped.clone()))];
    let config = &config.scheduler;
    if config.enabled {
        let schedule = Schedule::parse(&config.cron)?;
        tasks.push(tokio::spawn(schedule_jobs(
            Arc::downgrade(shared),
            config.clone(),
            schedule,
            shared.clock.clone(),
            stopped.clone(),
        )));
    }
    Ok(tasks)
}

/// Waits; answers whether the service goes on.
async fn pause(time: Duration, stopped: &mut watch::Receiver<bool>) -> bool {
    // Otherwise it was stopped, or is gone.
    timeout(time, stopped.wait_for(|stopped| *stopped)).await.is_err()
}

async fn look(shared: Weak<Shared>, high_water: Option<PathBuf>, mut stopped: watch::Receiver<bool>) {
    let mut noted = 0;
    let mut connecting = JoinSet::new();
    let mut inspected = Instant::now();
    let outage = Outage::new("the store cannot be read");
    while pause(LOOK, &mut stopped).await {
        let Some(shared) = shared.upgrade() else { return };
        if inspected.elapsed() >= INSPECT || shared.ledger.seen().check_writable().is_err() {
            inspected = Instant::now();
            inspect_schema(&shared).await;
        }
        shared.space.look().await;
        let fresh = shared.catalog.ensure_fresh().await;
        // Whatever another process has revoked must not stay in memory: before anything that may take its time.
        shared.materials.drop_unusable(&shared.catalog).await;
        while connecting.try_join_next().is_some() {}
        if connecting.is_empty() {
            // A generation of the root key that another node added. It may be far away, and nothing waits for it.
            let envelope = shared.envelope.clone();
            connecting.spawn(async move { envelope.connect_missing().await });
        }
        if let Err(error) = fresh {
            outage.note(&error, 0);
            continue;
        }
        outage.end();
        if let Err(error) = write_counted(&shared, shared.clock.now()).await {
            tracing::debug!(%error, "denials could not be counted in the log");
        }
        if let Err(error) = note_head(&shared, high_water.as_deref(), &mut noted).await {
            tracing::warn!(%error, "the high-water file is not up to date");
        }
    }
}

/// Inspects the schema. One that was altered is neither written nor listed until it is sound again.
async fn inspect_schema(shared: &Shared) {
    let inspected = async {
        let mut connection = shared.store.reader().await?;
        inspection::inspect(connection.as_mut()).await
    };
    match inspected.await {
        Ok(found) => {
            let refusal = inspection::refuse(&found.faults).err();
            if let Some(error) = &refusal {
                tracing::error!(%error, "nothing is written until the schema is sound again");
            }
            shared.ledger.seen().set_refusal(refusal);
        }
        Err(error) => tracing::warn!(%error, "the schema of the store cannot be inspected"),
    }
}

/// Notes the head, if it has moved, as one that this process has seen; and in the high-water file.
async fn note_head(shared: &Shared, path: Option<&Path>, noted: &mut u64) -> Result<()> {
    super::head::see(shared).await?;
    let (size, checkpoint) = shared.ledger.seen().checkpoint();
    if size > *noted {
        if let Some(path) = path.map(Path::to_owned) {
            run_blocking(move || super::high_water::write(&path, &checkpoint)).await?;
        }
        *noted = size;
    }
    Ok(())
}

async fn schedule_jobs(
    shared: Weak<Shared>,
    config: SchedulerConfig,
    schedule: Schedule,
    clock: Clock,
    mut stopped: watch::Receiver<bool>,
) {
    let mut from = clock.now();
    let mut seen = from;
    let mut steady = Steady::new(from, Instant::now());
    let mut done = None;
    let mut is_put_off = false;
    let id = RecordId::random();
    loop {
        let mut next = schedule.next_after(from);
        // Not twice for the same minute, whatever the clock does.
        if next.is_some() && next == done {
            next = next.and_then(|next| schedule.next_after(next));
        }
        let Some(next) = next else { return };
        let (now, is_steady) = loop {
            let now = clock.now();
            let was_put_back = now < seen && now.distance(seen) > JUMP;
            if was_put_back && now.distance(seen) > FAR {
                // What was done was done by a clock that was wrong.
                done = None;
            }
            seen = now;
            steady.look(now, Instant::now());
            let is_steady = steady.lasts(Instant::now()) >= STEADY;
            if now >= next || was_put_back || (is_put_off && is_steady) {
                break (now, is_steady);
            }
            if !pause(next.distance(now).min(WAKE), &mut stopped).await {
                return;
            }
        };
        let is_time = now >= next;
        from = now;
        if is_time {
            done = Some(next);
        } else if !(is_put_off && is_steady) {
            // The clock was put back: the next time is another one.
            continue;
        }
        // Of several nodes one does the jobs of a period. What it has put off it does later by itself.
        let node = match shared.upgrade() {
            Some(shared) => Node::new(&shared, id),
            None => return,
        };
        if is_time {
            match turn_of(&node, &schedule, next, &clock, &mut stopped).await {
                Some(Turn::Ours) => {}
                Some(Turn::Theirs | Turn::Done) => continue,
                None => return,
            }
        }
        let Some(shared) = shared.upgrade() else { return };
        let session = Session::new(shared, Actor::internal("scheduler"));
        let due = SchedulerConfig {
            rotate: config.rotate && is_time,
            destroy: config.destroy && is_steady,
            revoke_expired: config.revoke_expired && is_steady,
            verify: config.verify && is_time,
            ..config.clone()
        };
        // What cannot be undone is done as soon as the clock can be trusted.
        is_put_off = !is_steady && (config.destroy || config.revoke_expired);
        // Given up when the service is closed: what was submitted is done, and the rest is still due.
        let (is_stopped, is_done) = tokio::select! {
            done = jobs::run(&session, &due) => {
                if let Err(error) = &done {
                    tracing::error!(%error, "the scheduler's jobs could not be done");
                }
                (false, done.is_ok())
            }
            () = keep_turn(&node, next, is_time) => (false, false),
            _ = stopped.wait_for(|stopped| *stopped) => (true, false),
        };
        drop(session);
        if is_time {
            let ended = if is_done { node.end(next).await } else { node.release(next).await };
            ended.inspect_err(|error| tracing::debug!(%error, "the lease of jobs runs out by itself")).ok();
        }
        if is_stopped {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Whose turn it is to do the jobs of a period: waits while another node does them, and until the next period at most.
/// None if the service is closed.
async fn turn_of(
    node: &Node,
    schedule: &Schedule,
    period: Timestamp,
    clock: &Clock,
    stopped: &mut watch::Receiver<bool>,
) -> Option<Turn> {
    loop {
        let is_over = schedule.next_after(period).is_none_or(|following| clock.now() >= following);
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
        if !pause(STAND_BY, stopped).await {
            return None;
        }
    }
}

/// Renews the lease for as long as it is waited for.
async fn keep_turn(node: &Node, period: Timestamp, is_leased: bool) {
    loop {
        sleep(lease::RENEW).await;
        if is_leased && let Err(error) = node.renew(period).await {
            tracing::debug!(%error, "the lease of jobs cannot be renewed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_is_noticed() {
        let (begun, time) = (Instant::now(), Timestamp::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut steady = Steady::new(time, begun);
        for n in 1..=40 {
            // A second too much or too little is no jump.
            steady.look(time.plus_seconds(n * 30 + n % 2), at(n as u64 * 30));
        }
        assert_eq!(steady.lasts(at(1_200)), Duration::from_secs(1_200));
        // A month ahead, from then on evenly; and back.
        let month = 30 * 86_400;
        steady.look(time.plus_seconds(month + 1_230), at(1_230));
        steady.look(time.plus_seconds(month + 1_260), at(1_260));
        assert_eq!(steady.lasts(at(1_260)), Duration::from_secs(30));
        steady.look(time.plus_seconds(1_290), at(1_290));
        assert_eq!(steady.lasts(at(1_290)), Duration::ZERO);
        // Still, while time passes.
        steady.look(time.plus_seconds(1_290), at(1_330));
        assert_eq!(steady.lasts(at(1_340)), Duration::from_secs(10));
    }
}
