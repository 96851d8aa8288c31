//! Limits on clock skew: a process whose clock exceeds them commits nothing.

use std::time::Duration;

use crate::types::error::{Error, ErrorCode, Result};
use crate::types::time::Timestamp;

/// The permitted difference between clocks.
const CLOCK_SKEW: Duration = Duration::from_secs(30);

/// The permitted difference between a time given by a caller and this machine's clock.
const SAYING: Duration = Duration::from_secs(300);

/// Whether a time is in the future by more than the permitted clock skew.
pub fn is_to_come(time: Timestamp, now: Timestamp) -> bool {
    time > now && time.distance(now) > CLOCK_SKEW
}

/// Fails with `ClockSkew` if the time of the log's last record is in the future.
pub fn check_log(last: Timestamp, now: Timestamp) -> Result<()> {
    if !is_to_come(last, now) {
        return Ok(());
    }
    let text = format!(
        "this machine's clock reads {now}, but the log's last record has the time {last}; set the clock, or, if it is \
         right and another clock was ahead, acknowledge the clock"
    );
    Err(Error::new(ErrorCode::ClockSkew, text))
}

/// Fails with `ClockSkew` if the database server's clock differs by more than the permitted skew.
pub fn check_database(theirs: Timestamp, now: Timestamp) -> Result<()> {
    if theirs.distance(now) <= CLOCK_SKEW {
        return Ok(());
    }
    let text =
        format!("this machine's clock reads {now}, but the database server's clock reads {theirs}; set the clocks");
    Err(Error::new(ErrorCode::ClockSkew, text))
}

/// Fails with `InvalidArgument` if this machine's clock differs from the time given by a caller.
pub fn check_said(said: Timestamp, now: Timestamp) -> Result<()> {
    if said.distance(now) <= SAYING {
        return Ok(());
    }
    Err(Error::invalid(format!("this machine's clock reads {now}, not {said}; set the clock first")))
}
