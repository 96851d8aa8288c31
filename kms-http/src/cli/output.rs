//! What the program says.

use std::io::Write;

use serde::Serialize;

use super::exit::Failure;

/// A line on standard output. Whoever closed it does not want to know more; but what cannot be written there is lost,
/// and with it perhaps a token that is shown once: then the program ends with 1.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    if let Err(error) = written
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        eprintln!("kms-http: standard output cannot be written: {error}");
        std::process::exit(1);
    }
}

/// JSON for scripts, or lines for people.
pub fn show(as_json: bool, value: &impl Serialize, lines: impl IntoIterator<Item = String>) -> Result<(), Failure> {
    if as_json {
        return json(value);
    }
    lines.into_iter().for_each(|text| line(&text));
    Ok(())
}

/// JSON for scripts.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::new(1, e.to_string()))?;
    line(&text);
    Ok(())
}
