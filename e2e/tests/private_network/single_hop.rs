//! Checks with real tors a service whose location is not hidden: its backends connect directly to
//! introduction points and rendezvous points, and everything else works as usual.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::torcontrol::Control;
use onionbalance_e2e::wait::{Seen, until};
use serde_json::json;

use crate::data_plane::{DataPlane, Features};
use crate::{NETWORK, all_points_are_published, an_arti_client_connects, first_page, probe, serving_backends};

const BACKENDS: usize = 2;
/// The purposes of a backend's circuits for its onion service.
const INTRODUCTION: &str = "PURPOSE=HS_SERVICE_INTRO";
const RENDEZVOUS: &str = "PURPOSE=HS_SERVICE_REND";
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn backends_whose_location_is_exposed_serve_over_circuits_with_a_single_hop() -> Result<()> {
    let _network = NETWORK.lock().await;
    let anonymity = json!({"serverLocation": "Exposed"});
    let features = Features { ports: Vec::new(), backends: json!({}), anonymity };
    let mut plane = DataPlane::start_with(features, BACKENDS).await?;
    let outcome = scenario(&mut plane).await;
    plane.end(outcome)
}

async fn scenario(plane: &mut DataPlane) -> Result<()> {
    first_page(plane).await?;
    let all: BTreeSet<usize> = (0..BACKENDS).collect();
    all_points_are_published(plane, &all).await?;
    ensure!(serving_backends(plane, &all).await? == all, "each backend must serve");
    an_arti_client_connects(plane, &all).await?;
    ensure!(plane.descriptor().await?.single_onion_service, "the descriptor must not claim anonymous servers");
    every_circuit_has_a_single_hop(plane).await?;
    only_the_backends_are_exposed(plane).await?;
    plane.probe(&[]).await?;
    probe::probed(plane, &["Answered"]).await?;
    plane.no_secret_is_in_a_log()
}

/// Checks the circuits to introduction points and rendezvous points, while a client is connected.
async fn every_circuit_has_a_single_hop(plane: &DataPlane) -> Result<()> {
    let client = plane.client().await?;
    let stream = client.connect(plane.onion(), 80, "open").await.context("the client cannot connect")?;
    until("all circuits for the onion service have a single hop", PATIENCE, async || {
        let (mut introductions, mut rendezvous) = (0, 0);
        for backend in 0..BACKENDS {
            for circuit in circuits(&mut plane.backend_control(backend).await?).await? {
                if circuit.hops != 1 {
                    return Ok(Seen::NotYet(format!("a circuit of backend {backend} has {} hops", circuit.hops)));
                }
                introductions += usize::from(circuit.purpose == INTRODUCTION);
                rendezvous += usize::from(circuit.purpose == RENDEZVOUS);
            }
        }
        let enough = introductions >= 3 * BACKENDS && rendezvous > 0;
        let seen = format!("there are {introductions} introduction and {rendezvous} rendezvous circuits");
        Ok(if enough { Seen::Yes(()) } else { Seen::NotYet(seen) })
    })
    .await?;
    drop(stream);
    client.remove().await
}

/// A circuit of a backend for its onion service.
struct Circuit {
    purpose: &'static str,
    hops: usize,
}

/// Returns the finished circuits of a backend's tor for its onion service.
async fn circuits(tor: &mut Control) -> Result<Vec<Circuit>> {
    let status = tor.ask("GETINFO circuit-status").await?.context("tor rejected GETINFO")?;
    let circuit = |line: &String| {
        let mut words = line.split(' ').skip(1);
        let path = words.next().filter(|state| *state == "BUILT").and_then(|_| words.next())?;
        let purpose = [INTRODUCTION, RENDEZVOUS].into_iter().find(|purpose| line.contains(purpose))?;
        Some(Circuit { purpose, hops: path.split(',').count() })
    };
    Ok(status.iter().filter_map(circuit).collect())
}

/// Checks that the frontend's tor, which publishes and probes, is an ordinary tor.
async fn only_the_backends_are_exposed(plane: &DataPlane) -> Result<()> {
    for (is_exposed, mut tor) in [(true, plane.backend_control(0).await?), (false, plane.frontend_control().await?)] {
        for option in ["HiddenServiceSingleHopMode", "HiddenServiceNonAnonymousMode"] {
            let reply =
                tor.ask(&format!("GETCONF {option}")).await?.with_context(|| format!("tor rejects {option}"))?;
            let expected = format!("{option}={}", u8::from(is_exposed));
            ensure!(reply == [expected.as_str()], "{reply:?} instead of {expected}");
        }
    }
    Ok(())
}
