//! The command line.

mod acknowledge;
mod audit;
mod backup;
mod bootstrap;
mod exit;
mod key;
mod output;
mod serve;
mod status;
mod store;
mod token;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::settings::{Flags, Places, Settings};
use exit::Failure;

/// Mini KMS as a service.
///
/// Exit codes: 0 done; 1 refused or failed; 2 wrong usage or configuration; 3 the store or the root key cannot be used;
/// 4 a verification found a fault.
#[derive(Parser)]
#[command(name = "kms-http", version, about)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args)]
struct Common {
    /// The configuration file [default: kms-http.toml in the configuration folder, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where everything is kept, such as sqlite:/var/lib/kms/kms.db
    #[arg(long, global = true, value_name = "URL")]
    store_url: Option<String>,
    /// A file of mode 0600 with the root key
    #[arg(long, global = true, value_name = "FILE")]
    master_key_file: Option<PathBuf>,
    /// Answer in JSON, for scripts
    #[arg(long, global = true)]
    json: bool,
    /// A setting of the section http, such as log=debug
    #[arg(long = "set", global = true, value_name = "NAME=VALUE", value_parser = pair)]
    http: Vec<(String, String)>,
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
    /// The log
    #[command(subcommand)]
    Audit(audit::Audit),
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

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is expected")?;
    Ok((name.trim_start_matches("http.").to_owned(), value.to_owned()))
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
    let places = Places::of_user()?;
    let json = cli.common.json;
    let mut flags = Flags {
        config: cli.common.config,
        store_url: cli.common.store_url,
        master_key_file: cli.common.master_key_file,
        http: cli.common.http,
    };
    match cli.command.unwrap_or_else(|| Command::Serve(serve::Serve::default())) {
        Command::Serve(command) => {
            command.add_to(&mut flags);
            serve::run(Settings::load(&flags, &places)?)
        }
        Command::Init(command) => bootstrap::init(command, Settings::load(&flags, &places)?, json),
        Command::Token(command) => token::run(command, Settings::load(&flags, &places)?, json),
        Command::Key(command) => key::run(command, Settings::load(&flags, &places)?, json),
        Command::Audit(command) => audit::run(command, Settings::load(&flags, &places)?, json),
        Command::Backup(command) => backup::backup(command, Settings::load(&flags, &places)?, json),
        Command::Restore(command) => backup::restore(command, Settings::load(&flags, &places)?, json),
        Command::Status => status::status(Settings::load(&flags, &places)?, json),
        Command::Config(Config::Check) => status::check(&Settings::load(&flags, &places)?, json),
    }
}
