//! How far clocks may lie apart: whoever's clock is further away commits nothing.

use std::time::Duration;

use crate::types::error::{Error, ErrorCode, Result};
use crate::types::time::Timestamp;

/// Clocks may be so far apart.
const CLOCK_SKEW: Duration = Duration::from_secs(30);

/// How far the time that somebody says may lie from this machine's.
const SAYING: Duration = Duration::from_secs(300);

/// Whether a time has not come yet, by more than clocks may lie apart.
pub fn is_to_come(time: Timestamp, now: Timestamp) -> bool {
    time > now && time.distance(now) > CLOCK_SKEW
}

/// `ClockSkew` if the log's last record is of a time that has not come yet.
pub fn check_log(last: Timestamp, now: Timestamp) -> Result<()> {
    if !is_to_come(last, now) {
        return Ok(());
    }
    let text = format!(
        "this machine's clock says {now}, but the log's last record is of {last}. Set the clock; if it is right, and another \
         one was ahead, acknowledge that to go on"
    );
    Err(Error::new(ErrorCode::ClockSkew, text))
}

/// `ClockSkew` if the database server's clock says something else.
pub fn check_database(theirs: Timestamp, now: Timestamp) -> Result<()> {
    if theirs.distance(now) <= CLOCK_SKEW {
        return Ok(());
    }
    Err(Error::new(ErrorCode::ClockSkew, format!("this machine's clock says {now}, but the database's {theirs}")))
}

/// Whether this machine's clock agrees with what somebody says the time is: `InvalidArgument` if it does not.
pub fn check_said(said: Timestamp, now: Timestamp) -> Result<()> {
    if said.distance(now) <= SAYING {
        return Ok(());
    }
    Err(Error::invalid(format!("this machine's clock says {now}, not {said}: set it first")))
}
