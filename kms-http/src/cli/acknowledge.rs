//! What opens a store that nothing else opens any more, and is recorded: `kms-http audit acknowledge-restore` and
//! `acknowledge-clock`.

use std::process::ExitCode;
use std::time::Duration;

use kms_lib::{Config, ErrorCode, Kms, Timestamp};
use serde_json::json;

use super::exit::Failure;
use super::output;
use super::store::{for_one_command, run};
use crate::settings::Settings;

/// How far the time that somebody types may lie from this machine's.
const TYPING: Duration = Duration::from_secs(300);

/// Accepts that the store was put back.
pub fn restore(settings: Settings, as_json: bool) -> Result<ExitCode, Failure> {
    // Where nothing was noted, nobody can tell.
    let mark = settings.kms.high_water_file();
    let unknown = mark.filter(|path| !path.exists()).map(|path| path.display().to_string());
    let config = for_one_command(settings)?;
    let given = config.clone().acknowledge_restore(true);
    let was_needed = run(acknowledge(config, &[ErrorCode::RestoreDetected], given))?;
    let nothing = match unknown {
        Some(mark) => format!("nothing known: there was no high-water file {mark} to hold the store against"),
        None => "nothing to acknowledge: the store is not older than it was".into(),
    };
    report(was_needed, "acknowledged; the log says what was lost", &nothing, as_json)
}

/// Accepts that a clock was ahead; and, if asked for, that the store was put back.
///
/// Far more often it is this machine's clock that is behind. Then windows that are over would open again, so somebody
/// who knows the time must say it.
pub fn clock(settings: Settings, now: Timestamp, restore: bool, as_json: bool) -> Result<ExitCode, Failure> {
    let machine = Timestamp::now();
    if machine.distance(now) > TYPING {
        return Err(Failure::new(2, format!("this machine's clock says {machine}, not {now}: set it first")));
    }
    let config = for_one_command(settings)?;
    let given = config.clone().acknowledge_clock(true).acknowledge_restore(restore);
    let codes: &[_] =
        if restore { &[ErrorCode::ClockSkew, ErrorCode::RestoreDetected] } else { &[ErrorCode::ClockSkew] };
    let was_needed = run(acknowledge(config, codes, given))?;
    let nothing = "nothing to acknowledge: the log's last record is not of a time to come";
    report(was_needed, "acknowledged; the log says where time goes back", nothing, as_json)
}

/// Opens the store, and if that fails for one of these reasons, with the acknowledgement given. Answers whether that was
/// needed.
async fn acknowledge(config: Config, codes: &[ErrorCode], given: Config) -> Result<bool, Failure> {
    let (kms, was_needed) = match Kms::open(config).await {
        Err(error) if codes.contains(&error.code()) => (Kms::open(given).await?, true),
        opened => (opened?, false),
    };
    kms.close().await?;
    Ok(was_needed)
}

fn report(was_needed: bool, done: &str, nothing: &str, as_json: bool) -> Result<ExitCode, Failure> {
    if as_json {
        output::json(&json!({"acknowledged": was_needed}))?;
    } else {
        output::line(if was_needed { done } else { nothing });
    }
    Ok(ExitCode::SUCCESS)
}
