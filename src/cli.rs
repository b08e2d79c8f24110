//! The command line of the program, which has a subcommand for each part of the product.

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};

use crate::common::{hidden, log, open_files};
use crate::{backend, crd, frontend, operator, status, tools};

/// Load-balanced Tor onion services on Kubernetes: one .onion address, many backends.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub struct Cli {
    /// The format of log lines
    #[arg(long, global = true, env = "LOG_FORMAT", value_enum, default_value_t = log::Format::Text)]
    log_format: log::Format,
    /// The length of onion addresses in log lines
    #[arg(long, global = true, env = "LOG_ADDRESSES", value_enum, default_value_t = log::Addresses::Short)]
    log_addresses: log::Addresses,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CrdFormat {
    /// The manifest: `onionbalance-operator crd | kubectl apply --server-side -f -`
    Yaml,
    /// A reference of all fields with their types, defaults, limits and validation rules
    Markdown,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Reconcile `OnionBalancedService` objects
    Operator(Box<operator::Args>),
    /// Publish merged descriptors: as the publisher of one service in a pod or, with --config, as
    /// the stand-alone daemon
    Frontend(frontend::Args),
    /// Serve a backend's descriptor and forward its streams, as the agent that runs next to tor
    Backend(backend::Args),
    /// Show the state of services: their backends, introduction points and HSDirs, and a remedy for
    /// each problem
    ///
    /// Exit codes: 0 if all shown services are Ready, 1 if the command failed, 2 if the usage was
    /// wrong, 3 if a service is not Ready.
    Status(status::Args),
    /// Print the `CustomResourceDefinition` as YAML, or the reference of its fields
    Crd {
        /// The output format
        #[arg(long, value_enum, default_value_t = CrdFormat::Yaml)]
        format: CrdFormat,
        /// Omit the validation rules (CEL), which API servers before Kubernetes 1.28 reject
        #[arg(long)]
        without_rules: bool,
    },
    /// Generate, convert, show and check keys
    Key(tools::key::Args),
    /// Generate a configuration for the stand-alone daemon (`frontend --config`)
    Config(tools::config::Args),
}

/// A subcommand that runs until it receives SIGTERM or SIGINT.
enum Program {
    Operator(Box<operator::Args>),
    Frontend(frontend::Args),
    Backend(backend::Args),
}

/// Parses the command line, runs the subcommand, and returns the exit code of the process.
pub fn main() -> ExitCode {
    // The environment, standard input and files can contain secrets, so the process is hidden
    // before it reads any of them.
    if let Err(error) = hidden::hide() {
        return finish(Err(format!("could not hide the process's memory from other processes: {error}").into()));
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
        let program = match self.command {
            Command::Crd { format: CrdFormat::Yaml, without_rules } => {
                return finish(crd::manifest(!without_rules).map_err(Into::into).and_then(|yaml| print(&yaml)));
            }
            Command::Crd { format: CrdFormat::Markdown, without_rules: false } => {
                return finish(print(&crd::reference()));
            }
            Command::Crd { format: CrdFormat::Markdown, without_rules: true } => {
                return finish(
                    Err("--without-rules applies only to --format yaml; remove one of the two flags".into()),
                );
            }
            Command::Key(args) => return finish(tools::key::run(args, &mut out)),
            Command::Config(args) => {
                return finish(tools::config::run(args, !has_options, &mut std::io::stdin().lock(), &mut out));
            }
            Command::Status(args) => {
                drop(out);
                return show_status(args);
            }
            Command::Operator(args) => Program::Operator(args),
            Command::Frontend(args) => Program::Frontend(args),
            Command::Backend(args) => Program::Backend(args),
        };
        drop(out);
        let standalone = match &program {
            Program::Frontend(args) => args.standalone_log_level(),
            _ => None,
        };
        log::start(self.log_format, self.log_addresses, standalone.unwrap_or("info"));
        open_files::raise_limit();
        // The daemon never has much work, and threads cost memory.
        let mut runtime = match standalone {
            Some(_) => tokio::runtime::Builder::new_current_thread(),
            None => tokio::runtime::Builder::new_multi_thread(),
        };
        let runtime = match runtime.enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return finish(Err(error.into())),
        };
        finish(runtime.block_on(async {
            match program {
                Program::Operator(args) => operator::run(*args).await,
                Program::Frontend(args) => frontend::run(args).await,
                Program::Backend(args) => backend::run(args).await,
            }
        }))
    }
}

fn show_status(args: status::Args) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return finish(Err(error.into())),
    };
    match runtime.block_on(status::run(args)) {
        Ok(code) => code,
        // The reader of the pipe has closed it.
        Err(status::Error::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => finish(Err(error.into())),
    }
}

fn print(text: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn finish(result: Result<(), Box<dyn Error + Send + Sync>>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    eprint!("error: {error}");
    let mut cause = error.source();
    while let Some(inner) = cause {
        eprint!(": {inner}");
        cause = inner.source();
    }
    eprintln!();
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognises_options_of_the_innermost_subcommand() {
        let has = |line: &str| has_options(&Cli::command().get_matches_from(line.split(' ')));
        assert!(!has("onionbalance-operator config generate"));
        assert!(has("onionbalance-operator config generate -n 2"));
        assert!(has("onionbalance-operator config generate --no-interactive"));
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
