//! `kms-http audit acknowledge-restore` and `acknowledge-clock`: open a store that refuses to open after a rollback or
//! a clock error, and record the acknowledgement in the audit log.

use std::process::ExitCode;

use kms_lib::{AuditAck, ErrorCode, Kms, Timestamp};
use serde_json::json;

use super::exit::Failure;
use super::output;
use super::store;
use crate::settings::Settings;

/// The acknowledgements that the store needed and that were recorded.
struct Acknowledged {
    clock: bool,
    restore: bool,
    /// The path of the high-water file if it is missing; without it, a rollback cannot be detected.
    unknown: Option<String>,
}

/// Acknowledges a clock that was ahead, if the current time `now` is given, and a rollback, if `restore` is set.
pub fn run(settings: Settings, now: Option<Timestamp>, restore: bool, as_json: bool) -> Result<ExitCode, Failure> {
    let done = acknowledge(settings, now, restore)?;
    report(&done, restore, as_json)
}

/// Opens the store with only those of the given acknowledgements without which opening fails.
fn acknowledge(settings: Settings, clock: Option<Timestamp>, restore: bool) -> Result<Acknowledged, Failure> {
    let mark = settings.kms.high_water_file();
    let unknown = mark.filter(|path| !path.exists()).map(|path| path.display().to_string());
    // The acknowledgement must be durable in the log before it is reported.
    let mut config = store::for_one_command(settings)?.audit_ack(AuditAck::Durable);
    let mut done = Acknowledged { clock: false, restore: false, unknown };
    store::run(async {
        loop {
            match (Kms::open(config.clone()).await, clock) {
                (Err(error), Some(now)) if error.code() == ErrorCode::ClockSkew && !done.clock => {
                    config = config.acknowledge_clock(now);
                    done.clock = true;
                }
                (Err(error), _) if error.code() == ErrorCode::RestoreDetected && restore && !done.restore => {
                    config = config.acknowledge_restore(true);
                    done.restore = true;
                }
                (Err(error), _) => return Err(hint(error, clock.is_some(), restore)),
                (Ok(kms), _) => {
                    kms.close().await?;
                    return Ok(done);
                }
            }
        }
    })
}

/// Adds the option that acknowledges the remaining problem to the error.
fn hint(error: kms_lib::Error, clock: bool, restore: bool) -> Failure {
    match error.code() {
        ErrorCode::ClockSkew if !clock => {
            Failure::from(error).with("`audit acknowledge-clock --now TIME --restore` acknowledges both")
        }
        ErrorCode::RestoreDetected if !restore => Failure::from(error).with("`--restore` acknowledges that too"),
        _ => error.into(),
    }
}

fn report(done: &Acknowledged, with_restore: bool, as_json: bool) -> Result<ExitCode, Failure> {
    let Acknowledged { clock, restore, unknown } = done;
    let mut lines = Vec::new();
    if *clock {
        lines.push("acknowledged; the audit log records where time goes back".to_owned());
    }
    if *restore {
        lines.push("acknowledged; the audit log records what was lost".to_owned());
    }
    match unknown {
        Some(mark) if with_restore => {
            lines.push(format!("a rollback cannot be detected: there was no high-water file {mark}"));
        }
        _ if lines.is_empty() => lines.push(
            "nothing to acknowledge: the store was not rolled back and its last record is not in the future".to_owned(),
        ),
        _ => {}
    }
    let shown = json!({"acknowledged": *clock || *restore, "clock": clock, "restore": restore});
    output::show(as_json, &shown, lines)
}
