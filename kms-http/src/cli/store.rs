//! Opens the store for a command, and shows progress on a terminal.

use std::future::Future;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use kms_lib::RootKeyProgress;
use kms_lib::internals::build_runtime;
use kms_lib::{Actor, Config, Kms, Progress, SchedulerConfig, Session};

use super::exit::Failure;
use super::folders::make_high_water_folder;
use crate::settings::Settings;

/// Opens the store and runs `work` as the operator, who is an admin: access to the root key and the store implies it. A
/// store on a read-only medium is opened read-only; commands that only read work and are not recorded.
pub fn with_store<T, Fut>(settings: Settings, work: impl FnOnce(Kms, Session) -> Fut) -> Result<T, Failure>
where
    Fut: Future<Output = Result<T, Failure>>,
{
    let is_read_only = settings.kms.is_store_read_only();
    let config = if is_read_only { settings.with_default_key()?.kms } else { for_one_command(settings)? };
    run(async {
        let kms = if is_read_only { Kms::open_read_only(config).await? } else { Kms::open(config).await? };
        let session = kms.session(Actor::operator());
        let done = work(kms.clone(), session).await;
        kms.close().await?;
        done
    })
}

/// The configuration for a short-lived command: no scheduler, and no new store. Only `serve` and `init` create a store;
/// any other command must fail if it is pointed at the wrong place.
pub fn for_one_command(settings: Settings) -> Result<Config, Failure> {
    let settings = settings.with_default_key()?;
    make_high_water_folder(&settings)?;
    Ok(settings.kms.scheduler(SchedulerConfig::disabled()).make_store(false))
}

/// Runs a future to completion on a new runtime.
pub fn run<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    build_runtime(tokio::runtime::Builder::new_multi_thread().enable_all(), None)?.block_on(work)
}

/// Refresh interval of progress bars.
const TICK: Duration = Duration::from_millis(100);

/// A progress bar on standard error, hidden unless that is a terminal.
pub fn bar(what: &'static str, length: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    ProgressBar::new(length).with_style(bar_style()).with_message(what)
}

fn bar_style() -> ProgressStyle {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} {eta}");
    style.unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Shows the progress of a verification on a terminal, with a spinner for the work before it begins.
pub async fn watched<T>(before: &'static str, progress: &Progress, work: impl Future<Output = T>) -> T {
    if !std::io::stderr().is_terminal() {
        return work.await;
    }
    let bar = ProgressBar::new_spinner().with_message(before);
    let showing = async {
        while progress.total() == 0 {
            bar.tick();
            tokio::time::sleep(TICK).await;
        }
        bar.set_style(bar_style());
        bar.reset_eta();
        bar.set_message("verifying the log");
        loop {
            bar.set_length(progress.total());
            bar.set_position(progress.done());
            tokio::time::sleep(TICK).await;
        }
    };
    let done = tokio::select! {
        done = work => done,
        never = showing => never,
    };
    bar.finish_and_clear();
    done
}

/// Shows the progress of a root key job on a terminal.
pub async fn watched_job<T>(what: &'static str, progress: &RootKeyProgress, work: impl Future<Output = T>) -> T {
    let bar = bar(what, 0);
    let showing = async {
        loop {
            bar.set_length(progress.total());
            bar.set_position(progress.done());
            if progress.failed() > 0 {
                bar.set_message(format!("{what} ({} failed)", progress.failed()));
            }
            tokio::time::sleep(TICK).await;
        }
    };
    let done = tokio::select! {
        done = work => done,
        never = showing => never,
    };
    bar.finish_and_clear();
    done
}
