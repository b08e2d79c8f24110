//! The command line of `kubectl-onionbalance`, the program for people. kubectl runs it as a plugin
//! (`kubectl onionbalance status`), and it also works without kubectl.

use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;

use super::exit::{Failure, finish, print};
use super::version::version;
use super::{crd_command, examples};
use crate::common::hidden;
use crate::{status, tools};

/// Show and examine onion services, and manage keys and configurations.
///
/// The program is a kubectl plugin: `kubectl onionbalance status`. It also works on its own.
#[derive(Debug, Parser)]
#[command(name = "kubectl-onionbalance", version = version(), propagate_version = true, after_help = examples::PLUGIN)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the state of services: their backends, introduction points and HSDirs, and a remedy for
    /// each problem
    ///
    /// Exit codes: 0 if all shown services are Ready, 1 if the command failed, 2 if the usage was
    /// wrong, 3 if a service is not Ready.
    #[command(after_help = examples::STATUS)]
    Status(status::Args),
    /// Examine one service from end to end, and print a remedy for each problem
    ///
    /// The command reads what the Kubernetes API shows: the CRD and the operator, the object and
    /// its conditions, the Secret of the key (no private key is printed), the pods and their
    /// Events, network policies, the app's Service, the publisher's Lease, and the publisher's
    /// report on backends, HSDirs and probes of the address. What you may not read is marked as
    /// unchecked. The command changes nothing.
    ///
    /// Exit codes: 0 if there is no problem, 1 if there is one, 2 if the examination could not run
    /// or the usage was wrong.
    #[command(after_help = examples::DOCTOR)]
    Doctor(status::doctor::Args),
    /// Generate, convert, delegate, show and check keys, and sign certificate requests
    Key(tools::key::Args),
    /// Generate a configuration for the stand-alone daemon (`onionbalance-operator frontend
    /// --config`)
    Config(tools::config::Args),
    /// Print the `CustomResourceDefinition` as YAML, or the reference of its fields
    #[command(after_help = examples::PLUGIN_CRD)]
    Crd(crd_command::Args),
    /// Print a script that makes a shell complete the command lines of kubectl-onionbalance
    #[command(after_help = examples::COMPLETION)]
    Completion {
        /// The shell
        shell: Shell,
    },
}

/// Returns the definition of the command line, for its manual pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the command line, runs the subcommand, and returns the exit code of the process.
pub fn main() -> ExitCode {
    // The environment, standard input and files can contain secrets, so the process is hidden
    // before it reads any of them.
    if let Err(error) = hidden::hide() {
        return finish(Err(error.into()));
    }
    let matches = Cli::command().get_matches();
    let has_options = has_options(&matches);
    match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli.run(has_options),
        Err(error) => error.exit(),
    }
}

/// Returns true if any option or argument was given to the innermost subcommand.
fn has_options(matches: &ArgMatches) -> bool {
    if let Some((_, inner)) = matches.subcommand() {
        return has_options(inner);
    }
    matches.ids().any(|id| matches.value_source(id.as_str()) == Some(ValueSource::CommandLine))
}

impl Cli {
    /// Runs the subcommand. Returns exit code 0 on success; otherwise, prints the error to standard
    /// error and returns exit code 1. `status` has additional exit codes.
    fn run(self, has_options: bool) -> ExitCode {
        let mut out = std::io::stdout().lock();
        match self.command {
            Command::Key(args) => finish(tools::key::run(args, &mut out)),
            Command::Config(args) => {
                finish(tools::config::run(args, !has_options, &mut std::io::stdin().lock(), &mut out))
            }
            Command::Status(args) => {
                drop(out);
                show_status(args)
            }
            Command::Doctor(args) => {
                drop(out);
                examine(args)
            }
            Command::Crd(args) => {
                drop(out);
                finish(crd_command::run(&args))
            }
            Command::Completion { shell } => {
                drop(out);
                finish(print_completion(shell))
            }
        }
    }
}

/// Returns the script that makes a shell complete the program's command lines.
fn completion(shell: Shell) -> Result<String, std::string::FromUtf8Error> {
    const NAME: &str = "kubectl-onionbalance";
    // In scripts for bash, clap_complete 4.6 writes a hyphen of the name in two ways, so that the
    // script never finds a subcommand.
    let name = if shell == Shell::Bash { NAME.replace('-', "_") } else { NAME.to_owned() };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), &name, &mut script);
    Ok(String::from_utf8(script)?.replace(&format!(" {name}\n"), &format!(" {NAME}\n")))
}

fn print_completion(shell: Shell) -> Result<(), Failure> {
    print(&completion(shell)?)
}

fn show_status(args: status::Args) -> ExitCode {
    run_with(status::run(args), ExitCode::FAILURE)
}

fn examine(args: status::doctor::Args) -> ExitCode {
    run_with(status::doctor::run(args), ExitCode::from(status::doctor::NOT_EXAMINED))
}

/// Runs a command that asks the API server. `failure` is the exit code if the command fails.
fn run_with(command: impl Future<Output = Result<ExitCode, status::Error>>, failure: ExitCode) -> ExitCode {
    let fail = |error: Failure| {
        finish(Err(error));
        failure
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(error.into()),
    };
    match runtime.block_on(command) {
        Ok(code) => code,
        // The reader of the pipe has closed it.
        Err(status::Error::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognises_options_of_the_innermost_subcommand() {
        let has = |line: &str| has_options(&Cli::command().get_matches_from(line.split(' ')));
        assert!(!has("kubectl-onionbalance config generate"));
        assert!(has("kubectl-onionbalance config generate -n 2"));
        assert!(has("kubectl-onionbalance config generate --no-interactive"));
    }

    #[test]
    fn each_shell_completes_the_subcommands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = completion(shell).unwrap();
            assert!(script.contains("delegate") && script.contains("without-rules"), "{shell}: {script}");
        }
    }

    #[test]
    fn bash_finds_the_options_of_each_subcommand() {
        let script = completion(Shell::Bash).unwrap();
        let chosen: Vec<_> =
            script.lines().filter_map(|line| line.trim().strip_prefix("cmd=\"")?.strip_suffix('"')).collect();
        let labels: Vec<_> = script.lines().filter_map(|line| line.trim().strip_suffix(')')).collect();
        let lost: Vec<_> = chosen.iter().filter(|name| !name.is_empty() && !labels.contains(name)).collect();
        assert!(chosen.len() > 10 && lost.is_empty(), "{lost:?}");
        assert!(script.contains(" default kubectl-onionbalance\n"), "{script}");
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
