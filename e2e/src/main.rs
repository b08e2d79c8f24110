//! `e2e` starts, checks and stops a one-node Kubernetes cluster and a private Tor network.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, value_parser};
use onionbalance_e2e::cluster::Cluster;
use onionbalance_e2e::flood::{self, Part};
use onionbalance_e2e::state::State;
use onionbalance_e2e::{bringup, chaos, demo, dns, node, user_cluster};

/// Runs a one-node Kubernetes cluster and a private Tor network on this machine, for the demo and
/// the end-to-end tests
#[derive(Debug, Parser)]
struct Cli {
    /// The folder for all state [default: $`XDG_STATE_HOME`/onionbalance-operator/e2e]
    #[arg(long, global = true, env = "OB_E2E_DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start whatever is not running: node, Kubernetes, Tor network
    Up,
    /// Run `up`, then install the operator
    Install {
        /// The operator's program [default: the one next to this program]
        #[arg(long)]
        operator: Option<PathBuf>,
    },
    /// Run `up`, then load the images
    Images {
        /// The operator's program [default: the one next to this program]
        #[arg(long)]
        operator: Option<PathBuf>,
    },
    /// Run `install`, then demonstrate a service with three backends
    ///
    /// With `--cluster`, the demo runs on a cluster that is running already, in a namespace of its
    /// own, and removes what it has created. There, it uses the public Tor network, unless the
    /// cluster is the one of `e2e up`.
    Demo {
        /// The kubectl context of a running cluster, or `current-context`
        #[arg(long, value_name = "CONTEXT")]
        cluster: Option<String>,
        /// The beginning of the images' names in a registry, as in `registry.example.org/onions`;
        /// nothing is loaded into the nodes
        #[arg(long, value_name = "PREFIX", requires = "cluster")]
        images: Option<String>,
        /// Leave everything on the running cluster
        #[arg(long, requires = "cluster")]
        keep: bool,
    },
    /// Run `install`, then inject faults under load, one after another; fails if a figure misses
    /// its limit
    ///
    /// Real tor clients send requests to a service with three backends and, for comparison, to a
    /// plain onion service. The rate is fixed: four requests a second to each service (one or less
    /// during long faults), one in three from a client that has no descriptor yet. Python's stem
    /// reads the descriptors that each HSDir holds. Most faults take about four minutes; `--list`
    /// says which ones take longer. Each prints lines of `figure <fault>_<what> <value> <unit>`.
    /// Every failed, cut and slow request to our service counts. The figures of the plain onion
    /// service begin with `plain_`. Everything stays up afterwards; `e2e down` stops it.
    Chaos {
        /// Inject only these faults, separated by commas
        #[arg(long, value_delimiter = ',', value_name = "FAULT")]
        only: Vec<String>,
        /// List the faults and exit
        #[arg(long)]
        list: bool,
        /// Write the figures to this file after each fault
        #[arg(long, value_name = "FILE")]
        figures: Option<PathBuf>,
        /// Instead of injecting faults, write the table of docs/reliability.md: the limits and, if
        /// a file from `--figures` is given, the figures
        #[arg(long, value_name = "FILE", num_args = 0..=1, conflicts_with_all = ["only", "list", "figures"])]
        #[allow(clippy::option_option, reason = "the option can be absent, present, or present with a file")]
        table: Option<Option<PathBuf>>,
        /// The service's namespace; two runs can share one cluster if each has its own namespace
        #[arg(long, default_value = chaos::DEFAULT_NAMESPACE)]
        namespace: String,
        /// The operator's program [default: the one next to this program]
        #[arg(long)]
        operator: Option<PathBuf>,
    },
    /// Flood services with introductions on a private Tor network without a cluster; fails if a
    /// figure misses its limit
    ///
    /// Ours, Python Onionbalance and a single stock service take turns, each with and without
    /// `introDosDefense`. Honest clients send requests at a fixed rate, one in three from a client
    /// that has no descriptor yet. All processes end together with this one. Only one private
    /// network can run in a network namespace; `make flood` creates one.
    Flood {
        /// Run only these parts, separated by commas
        #[arg(long, value_enum, value_delimiter = ',', value_name = "PART", default_values_t = Part::ALL)]
        only: Vec<Part>,
        /// The duration of each flood
        #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = value_parser!(u64).range(1..))]
        seconds: u64,
        /// The rate of the flood, in introductions per second
        #[arg(long, default_value_t = 16.0, value_parser = positive)]
        rate: f64,
        /// Write the figures to this file after each flood
        #[arg(long, value_name = "FILE")]
        figures: Option<PathBuf>,
    },
    /// Stop and remove everything
    Down {
        /// Instead, remove the demo from the running cluster of this kubectl context
        #[arg(long, value_name = "CONTEXT")]
        cluster: Option<String>,
    },
    /// Show which processes are running
    Status,
    /// Serve the cluster's DNS (`up` starts this inside the node)
    #[command(hide = true)]
    Dns,
}

/// Reads a rate, which must be greater than 0.
fn positive(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "is not a number".to_owned())?;
    if rate.is_finite() && rate > 0.0 { Ok(rate) } else { Err("must be greater than 0".to_owned()) }
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
        Command::Demo { cluster: Some(cluster), images, keep } => {
            // With images in a registry, there may be no program on this machine.
            let operator = if images.is_some() { PathBuf::new() } else { program(None)? };
            user_cluster::demo(&state, &user_cluster::Options { cluster, images, keep }, &operator).await
        }
        Command::Demo { cluster: None, .. } => {
            demo::mention_other_clusters();
            install(&state, None).await?;
            demo::run(&state).await
        }
        Command::Chaos { list: true, .. } => {
            chaos::list();
            Ok(())
        }
        Command::Chaos { table: Some(record), .. } => {
            let page = chaos::table::write(record.as_deref())?;
            eprintln!("wrote the table of {}", page.display());
            Ok(())
        }
        Command::Chaos { only, operator, list: false, figures, table: None, namespace } => {
            let faults = chaos::select(&only)?;
            install(&state, operator).await?;
            chaos::run(&state, &faults, &namespace, figures.as_deref()).await
        }
        Command::Flood { only, seconds, rate, figures } => {
            let lasts = Duration::from_secs(seconds);
            flood::run(&flood::Options { parts: only, lasts, rate, figures }).await
        }
        Command::Down { cluster: Some(cluster) } => user_cluster::down(&state, &cluster).await,
        Command::Down { cluster: None } => bringup::down(&state).await,
        Command::Status => bringup::status(&state),
        Command::Dns => dns::serve(Cluster::open(&state)?.client().await?, node::BRIDGE_ADDRESS).await,
    }
}

/// Returns the path of the operator's program. The default is the one next to this program.
fn program(operator: Option<PathBuf>) -> Result<PathBuf> {
    let operator = match operator {
        Some(operator) => operator,
        None => std::env::current_exe()?.with_file_name("onionbalance-operator"),
    };
    operator
        .canonicalize()
        .with_context(|| format!("could not find the operator's program at {}; build it first", operator.display()))
}

async fn install(state: &State, operator: Option<PathBuf>) -> Result<()> {
    let operator = program(operator)?;
    bringup::up(state).await?;
    onionbalance_e2e::install::install(state, &operator).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_greater_than_0() {
        assert_eq!(positive("0.5"), Ok(0.5));
        for text in ["0", "-1", "inf", "NaN", "many"] {
            assert!(positive(text).is_err(), "{text}");
        }
    }
}
