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
    let bridge = plane.bridge_fingerprint().context("the service has no bridge")?;
    for backend in 0..BACKENDS {
        only_the_bridge_is_connected(plane.backend_control(backend).await?, bridge).await?;
    }
    only_the_bridge_is_connected(plane.frontend_control().await?, bridge).await?;
    plane.no_secret_is_in_a_log()
}

/// Checks that all connections of a tor to relays lead to the bridge.
async fn only_the_bridge_is_connected(mut tor: Control, bridge: &str) -> Result<()> {
    let reply = tor.ask("GETINFO orconn-status").await?.context("tor rejects GETINFO")?;
    let lines = reply.iter().map(|line| line.trim_start_matches("orconn-status="));
    let connections: Vec<&str> = lines.filter(|line| !line.is_empty() && *line != "OK").collect();
    let others: Vec<&str> = connections.iter().copied().filter(|line| !line.contains(bridge)).collect();
    ensure!(!connections.is_empty() && others.is_empty(), "these connections lead around the bridge: {others:?}");
    Ok(())
}
