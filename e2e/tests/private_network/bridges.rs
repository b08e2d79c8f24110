//! Checks with real tors that a service works behind a bridge with a pluggable transport, and that
//! its tors connect to nothing else.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::torcontrol::Control;

use crate::data_plane::DataPlane;
use crate::{NETWORK, all_points_are_published, first_page, serving_backends};

const BACKENDS: usize = 2;

#[tokio::test]
async fn a_service_behind_a_bridge_connects_to_nothing_but_the_bridge() -> Result<()> {
    let _network = NETWORK.lock().await;
    let plane = DataPlane::start_behind_a_bridge(BACKENDS).await?;
    let outcome = scenario(&plane).await;
    plane.end(outcome)
}

async fn scenario(plane: &DataPlane) -> Result<()> {
    first_page(plane).await?;
    let all: BTreeSet<usize> = (0..BACKENDS).collect();
    all_points_are_published(plane, &all).await?;
    ensure!(serving_backends(plane, &all).await? == all, "each backend must serve");
    for backend in 0..BACKENDS {
        only_the_bridge_is_connected(plane.backend_control(backend).await?).await?;
    }
    only_the_bridge_is_connected(plane.frontend_control().await?).await?;
    plane.no_secret_is_in_a_log()
}

/// Checks the connections of a tor to relays. The network's other relays have other nicknames.
async fn only_the_bridge_is_connected(mut tor: Control) -> Result<()> {
    let reply = tor.ask("GETINFO orconn-status").await?.context("tor rejects GETINFO")?;
    let is_entry = |line: &&String| line.contains('$');
    let connections: Vec<&String> = reply.iter().filter(is_entry).collect();
    let to_bridge = |line: &&String| line.contains("~bridge ") || line.contains("=bridge ");
    let others: Vec<_> = connections.iter().filter(|line| !to_bridge(line)).collect();
    ensure!(!connections.is_empty() && others.is_empty(), "these connections lead around the bridge: {others:?}");
    Ok(())
}
