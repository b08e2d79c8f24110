//! `e2e`: brings up, checks and takes down a one-node Kubernetes beside a private Tor network.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use onionbalance_e2e::cluster::Cluster;
use onionbalance_e2e::state::State;
use onionbalance_e2e::{bringup, chaos, demo, dns, node};

/// A one-node Kubernetes and a private Tor network on this machine, for the demo and the end-to-end tests.
#[derive(Debug, Parser)]
struct Cli {
    /// Where everything is kept [default: $`XDG_STATE_HOME`/onionbalance-operator/e2e]
    #[arg(long, global = true, env = "OB_E2E_DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring up what is not up: node, Kubernetes, Tor network, images
    Up,
    /// Bring up, and install the operator
    Install {
        /// The operator's program [default: the one beside this program]
        #[arg(long)]
        operator: Option<PathBuf>,
    },
    /// Bring up, and load the images
    Images {
        /// The operator's program [default: the one beside this program]
        #[arg(long)]
        operator: Option<PathBuf>,
    },
    /// Bring up, install, and show a service with three backends
    Demo,
    /// Bring up, install, and make one fault after another under load; fails when a figure misses its limit
    ///
    /// Real tor clients ask a service with three backends and a plain onion service beside it, by the clock: four requests a second to
    /// each, one of three by a client that has no descriptor yet. Python's stem looks at what each HSDir holds. Each fault takes two to
    /// four minutes and prints lines of `figure <fault>_<what> <value> <unit>`; failed counts are less the plain service's. What is
    /// up stays up: `e2e down` ends it.
    Chaos {
        /// Only these faults, separated by commas
        #[arg(long, value_delimiter = ',', value_name = "FAULT")]
        only: Vec<String>,
        /// Name the faults, and do nothing
        #[arg(long)]
        list: bool,
        /// Where the service is; with a namespace for each, two can go on side by side on one cluster
        #[arg(long, default_value = chaos::NAMESPACE)]
        namespace: String,
        /// The operator's program [default: the one beside this program]
        #[arg(long)]
        operator: Option<PathBuf>,
    },
    /// End and remove all of it
    Down,
    /// Tell what is up
    Status,
    /// Answer as the cluster's DNS (`up` starts this inside the node)
    #[command(hide = true)]
    Dns,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<()> {
    let state = State::new(cli.dir)?;
    match cli.command {
        Command::Up => bringup::up(&state).await,
        Command::Install { operator } => install(&state, operator).await,
        Command::Images { operator } => {
            let operator = program(operator)?;
            bringup::up(&state).await?;
            onionbalance_e2e::install::load_images(&state, &operator).await.map(drop)
        }
        Command::Demo => {
            install(&state, None).await?;
            demo::run(&state).await
        }
        Command::Chaos { list: true, .. } => {
            chaos::list();
            Ok(())
        }
        Command::Chaos { only, operator, list: false, namespace } => {
            let faults = chaos::select(&only)?;
            install(&state, operator).await?;
            chaos::run(&state, &faults, &namespace).await
        }
        Command::Down => bringup::down(&state).await,
        Command::Status => bringup::status(&state),
        Command::Dns => dns::serve(Cluster::open(&state)?.client().await?, node::BRIDGE_ADDRESS).await,
    }
}

/// The operator's program: the one that is given, or the one beside this program.
fn program(operator: Option<PathBuf>) -> Result<PathBuf> {
    let operator = match operator {
        Some(operator) => operator,
        None => std::env::current_exe()?.with_file_name("onionbalance-operator"),
    };
    operator.canonicalize().with_context(|| format!("{}: build it first", operator.display()))
}

async fn install(state: &State, operator: Option<PathBuf>) -> Result<()> {
    let operator = program(operator)?;
    bringup::up(state).await?;
    onionbalance_e2e::install::install(state, &operator).await
}
