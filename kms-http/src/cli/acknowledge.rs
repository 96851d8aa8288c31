//! What opens a store that nothing else opens any more, and is recorded: `kms-http audit acknowledge-restore` and
//! `acknowledge-clock`.

use std::process::ExitCode;

use kms_lib::{AuditAck, ErrorCode, Kms, Timestamp};
use serde_json::json;

use super::exit::Failure;
use super::output;
use super::store;
use crate::settings::Settings;

/// What was needed, and is acknowledged now.
struct Acknowledged {
    clock: bool,
    restore: bool,
    /// The high-water file, if there was none: then nobody can tell whether the store was rolled back.
    unknown: Option<String>,
}

/// Accepts that a clock was ahead, if the present is given; and, if asked for, that the store was rolled back.
pub fn run(settings: Settings, now: Option<Timestamp>, restore: bool, as_json: bool) -> Result<ExitCode, Failure> {
    let done = acknowledge(settings, now, restore)?;
    report(&done, restore, as_json)
}

/// Opens the store, with those of the acknowledgements given that it fails without.
fn acknowledge(settings: Settings, clock: Option<Timestamp>, restore: bool) -> Result<Acknowledged, Failure> {
    let mark = settings.kms.high_water_file();
    let unknown = mark.filter(|path| !path.exists()).map(|path| path.display().to_string());
    // What is acknowledged is in the log when this says so.
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

/// Names the command for what is to be acknowledged as well.
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
        lines.push("acknowledged; the log says where time goes back".to_owned());
    }
    if *restore {
        lines.push("acknowledged; the log says what was lost".to_owned());
    }
    match unknown {
        Some(mark) if with_restore => {
            lines.push(format!("nothing known: there was no high-water file {mark} to hold the store against"));
        }
        _ if lines.is_empty() => lines.push(
            "nothing to acknowledge: the store is not older than it was, its last record of no time to come".to_owned(),
        ),
        _ => {}
    }
    let shown = json!({"acknowledged": *clock || *restore, "clock": clock, "restore": restore});
    output::show(as_json, &shown, lines)
}
