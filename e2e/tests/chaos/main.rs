//! Injects the faults that matter most under load, one after another, on a cluster on which nothing
//! else runs. The times and the answers of the HSDirs must meet the limits of
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

/// The figures that must meet their limits. Chance decides too much about the others, which count a
/// few failed, cut or slow requests of a short run, so they are only printed.
const JUDGED: [&str; 7] = ["requests", "hsdirs", "other_hsdirs", "gone_s", "took_s", "republished_s", "fewest_points"];

#[tokio::test]
async fn the_descriptors_follow_every_fault_within_the_limits() -> Result<()> {
    empty_scene("chaos", async |scene| {
        let mut faults = Vec::new();
        for (name, least) in FAULTS {
            faults.push((select(&[name.to_owned()])?.pop().context("the fault was not selected")?, least));
        }
        let faults: Vec<_> = faults.iter().map(|(fault, least)| (fault.as_ref(), *least)).collect();
        let stage = Stage::set_up(scene.state(), scene.namespace(), faults[0].0.needs(), Effort::SHORT).await?;
        let (mut judged, broken) = inject(&stage, &faults, |_| Ok(())).await?;
        eprintln!("{}", rows(&judged));
        for judged in &mut judged {
            judged.limits.retain(|limit| JUDGED.contains(&limit.what));
        }
        stage.tear_down().await?;
        verdict(&judged, &broken)
    })
    .await
}
