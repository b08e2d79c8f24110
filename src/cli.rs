//! The command line: one program, a subcommand per part.

use std::error::Error;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::{backend, crd, frontend, operator};

/// The Kubernetes client calls every failed request an error; what matters of them the parts say themselves, once.
const DEFAULT_LOG: &str = "info,kube_client=off,kube_runtime=off";

/// Load-balanced Tor onion services on Kubernetes: one .onion address, many backends.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub struct Cli {
    /// How log lines look
    #[arg(long, global = true, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Reconcile `OnionBalancedService` objects
    Operator(operator::Args),
    /// Publish one service's merged descriptor (the publisher; runs beside a tor)
    Frontend(frontend::Args),
    /// Serve one backend's descriptor and forward its streams (the agent; runs beside a tor)
    Backend(backend::Args),
    /// Print the `CustomResourceDefinition` as YAML
    Crd,
}

impl Cli {
    /// Runs the subcommand: exit code 0 when it ended as it should, 1 with the error on standard error when not.
    pub fn run(self) -> ExitCode {
        if let Command::Crd = self.command {
            return finish(crd::manifest().map_err(Into::into).and_then(|yaml| print(&yaml)));
        }
        start_log(self.log_format);
        let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return finish(Err(error.into())),
        };
        finish(runtime.block_on(async {
            match self.command {
                Command::Operator(args) => operator::run(args).await,
                Command::Frontend(args) => frontend::run(args).await,
                Command::Backend(args) => backend::run(args).await,
                Command::Crd => Ok(()),
            }
        }))
    }
}

fn print(text: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
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
