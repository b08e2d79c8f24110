//! The publisher's IO shell: control socket, agents, pods, Lease, HTTP.

/// Flags of `onionbalance-operator frontend`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs until it is told to stop (SIGTERM, SIGINT).
#[allow(clippy::unused_async)]
pub async fn run(_args: Args) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    todo!()
}
