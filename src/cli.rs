//! The command line: one program, a subcommand per part.

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::common::{hidden, log};
use crate::{backend, crd, frontend, operator, status, tools};

/// Load-balanced Tor onion services on Kubernetes: one .onion address, many backends.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub struct Cli {
    /// How log lines look
    #[arg(long, global = true, env = "LOG_FORMAT", value_enum, default_value_t = log::Format::Text)]
    log_format: log::Format,
    /// How onion addresses look in log lines
    #[arg(long, global = true, env = "LOG_ADDRESSES", value_enum, default_value_t = log::Addresses::Short)]
    log_addresses: log::Addresses,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CrdFormat {
    /// The manifest: `onionbalance-operator crd | kubectl apply --server-side -f -`
    Yaml,
    /// Each field with its type, default and limits, and what is refused
    Markdown,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Reconcile `OnionBalancedService` objects
    Operator(Box<operator::Args>),
    /// Publish merged descriptors: one service's in a pod (the publisher), or those of a config.yaml (the stand-alone daemon)
    Frontend(frontend::Args),
    /// Serve one backend's descriptor and forward its streams (the agent; runs beside a tor)
    Backend(backend::Args),
    /// Show services at the terminal: backends, points, HSDirs, what is wrong and what to do
    ///
    /// Exit code 0: all that was shown is Ready. 1: nothing could be shown. 2: wrong usage. 3: something is not Ready.
    Status(status::Args),
    /// Print the `CustomResourceDefinition` as YAML, or the reference of its fields
    Crd {
        /// What to print
        #[arg(long, value_enum, default_value_t = CrdFormat::Yaml)]
        format: CrdFormat,
        /// Leave out the validation rules (CEL): for API servers older than Kubernetes 1.25, which refuse what they do not know
        #[arg(long)]
        without_rules: bool,
    },
    /// Generate, convert, show and check keys
    Key(tools::key::Args),
    /// Make a configuration of the stand-alone daemon (`frontend --config`)
    Config(tools::config::Args),
}

/// What runs until it is told to stop.
enum Program {
    Operator(Box<operator::Args>),
    Frontend(frontend::Args),
    Backend(backend::Args),
}

impl Cli {
    /// Runs the subcommand: exit code 0 when it ended as it should, 1 with the error on standard error when not; `status` has
    /// more.
    pub fn run(self) -> ExitCode {
        let mut out = std::io::stdout().lock();
        let program = match self.command {
            Command::Crd { format: CrdFormat::Yaml, without_rules } => {
                return finish(crd::manifest(!without_rules).map_err(Into::into).and_then(|yaml| print(&yaml)));
            }
            Command::Crd { format: CrdFormat::Markdown, without_rules: false } => {
                return finish(print(&crd::reference()));
            }
            Command::Crd { format: CrdFormat::Markdown, without_rules: true } => {
                return finish(Err("--without-rules is for --format yaml: the reference tells all rules".into()));
            }
            Command::Key(args) => return finish(tools::key::run(args, &mut out)),
            // `onionbalance-operator config generate`, and nothing more, asks.
            Command::Config(args) => {
                let (asks, mut input) = (std::env::args_os().len() <= 3, std::io::stdin().lock());
                return finish(tools::config::run(args, asks, &mut input, &mut out));
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
        if let Err(error) = hidden::hide() {
            return finish(Err(error.into()));
        }
        // The daemon has little to do at a time, and threads cost memory.
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
        // Whoever read it has read enough.
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
