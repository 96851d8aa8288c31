//! Output of commands on standard output.

use std::io::Write;
use std::process::ExitCode;

use serde::Serialize;

use super::exit::Failure;

/// Prints a line on standard output. A closed pipe is ignored. On any other error the process exits with 1, because the
/// lost line may have been a token that is printed only once.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    if let Err(error) = written
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        eprintln!("kms-http: cannot write to standard output: {error}");
        std::process::exit(1);
    }
}

/// Prints the result of a successful command: JSON for scripts, or lines of text.
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
