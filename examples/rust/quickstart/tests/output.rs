//! Runs the quickstart and compares its output with its description.

use std::process::Command;

#[test]
fn the_quickstart_shows_every_step() {
    let output = Command::new(env!("CARGO_BIN_EXE_quickstart")).output().expect("the quickstart starts");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}{}", String::from_utf8_lossy(&output.stderr));

    let steps: Vec<_> = shown.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let expected = [
        "opened",
        "created",
        "encrypted",
        "rotated",
        "refused",
        "signed",
        "denied",
        "granted",
        "revoked",
        "scheduler",
        "metrics",
        "verified",
        "tampered",
    ];
    assert_eq!(steps, expected, "{shown}");
    for fact in ["genuine: true, forged: false", "rotated 1 key(s); users is at version 3", "ok: true"] {
        assert!(shown.contains(fact), "{fact} is missing: {shown}");
    }
}
