//! The command line.

mod acknowledge;
mod anchor;
mod audit;
mod backup;
mod bootstrap;
mod exit;
mod export;
mod folders;
mod grant;
mod healthcheck;
mod import;
mod key;
mod manual;
mod output;
mod root_key;
mod serve;
mod status;
mod store;
mod token;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::settings::{Flags, Settings, XdgDirs};
use exit::Failure;

/// What a newcomer does first.
const FIRST_STEPS: &str = "\
First steps:
  kms-http                          start on a new store; the first token goes to the terminal or to a file
  kms-http key create users         make a key, beside the running service or without it
  http://127.0.0.1:8080/docs        the interface of the running service, to be tried out";

/// Mini KMS as a service.
///
/// Exit codes: 0 done; 1 refused or failed; 2 wrong usage or configuration; 3 the store or the root key cannot be used;
/// 4 a verification found a fault.
#[derive(Parser)]
#[command(name = "kms-http", version, about, after_help = FIRST_STEPS)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
    /// Answer in JSON, for scripts
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve HTTP; this is the default command
    Serve(serve::Serve),
    /// Create a root key file and a first admin token, which is shown once
    Init(bootstrap::Init),
    /// Create, list and revoke access tokens
    #[command(subcommand)]
    Token(token::Token),
    /// Create, list, rotate, disable, revoke and delete keys
    #[command(subcommand)]
    Key(key::Key),
    /// List, create and withdraw grants: what a principal may do with a key
    #[command(subcommand)]
    Grant(grant::Grant),
    /// Replace root keys: add one, wrap everything under it, retire the former one
    #[command(subcommand)]
    RootKey(root_key::RootKey),
    /// Verify, show and export the audit log, and manage its keys
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Import the data of another key management service
    #[command(subcommand)]
    Import(import::Import),
    /// Copy the store while the service runs, and verify the copy
    Backup(backup::Backup),
    /// Verify a backup and restore it to the store's place, which must be empty
    Restore(backup::Restore),
    /// Show the store's status; exits with 3 if the store is unusable
    Status,
    /// Ask the running service whether it is alive or ready; exits with 1 if not
    Healthcheck(healthcheck::Healthcheck),
    /// Check the configuration
    #[command(subcommand)]
    Config(Config),
    /// Print a completion script for a shell
    Completions(manual::Completions),
    /// Print the manual page, or write the pages of all commands to a folder
    Man(manual::Man),
}

/// What to do with the configuration.
#[derive(Subcommand)]
enum Config {
    /// Print the settings in force, secrets hidden; exits with 2 if one is wrong
    Check,
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    // Before any secret is read, whatever the command.
    let unhardened = crate::server::harden();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") => {
            let text = error.to_string();
            let said = text.trim_start_matches("error: ").lines().next().unwrap_or_default();
            return Failure::new(2, said).report(true);
        }
        // Also help and version, which are no errors.
        Err(error) => error.exit(),
    };
    if !unhardened.is_empty() {
        eprintln!("kms-http: {}", unhardened.join("; "));
    }
    let as_json = cli.json;
    match dispatch(cli) {
        Ok(code) => code,
        Err(failure) => failure.report(as_json),
    }
}

fn dispatch(cli: Cli) -> Result<ExitCode, Failure> {
    let Cli { mut flags, json, command } = cli;
    let command = command.unwrap_or_else(|| Command::Serve(serve::Serve::default()));
    if let Command::Serve(serve) = &command {
        flags.http.extend(serve.settings());
    }
    match &command {
        Command::Completions(wanted) => return manual::completions(wanted, Cli::command()),
        Command::Audit(command) => {
            if let Some((files, key)) = command.offline() {
                return export::verify(files, key, json);
            }
        }
        Command::Man(wanted) => return manual::man(wanted, Cli::command()),
        _ => {}
    }
    // An import has two secrets, and the one that is named on the command line is the source's.
    let is_import = matches!(command, Command::Import(_));
    let source_key_file = flags.master_key_file.take_if(|_| is_import);
    let settings = Settings::load(&flags, &XdgDirs::of_user())?;
    match command {
        Command::Serve(_) => serve::run(settings),
        Command::Init(command) => bootstrap::init(command, settings, json),
        Command::Token(command) => token::run(command, settings, json),
        Command::Key(command) => key::run(command, settings, json),
        Command::Grant(command) => grant::run(command, settings, json),
        Command::RootKey(command) => root_key::run(command, settings, json),
        Command::Audit(command) => audit::run(command, settings, json),
        Command::Import(command) => import::run(command, source_key_file.as_deref(), settings, json),
        Command::Backup(command) => backup::backup(command, settings, json),
        Command::Restore(command) => backup::restore(command, settings, json),
        Command::Status => status::status(settings, json),
        Command::Healthcheck(wanted) => healthcheck::run(&wanted, &settings, json),
        Command::Config(Config::Check) => status::check(&settings, json),
        // They need no settings.
        Command::Completions(_) | Command::Man(_) => Ok(ExitCode::SUCCESS),
    }
}

#[cfg(test)]
#[path = "../../tests/unit/cli.rs"]
mod tests;
