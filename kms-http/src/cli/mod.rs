//! The command line.

mod bootstrap;
mod exit;
mod output;
mod serve;

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
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is expected")?;
    Ok((name.trim_start_matches("http.").to_owned(), value.to_owned()))
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
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
    }
}
