//! The command line of `onionbalance-config`, the generator of configurations under the name that
//! Python Onionbalance's generator has.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser};

use super::exit::finish;
use super::version::version;
use super::{examples, python_options};
use crate::common::hidden;
use crate::tools::config::python;

/// The long options of Python Onionbalance's generator, which can be abbreviated.
const PYTHON_OPTIONS: [&str; 10] = [
    "help",
    "hs-version",
    "key",
    "password",
    "tag",
    "output",
    "no-interactive",
    "service-virtual-port",
    "service-target",
    "version",
];

/// Write a configuration and master keys for the stand-alone daemon (`onionbalance`).
///
/// Without options other than -v, the program asks questions. It writes config.yaml and, for each
/// service, ADDRESS.key. It never overwrites a config.yaml or a key.
#[derive(Debug, Parser)]
#[command(name = "onionbalance-config", version = version(), after_help = examples::GENERATOR)]
#[command(args_override_self = true)]
struct Cli {
    #[command(flatten)]
    args: python::Args,
}

/// Returns the definition of the command line, for its manual page and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the command line, writes the configuration, and returns the exit code of the process.
pub fn main() -> ExitCode {
    // Standard input and files can contain secrets, so the process is hidden before it reads any of
    // them.
    if let Err(error) = hidden::hide() {
        return finish(Err(error.into()));
    }
    let words: Vec<OsString> = std::env::args_os().collect();
    let asks = asks(&words);
    let args = match python_options::parse::<Cli>(words, &PYTHON_OPTIONS) {
        Ok(cli) => cli.args,
        Err(error) => error.exit(),
    };
    let (mut input, mut out) = (std::io::stdin().lock(), std::io::stdout().lock());
    finish(python::run(args, asks, &mut input, &mut out, &mut std::io::stderr().lock()))
}

/// Returns true if the command line, which starts with the program's name, has no options, or only
/// `-v LEVEL`. Python Onionbalance's generator counts the words in the same way, so `-vLEVEL` in
/// one word is an option like any other.
fn asks(words: &[OsString]) -> bool {
    let sets_the_level = words.iter().any(|word| *word == "-v");
    words.len() <= 1 || (sets_the_level && words.len() <= 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        python_options::parse(words(&format!("onionbalance-config {line}")), &PYTHON_OPTIONS)
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn each_of_pythons_options_exists() {
        let mut command = Cli::command();
        command.build();
        let known: Vec<_> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
        for option in PYTHON_OPTIONS {
            assert!(known.contains(&option), "--{option} is missing in {known:?}");
        }
    }

    #[test]
    fn accepts_the_command_line_of_python_onionbalance() {
        for line in [
            "--out x -n 3 -s 2 -t web",
            "--output x --output=y -n 1 -n 2 --no",
            "-p secret --password secret --key k --key l",
            "-v DEBUG -v critical --hs v3",
            "--service-v http --service-t localhost:8080",
        ] {
            assert!(parsed(line).is_ok(), "{line}");
        }
        for line in ["--service 80", "-v loud", "-n 0", "-n many", "--hs-version v2", "stray"] {
            let error = parsed(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}: {error}");
        }
    }

    #[test]
    fn asks_without_options_other_than_the_log_level() {
        for line in ["onionbalance-config", "onionbalance-config -v debug"] {
            assert!(asks(&words(line)), "{line}");
        }
        for line in ["-vdebug", "-n 2", "-v debug -n 2", "--output x"] {
            assert!(!asks(&words(&format!("onionbalance-config {line}"))), "{line}");
        }
    }
}
