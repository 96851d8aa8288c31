//! Unit tests of `src/cli/mod.rs`.

use clap::CommandFactory;

use super::*;

/// Looks at a command and those below it.
fn look(command: &clap::Command, path: &str, complaints: &mut Vec<String>) {
    let path = format!("{path} {}", command.get_name());
    let mut check = |what: &str, help: Option<String>| {
        let help = help.unwrap_or_default();
        // Its subject is what it is about: "Its id", "Whom it is for" and the like say nothing by themselves.
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
fn every_command_and_argument_says_what_it_is() {
    let mut complaints = Vec::new();
    look(&Cli::command(), "", &mut complaints);
    assert!(complaints.is_empty(), "{complaints:#?}");
}
