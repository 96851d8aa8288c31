//! The command line: arguments, output and exit codes.

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

/// The end of the help of `kms-http`: first steps and exit codes, for `-h`, `--help` and the manual page.
const AFTER_HELP: &str = "\
First steps:
  kms-http                      start; a new store's first token goes to the terminal or to a file
  kms-http key create users     create a key, with or without a running service
  http://127.0.0.1:8080/docs    try the API of the running service

Exit codes:
  0  success
  1  the command was refused or failed
  2  the command line or the configuration is invalid
  3  the store or the root key is unusable
  4  a verification found a fault, or an import is incomplete";

/// Mini KMS: a key management service over HTTP
#[derive(Parser)]
#[command(name = "kms-http", version, about, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
    /// Print output as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve HTTP (the default command)
    Serve(serve::Serve),
    /// Create store and root key if missing, and print a new admin token
    Init(bootstrap::Init),
    /// Create, list and revoke access tokens
    #[command(subcommand)]
    Token(token::Token),
    /// Create, list, rotate, disable, revoke and delete keys
    #[command(subcommand)]
    Key(key::Key),
    /// Create, list and revoke grants: the permissions of principals on keys
    #[command(subcommand)]
    Grant(grant::Grant),
    /// Manage root keys: add one, rewrap everything under it, verify it, retire an old one
    #[command(subcommand)]
    RootKey(root_key::RootKey),
    /// Verify, show and export the audit log, and manage its signing keys
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Import from Mini KMS on Node
    #[command(subcommand)]
    Import(import::Import),
    /// Back up the store to a file and verify the copy; the service may be running
    Backup(backup::Backup),
    /// Verify a backup and restore it as the store (fails if a store exists), or compare it with the store
    Restore(backup::Restore),
    /// Show the store's status; exits with 3 if the store is unusable
    Status,
    /// Check the running service's health; exits with 1 if unhealthy
    Healthcheck(healthcheck::Healthcheck),
    /// Check the configuration
    #[command(subcommand)]
    Config(Config),
    /// Print a completion script for a shell
    Completions(manual::Completions),
    /// Print the manual page, or write the manual pages of all commands to a folder
    Man(manual::Man),
}

/// The subcommands of `kms-http config`.
#[derive(Subcommand)]
enum Config {
    /// Print the effective settings without secrets; exits with 2 if one is invalid
    Check,
}

/// Parses the command line and runs the command.
pub fn run() -> ExitCode {
    // Harden the process before any command reads a secret.
    let unhardened = crate::server::harden();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") => {
            let text = error.to_string();
            let said = text.trim_start_matches("error: ").lines().next().unwrap_or_default();
            return Failure::new(2, said).report(true);
        }
        // Also reached for --help and --version, which exit with 0.
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
    // For an import, --master-key-file is the source's master secret, not this store's root key.
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
        // Handled above, before the settings are loaded.
        Command::Completions(_) | Command::Man(_) => Ok(ExitCode::SUCCESS),
    }
}

#[cfg(test)]
#[path = "../../tests/unit/cli.rs"]
mod tests;
