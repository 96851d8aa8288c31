//! Unit tests of `src/cli/mod.rs`.

use clap::CommandFactory;

use super::*;

/// Collects complaints about a command and its subcommands.
fn look(command: &clap::Command, path: &str, complaints: &mut Vec<String>) {
    let path = format!("{path} {}", command.get_name());
    let mut check = |what: &str, help: Option<String>| {
        let help = help.unwrap_or_default();
        // Help texts such as "Its id" or "Whom it is for" are not understood on their own.
        let is_headless = ["Its ", "It ", "Who", "What ", "In ", "And ", "From ", "To ", "How "];
        if help.split_whitespace().count() < 2 || is_headless.iter().any(|begin| help.starts_with(begin)) {
            complaints.push(format!("{path} {what}: {help:?}"));
        }
    };
    check("", command.get_about().map(ToString::to_string));
    for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
        check(argument.get_id().as_str(), argument.get_help().map(ToString::to_string));
    }
    command.get_subcommands().for_each(|command| look(command, &path, complaints));
}

#[test]
fn every_command_and_argument_has_a_help_text() {
    let mut complaints = Vec::new();
    look(&Cli::command(), "", &mut complaints);
    assert!(complaints.is_empty(), "{complaints:#?}");
}
