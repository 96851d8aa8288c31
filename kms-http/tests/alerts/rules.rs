//! The alert rules of `examples/http`, held against what a service was scraped for before a fault and after it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

/// The minute of the scrape that sees the fault.
const FAULT: usize = 20;

/// How a fault goes on after it was seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// It stays as it is: what was counted is counted once.
    Stays,
    /// What was counted between the two scrapes is counted every minute.
    GoesOn,
}

/// Whether promtool is there; says so if not.
pub fn has_promtool() -> bool {
    let is_there = Command::new("promtool").arg("--version").output().is_ok_and(|run| run.status.success());
    if !is_there {
        eprintln!("SKIPPED: promtool is not installed (package prometheus; tests/run installs it)");
    }
    is_there
}

/// Runs promtool in the folder of the rules.
pub fn promtool(arguments: &[&str]) -> Output {
    Command::new("promtool").args(arguments).current_dir(examples()).output().unwrap()
}

/// The folder of the rules.
pub fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/http").canonicalize().unwrap()
}

/// The series of a scrape, with the labels that Prometheus adds. Points in time are moved to where the tests of rules
/// begin: 1970.
fn series(text: &str) -> BTreeMap<String, f64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let line = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap();
        let is_time = name.contains("_timestamp_seconds") && value > 0.0;
        let value = if is_time { value - now + 60.0 * FAULT as f64 } else { value };
        let labelled = match name.split_once('{') {
            Some((name, labels)) => format!("{name}{{job=\"mini-kms\", instance=\"a\", {labels}"),
            None => format!("{name}{{job=\"mini-kms\", instance=\"a\"}}"),
        };
        (labelled, value)
    };
    text.lines().filter(|line| !line.starts_with('#')).map(line).collect()
}

fn is_counter(name: &str) -> bool {
    let (name, _) = name.split_once('{').unwrap();
    ["_total", "_bucket", "_count", "_sum"].iter().any(|end| name.ends_with(end))
}

/// Runs promtool on one alert: whether it is there in this minute, of these series.
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

/// Asserts that an alert is there some minutes after a fault, and would not be without it.
pub fn assert_fires(alert: &str, minutes: usize, fault: Fault, before: &str, after: &str) {
    if !has_promtool() {
        return;
    }
    let (before, after) = (series(before), series(after));
    let (mut quiet, mut faulty) = (String::new(), String::new());
    for (name, later) in &after {
        let earlier = before.get(name);
        // A series that is new has no value before.
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
    assert!(!is_fired(alert, &quiet, minute), "{alert} is there without a fault");
    assert!(is_fired(alert, &faulty, minute), "{alert} is not there after the fault: {faulty}");
}
