//! The operator: observe, plan (pure), apply.

/// Flags of `onionbalance-operator operator`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs until it is told to stop (SIGTERM, SIGINT).
#[allow(clippy::unused_async)]
pub async fn run(_args: Args) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    todo!()
}
