//! `kms-http status` and `kms-http config check`.

use std::process::ExitCode;

use kms_lib::metrics::KeyMetrics;
use serde_json::{Map, Value, json};

use super::exit::Failure;
use super::output;
use super::store::with_store;
use crate::settings::Settings;

/// Shows the store's status; exits with 3 if the store is unusable. A store on a read-only medium counts as usable.
pub fn status(settings: Settings, as_json: bool) -> Result<ExitCode, Failure> {
    let url = settings.kms.describe().into_iter().find(|(name, _)| *name == "store_url").unwrap_or_default().1;
    let is_read_only = settings.kms.is_store_read_only();
    with_store(settings, |kms, session| async move {
        let ready = kms.ready().await;
        let (records, metrics) = (kms.telemetry().await?.records, session.metrics().await?);
        let reason = ready.as_ref().err().map(ToString::to_string);
        let mut lines = vec![format!("store       {url}")];
        lines.push(reason.as_ref().map_or("ready       yes".into(), |reason| format!("ready       no: {reason}")));
        lines.push(format!("records     {records}"));
        lines.extend(key_lines(&metrics.keys));
        lines.push(match &metrics.audit.last_verification {
            None => "verified    never".to_owned(),
            Some(last) => format!("verified    {} ok: {}", text(last, "timestamp"), text(last, "ok")),
        });
        lines.push(format!("failures    {} in the last 24 hours", metrics.audit.failed_operations_last24h));
        let shown = json!({
            "store": url,
            "ready": ready.is_ok(),
            "rootKey": ready.as_ref().ok().map(|ready| ready.root_key.as_str()),
            "readOnly": is_read_only,
            "reason": reason,
            "records": records,
            "metrics": metrics,
        });
        let shown = output::show(as_json, &shown, lines);
        ready.map(drop).or_else(|error| if is_read_only { Ok(()) } else { Err(error) })?;
        shown
    })
}

fn key_lines(keys: &KeyMetrics) -> Vec<String> {
    let states = keys.by_state.iter().filter(|(_, count)| **count > 0);
    let states: Vec<String> = states.map(|(state, count)| format!("{count} {state}")).collect();
    let mut lines = vec![format!("keys        {} ({})", keys.total, states.join(", "))];
    for alert in &keys.rotation_alerts {
        lines.push(format!("rotate      {} (every {} days)", alert.name, alert.rotation_period_days));
    }
    for alert in &keys.windows_ending {
        lines.push(format!("ends        {} v{} at {}", alert.name, alert.version, alert.not_after));
    }
    lines
}

fn text(value: &Value, name: &str) -> String {
    value.get(name).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)).unwrap_or_default()
}

/// Prints the effective settings without secrets. Fails if the service could not start with them.
pub fn check(settings: &Settings, as_json: bool) -> Result<ExitCode, Failure> {
    super::serve::try_settings(&settings.http)?;
    let all: Map<String, Value> = settings.describe().into_iter().map(|(name, value)| (name, value.into())).collect();
    let file = settings.file.as_ref().map_or_else(|| "none".into(), |path| path.display().to_string());
    let lines = settings.describe().into_iter().map(|(name, value)| format!("{name} = {value}"));
    output::show(as_json, &all, [format!("# file: {file}")].into_iter().chain(lines))
}
