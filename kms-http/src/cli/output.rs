//! What the program says.

use std::io::Write;
use std::process::ExitCode;

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

/// JSON for scripts, or lines for people, with which the command has succeeded.
pub fn show(
    as_json: bool,
    value: &impl Serialize,
    lines: impl IntoIterator<Item = String>,
) -> Result<ExitCode, Failure> {
    if as_json {
        line(&serde_json::to_string_pretty(value)?);
    } else {
        lines.into_iter().for_each(|text| line(&text));
    }
    Ok(ExitCode::SUCCESS)
}
