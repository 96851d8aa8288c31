//! Evaluates the alert rules in `examples/http` with promtool, on scrapes made before and after a fault.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

/// The minute of the scrape that sees the fault.
const FAULT: usize = 20;

/// How the metrics continue after the scrape that shows the fault.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// All values stay as they are: counters increase once.
    Stays,
    /// Counters increase every minute by the difference between the two scrapes.
    GoesOn,
}

/// Whether promtool is installed. Prints a message if it is not.
pub fn has_promtool() -> bool {
    let is_there = Command::new("promtool").arg("--version").output().is_ok_and(|run| run.status.success());
    if !is_there {
        eprintln!("SKIPPED: promtool is not installed (package prometheus; tests/run installs it)");
    }
    is_there
}

/// Runs promtool in the folder that contains the rules.
pub fn promtool(arguments: &[&str]) -> Output {
    Command::new("promtool").args(arguments).current_dir(examples()).output().unwrap()
}

/// The folder that contains the rules, `examples/http`.
pub fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/http").canonicalize().unwrap()
}

/// The series of a scrape, with the labels that Prometheus adds. Timestamps are shifted, because promtool's tests begin
/// in 1970.
fn series(text: &str) -> BTreeMap<String, f64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let line = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap();
        let is_time = name.contains("_timestamp_seconds") && value > 0.0;
        let value = if is_time { value - now + 60.0 * FAULT as f64 } else { value };
        let labeled = match name.split_once('{') {
            Some((name, labels)) => format!("{name}{{job=\"mini-kms\", instance=\"a\", {labels}"),
            None => format!("{name}{{job=\"mini-kms\", instance=\"a\"}}"),
        };
        (labeled, value)
    };
    text.lines().filter(|line| !line.starts_with('#')).map(line).collect()
}

fn is_counter(name: &str) -> bool {
    let (name, _) = name.split_once('{').unwrap();
    ["_total", "_bucket", "_count", "_sum"].iter().any(|end| name.ends_with(end))
}

/// Whether promtool reports the alert as firing in this minute of these series.
fn is_fired(alert: &str, inputs: &str, minute: usize) -> bool {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("test.yml");
    let test = format!(
        "rule_files: [\"{}\"]\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    input_series:\n{inputs}    \
         alert_rule_test:\n      - {{ alertname: {alert}, eval_time: {minute}m, exp_alerts: [] }}\n",
        examples().join("alerts.yml").display()
    );
    fs::write(&file, test).unwrap();
    let run = promtool(&["test", "rules", file.to_str().unwrap()]);
    let said = String::from_utf8([run.stdout, run.stderr].concat()).unwrap();
    assert!(run.status.success() || said.contains("alertname"), "{said}");
    !run.status.success()
}

/// Asserts that the alert fires `minutes` after the fault, and does not fire without the fault.
pub fn assert_fires(alert: &str, minutes: usize, fault: Fault, before: &str, after: &str) {
    if !has_promtool() {
        return;
    }
    let (before, after) = (series(before), series(after));
    let (mut quiet, mut faulty) = (String::new(), String::new());
    for (name, later) in &after {
        let earlier = before.get(name);
        // A new series has no earlier value.
        let old = earlier.map_or_else(|| format!("_x{}", FAULT - 1), |earlier| format!("{earlier}x{}", FAULT - 1));
        let growth = later - earlier.unwrap_or(&0.0);
        let new = match fault {
            Fault::GoesOn if is_counter(name) => format!("{later}+{growth}x{minutes}"),
            _ => format!("{later}x{minutes}"),
        };
        faulty += &format!("      - {{ series: '{name}', values: \"{old} {new}\" }}\n");
        if let Some(earlier) = earlier {
            quiet += &format!("      - {{ series: '{name}', values: \"{earlier}x{}\" }}\n", FAULT + minutes);
        }
    }
    let minute = FAULT + minutes;
    assert!(!is_fired(alert, &quiet, minute), "{alert} fires without a fault");
    assert!(is_fired(alert, &faulty, minute), "{alert} does not fire after the fault: {faulty}");
}
