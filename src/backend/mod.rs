//! The agent: runs beside a stock tor in a backend pod.

/// Flags of `onionbalance-operator backend`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs until it is told to stop (SIGTERM, SIGINT).
#[allow(clippy::unused_async)]
pub async fn run(_args: Args) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    todo!()
}
