//! Injects the faults that matter most under load, one after another, on a cluster on which nothing
//! else runs. Every failed, cut and slow request counts, and the limits are those of
//! `docs/reliability.md`. `make test-e2e` runs this test.

#[allow(dead_code, reason = "only the cluster tests use all of it")]
#[path = "../cluster/scene.rs"]
mod scene;

use anyhow::{Context as _, Result};
use onionbalance_e2e::chaos::effort::Effort;
use onionbalance_e2e::chaos::stage::Stage;
use onionbalance_e2e::chaos::verdict::verdict;
use onionbalance_e2e::chaos::{inject, rows, select};

use crate::scene::empty_scene;

/// The faults in the order of injection, and the minimum number of requests to each service. The
/// order keeps the number of backends and frontends that must be added small. A killed tor needs
/// 200 requests, because a single request that is in progress at the time may fail, and the limit
/// is 0.5%.
const FAULTS: [(&str, usize); 7] = [
    ("scale_down", 100),
    ("rolling_restart", 100),
    ("backend_tor_kill", 200),
    ("backend_tor_freeze", 100),
    ("backend_agent_freeze", 100),
    ("backend_link_cut", 100),
    ("frontend_kill", 100),
];

#[tokio::test]
async fn clients_are_served_within_the_limits_during_every_fault() -> Result<()> {
    empty_scene("chaos", async |scene| {
        let mut faults = Vec::new();
        for (name, least) in FAULTS {
            faults.push((select(&[name.to_owned()])?.pop().context("the fault was not selected")?, least));
        }
        let faults: Vec<_> = faults.iter().map(|(fault, least)| (fault.as_ref(), *least)).collect();
        let stage = Stage::set_up(scene.state(), scene.namespace(), faults[0].0.needs(), Effort::SHORT).await?;
        let (judged, broken) = inject(&stage, &faults, |_| Ok(())).await?;
        eprintln!("{}", rows(&judged));
        stage.tear_down().await?;
        verdict(&judged, &broken)
    })
    .await
}
