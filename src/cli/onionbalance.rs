//! The command line of `onionbalance`, the stand-alone daemon under the name that Python
//! Onionbalance's daemon has.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser};

use super::exit::{Failure, finish};
use super::version::version;
use super::{examples, python_options};
use crate::common::{hidden, log, open_files};
use crate::frontend;

/// The long options of Python Onionbalance's daemon, which can be abbreviated.
const PYTHON_OPTIONS: [&str; 9] =
    ["help", "hs-version", "ip", "port", "socket", "config", "verbosity", "version", "is-testnet"];

/// Publish the merged descriptors of onion services, without Kubernetes.
///
/// The program replaces Python Onionbalance's daemon. The options of that daemon can be abbreviated
/// and repeated.
#[derive(Debug, Parser)]
#[command(name = "onionbalance", version = version(), after_help = examples::DAEMON, args_override_self = true)]
struct Cli {
    #[command(flatten)]
    daemon: Box<frontend::StandaloneOptions>,
    // These options have no environment variables: a variable that Python Onionbalance ignores must
    // not stop the daemon.
    /// The format of log lines
    #[arg(long, value_enum, default_value_t = log::Format::Text)]
    log_format: log::Format,
    /// The length of onion addresses in log lines
    #[arg(long, value_enum, default_value_t = log::Addresses::Short)]
    log_addresses: log::Addresses,
}

/// Returns the definition of the command line, for its manual page and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the command line, runs the daemon, and returns the exit code of the process.
pub fn main() -> ExitCode {
    // The environment and files can contain secrets, so the process is hidden before it reads any
    // of them.
    if let Err(error) = hidden::hide() {
        return finish(Err(error.into()));
    }
    match python_options::parse::<Cli>(std::env::args_os(), &PYTHON_OPTIONS) {
        Ok(cli) => finish(cli.run()),
        Err(error) => error.exit(),
    }
}

impl Cli {
    fn run(self) -> Result<(), Failure> {
        log::start(self.log_format, self.log_addresses, self.daemon.log_level());
        open_files::raise_limit();
        // The daemon never has much work, and threads cost memory.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(frontend::run_standalone(*self.daemon))
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        python_options::parse(line.split(' ').map(OsString::from), &PYTHON_OPTIONS)
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
    fn options_can_be_abbreviated_and_repeated() {
        let cli = parsed("onionbalance --conf a --verb debug -c b --sock /s -v error --is-t --is-testnet").unwrap();
        assert_eq!(cli.daemon.log_level(), "error");
        let options = format!("{:?}", cli.daemon);
        assert!(options.contains("config: Some(\"b\")") && options.contains("socket: \"/s\""), "{options}");
        assert!(options.contains("is_testnet: true"), "{options}");
    }

    #[test]
    fn usage_errors_have_exit_code_2() {
        for line in ["--ver", "--hs-version v2", "-v loud", "--unknown", "stray", "-c", "-p many"] {
            let error = parsed(&format!("onionbalance {line}")).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}: {error}");
        }
        for line in ["--vers", "--he", "-h", "--version"] {
            assert_eq!(parsed(&format!("onionbalance {line}")).unwrap_err().exit_code(), 0, "{line}");
        }
    }
}
