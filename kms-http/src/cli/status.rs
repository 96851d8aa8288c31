//! `kms-http status` and `kms-http config check`.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::exit::Failure;
use super::output;
use super::store::with_store_to_read;
use crate::settings::Settings;

/// Shows the store's status; exits with 3 if the store is unusable. One on a read-only medium is shown as read-only.
pub fn status(settings: Settings, as_json: bool) -> Result<ExitCode, Failure> {
    let url = settings.kms.describe().into_iter().find(|(name, _)| *name == "store_url").unwrap_or_default().1;
    with_store_to_read(settings, |kms, session, is_read_only| async move {
        let ready = kms.ready().await;
        let (telemetry, metrics) = (kms.telemetry().await?, session.metrics().await?);
        if as_json {
            output::json(&json!({
                "store": url,
                "ready": ready.is_ok(),
                "readOnly": is_read_only,
                "reason": ready.as_ref().err().map(ToString::to_string),
                "records": telemetry.records,
                "metrics": metrics,
            }))?;
        } else {
            output::line(&format!("store       {url}"));
            output::line(&match &ready {
                Ok(()) => "ready       yes".to_owned(),
                Err(error) => format!("ready       no: {error}"),
            });
            output::line(&format!("records     {}", telemetry.records));
            let states = metrics.keys.by_state.iter().filter(|(_, count)| **count > 0);
            let states: Vec<String> = states.map(|(state, count)| format!("{count} {state}")).collect();
            output::line(&format!("keys        {} ({})", metrics.keys.total, states.join(", ")));
            for alert in &metrics.keys.rotation_alerts {
                output::line(&format!("rotate      {} (every {} days)", alert.name, alert.rotation_period_days));
            }
            for alert in &metrics.keys.windows_ending {
                output::line(&format!("ends        {} v{} at {}", alert.name, alert.version, alert.not_after));
            }
            output::line(&match &metrics.audit.last_verification {
                None => "verified    never".to_owned(),
                Some(last) => format!("verified    {} ok: {}", text(last, "timestamp"), text(last, "ok")),
            });
            output::line(&format!("failures    {} in the last 24 hours", metrics.audit.failed_operations_last24h));
        }
        match ready {
            Err(_) if is_read_only => Ok(ExitCode::SUCCESS),
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(error) => Err(error.into()),
        }
    })
}

fn text(value: &Value, name: &str) -> String {
    value.get(name).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)).unwrap_or_default()
}

/// Prints what is in force, secrets hidden. Fails if it could not be served.
pub fn check(settings: &Settings, as_json: bool) -> Result<ExitCode, Failure> {
    super::serve::try_settings(&settings.http)?;
    if as_json {
        let all: Map<String, Value> =
            settings.describe().into_iter().map(|(name, value)| (name, Value::String(value))).collect();
        output::json(&all)?;
        return Ok(ExitCode::SUCCESS);
    }
    let file = settings.file.as_ref().map_or_else(|| "none".into(), |path| path.display().to_string());
    output::line(&format!("# file: {file}"));
    for (name, value) in settings.describe() {
        output::line(&format!("{name} = {value}"));
    }
    Ok(ExitCode::SUCCESS)
}
