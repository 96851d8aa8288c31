//! `kms-http completions` and `kms-http man`: made from the definition of the command line.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::{Shell, generate};

use super::exit::Failure;

/// Print a script that completes commands.
#[derive(Args)]
pub struct Completions {
    /// The shell that the script is for
    shell: Shell,
}

/// Print the manual page, or write those of all commands.
#[derive(Args)]
pub struct Man {
    /// A folder to write the pages of all commands to [default: print the one of kms-http]
    folder: Option<PathBuf>,
}

/// Prints the script.
pub fn completions(wanted: &Completions, mut command: Command) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    generate(wanted.shell, &mut command, "kms-http", &mut script);
    if wanted.shell == Shell::Bash {
        // clap_complete 4.6 names the cases of commands with a hyphen in two ways, so that none of them is found.
        script = String::from_utf8_lossy(&script).replace("__subcmd__", "__").into_bytes();
    }
    std::io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints or writes the pages.
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
