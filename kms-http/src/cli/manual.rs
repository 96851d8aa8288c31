//! `kms-http completions` and `kms-http man`, generated from the definition of the command line.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::{Shell, generate};

use super::exit::Failure;

/// Options of `kms-http completions`.
#[derive(Args)]
pub struct Completions {
    /// Shell to complete commands for
    shell: Shell,
}

/// Options of `kms-http man`.
#[derive(Args)]
pub struct Man {
    /// Folder for the pages of all commands [default: print the page of kms-http]
    folder: Option<PathBuf>,
}

/// Prints the completion script.
pub fn completions(wanted: &Completions, mut command: Command) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    generate(wanted.shell, &mut command, "kms-http", &mut script);
    if wanted.shell == Shell::Bash {
        // clap_complete 4.6 spells the cases of commands with a hyphen in two ways, so none of them would match.
        script = String::from_utf8_lossy(&script).replace("__subcmd__", "__").into_bytes();
    }
    std::io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the manual page of `kms-http`, or writes the pages of all commands to a folder.
pub fn man(wanted: &Man, command: Command) -> Result<ExitCode, Failure> {
    match &wanted.folder {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page)?;
            std::io::stdout().write_all(&page)?;
        }
        Some(folder) => {
            fs::create_dir_all(folder)?;
            clap_mangen::generate_to(command, folder)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
