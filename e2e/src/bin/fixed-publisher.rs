//! `fixed-publisher`: the publisher without Kubernetes, with backends that never change.
//!
//! It replaces `onionbalance-operator frontend` in tests and measurements on a single host.

use std::process::ExitCode;

use clap::Parser;
use onionbalance_operator::common::{hidden, log};
use onionbalance_operator::frontend::{FixedBackend, FixedBackends, PublisherArgs, RunError, run_fixed};
use onionbalance_operator::onion::{ClientPublicKey, OnionAddress};

/// The publisher without Kubernetes: it uses no Lease, writes no status, and always leads.
#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    publisher: PublisherArgs,
    /// A backend with an agent (repeatable)
    #[arg(long, value_name = "POD_UID@HOST:PORT")]
    static_backend: Vec<FixedBackend>,
    /// A client that may discover the service; without this option, every client may (repeatable)
    #[arg(long, value_name = "descriptor:x25519:BASE32")]
    static_client: Vec<ClientPublicKey>,
    /// The onion address of an external backend (repeatable)
    #[arg(long, value_name = "ADDRESS")]
    static_external: Vec<OnionAddress>,
    /// Probe port 80 of the address from outside in this interval, with an HTTP request
    #[arg(long, value_name = "SECONDS")]
    static_probe: Option<u32>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<(), RunError> {
    log::start(log::Format::Text, log::Addresses::Short, "info");
    hidden::hide()?;
    let fixed = FixedBackends {
        backends: cli.static_backend,
        external: cli.static_external.into_iter().collect(),
        clients: cli.static_client,
        probe_seconds: cli.static_probe,
    };
    run_fixed(cli.publisher, fixed).await
}
