//! `kms-http audit anchor`, and comparing the log with the configured anchors.

use std::process::ExitCode;

use kms_lib::audit::checkpoint;
use kms_lib::{AnchorReport, Session};
use serde_json::json;

use super::exit::Failure;
use super::output;
use crate::anchors::Anchors;
use crate::settings::AnchorSettings;

fn places(settings: &AnchorSettings) -> Result<Anchors, Failure> {
    if !settings.is_on() {
        return Err(Failure::new(2, "no anchors are configured; set http.anchors.file, url or bucket"));
    }
    Ok(Anchors::new(settings)?)
}

/// Writes the signed checkpoint to all anchors once and compares the log with them.
pub async fn run(session: &Session, settings: &AnchorSettings, as_json: bool) -> Result<ExitCode, Failure> {
    let round = places(settings)?.round(session).await?;
    let shown = json!({"size": round.size, "anchors": round.report, "problems": round.problems});
    let anchored = round.problems.is_empty().then(|| format!("anchored    records 1 to {}", round.size));
    let problems = round.problems.iter().map(|problem| format!("problem     {problem}"));
    let shown = output::show(as_json, &shown, lines(&round.report).into_iter().chain(anchored).chain(problems))?;
    Ok(match (round.report.ok, round.problems.is_empty()) {
        (false, _) => ExitCode::from(Failure::FAULT),
        (true, false) => ExitCode::FAILURE,
        (true, true) => shown,
    })
}

/// Compares the log with all anchors. An anchor that cannot be read is an error.
pub async fn compare(session: &Session, settings: &AnchorSettings) -> Result<AnchorReport, Failure> {
    let mut places = places(settings)?;
    let note = session.checkpoint().await?;
    let origin = checkpoint::claimed(&note).map(|claimed| claimed.origin).unwrap_or_default();
    let mut problems = Vec::new();
    let notes = places.read(&origin, &mut problems).await;
    if !problems.is_empty() {
        return Err(Failure::new(1, problems.join("; ")));
    }
    Ok(session.compare_anchors(&notes).await?)
}

/// Describes the result of a comparison, one line per finding.
pub fn lines(report: &AnchorReport) -> Vec<String> {
    let mut lines = vec![format!("anchors     {} match the log, up to record {}", report.continued, report.anchored)];
    lines.extend(report.faults.iter().map(|fault| format!("fault       {fault}")));
    if report.passed_over > 0 {
        lines.push(format!("warning     {} anchors are of another log or lack its signature", report.passed_over));
    }
    lines
}
