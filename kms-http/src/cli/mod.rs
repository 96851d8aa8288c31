//! The command line.

mod acknowledge;
mod audit;
mod backup;
mod bootstrap;
mod exit;
mod folders;
mod import;
mod key;
mod output;
mod root_key;
mod serve;
mod status;
mod store;
mod token;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::settings::{Flags, Settings, XdgDirs};
use exit::Failure;

/// Mini KMS as a service.
///
/// Exit codes: 0 done; 1 refused or failed; 2 wrong usage or configuration; 3 the store or the root key cannot be used;
/// 4 a verification found a fault.
#[derive(Parser)]
#[command(name = "kms-http", version, about)]
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
    /// Serve (what happens without a command, too)
    Serve(serve::Serve),
    /// Make a root key file and a first admin token, which is shown once
    Init(bootstrap::Init),
    /// Tokens: who shows one is known by it
    #[command(subcommand)]
    Token(token::Token),
    /// Keys
    #[command(subcommand)]
    Key(key::Key),
    /// Root keys: add one, wrap everything under it, retire the former one
    #[command(subcommand)]
    RootKey(root_key::RootKey),
    /// The log
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Import the data of another key management service
    #[command(subcommand)]
    Import(import::Import),
    /// Copy the store, while others work on it, and verify the copy
    Backup(backup::Backup),
    /// Verify a backup, and put it where the store belongs, where there must be nothing yet
    Restore(backup::Restore),
    /// Say how the store stands; exit code 3 if it cannot be used
    Status,
    /// The configuration
    #[command(subcommand)]
    Config(Config),
}

/// What to do with the configuration.
#[derive(Subcommand)]
enum Config {
    /// Print what is in force, secrets hidden; exit code 2 if it is wrong
    Check,
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    // Before any secret is read, whatever the command.
    let unhardened = crate::server::harden();
    let cli = Cli::parse();
    if !unhardened.is_empty() {
        eprintln!("kms-http: {}", unhardened.join("; "));
    }
    match dispatch(cli) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

fn dispatch(cli: Cli) -> Result<ExitCode, Failure> {
    let Cli { mut flags, json, command } = cli;
    let command = command.unwrap_or_else(|| Command::Serve(serve::Serve::default()));
    if let Command::Serve(serve) = &command {
        flags.http.extend(serve.settings());
    }
    // An import has two secrets, and the one that is named on the command line is the source's.
    let is_import = matches!(command, Command::Import(_));
    let source_key_file = flags.master_key_file.take_if(|_| is_import);
    let settings = Settings::load(&flags, &XdgDirs::of_user()?)?;
    match command {
        Command::Serve(_) => serve::run(settings),
        Command::Init(command) => bootstrap::init(command, settings, json),
        Command::Token(command) => token::run(command, settings, json),
        Command::Key(command) => key::run(command, settings, json),
        Command::RootKey(command) => root_key::run(command, settings, json),
        Command::Audit(command) => audit::run(command, settings, json),
        Command::Import(command) => import::run(command, source_key_file.as_deref(), settings, json),
        Command::Backup(command) => backup::backup(command, settings, json),
        Command::Restore(command) => backup::restore(command, settings, json),
        Command::Status => status::status(settings, json),
        Command::Config(Config::Check) => status::check(&settings, json),
    }
}
