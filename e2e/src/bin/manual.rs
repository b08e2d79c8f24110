//! `manual`: writes the manual pages and the shell completions of the programs for servers and
//! people from the definitions of their command lines.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Command, Parser};
use clap_complete::Shell;
use onionbalance_operator::cli::{kubectl_onionbalance, onionbalance, onionbalance_config};

/// The shells that completions are written for.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Write the manual pages and shell completions of onionbalance, onionbalance-config and
/// kubectl-onionbalance.
#[derive(Debug, Parser)]
struct Cli {
    /// The output folder, which gets the folders man1, bash, zsh and fish
    folder: PathBuf,
}

fn main() -> Result<()> {
    let folder = Cli::parse().folder;
    let commands = [onionbalance::command(), onionbalance_config::command(), kubectl_onionbalance::command()];
    commands.into_iter().try_for_each(|command| write(command, &folder))
}

/// Writes the pages and completions of one program.
fn write(mut command: Command, folder: &Path) -> Result<()> {
    let name = command.get_name().to_owned();
    clap_mangen::generate_to(command.clone(), make(&folder.join("man1"))?)?;
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut command, &name, make(&folder.join(shell.to_string()))?)?;
    }
    Ok(())
}

/// Creates a folder, unless it exists.
fn make(folder: &Path) -> Result<&Path> {
    fs::create_dir_all(folder).with_context(|| format!("could not create {}", folder.display()))?;
    Ok(folder)
}
