//! What the program says.

use std::io::Write;

use serde::Serialize;

use super::exit::Failure;

/// A line on standard output. Whoever closed it does not want to know more.
pub fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// JSON for scripts.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::new(1, e.to_string()))?;
    line(&text);
    Ok(())
}
