//! Injects the faults that matter most under load, one after another, on a cluster on which nothing
//! else runs. The times and the answers of the HSDirs must meet the limits of
//! `docs/reliability.md`. `make test-e2e` runs this test.

#[allow(dead_code, reason = "only the cluster tests use all of it")]
#[path = "../cluster/scene.rs"]
mod scene;

use anyhow::Result;
use onionbalance_e2e::chaos::effort::Effort;
use onionbalance_e2e::chaos::stage::Stage;
use onionbalance_e2e::chaos::verdict::verdict;
use onionbalance_e2e::chaos::{inject, rows, select};

use crate::scene::empty_scene;

/// The faults in the order of injection, which keeps the number of backends and frontends that must
/// be added small.
const FAULTS: [&str; 7] = [
    "scale_down",
    "rolling_restart",
    "backend_tor_kill",
    "backend_tor_freeze",
    "backend_agent_freeze",
    "backend_link_cut",
    "frontend_kill",
];

/// The figures that must meet their limits. Chance decides too much about the others, which count a
/// few failed, cut or slow requests of a short run, so they are only printed.
const JUDGED: [&str; 8] =
    ["requests", "false_alarms", "hsdirs", "other_hsdirs", "gone_s", "took_s", "republished_s", "fewest_points"];

#[tokio::test]
async fn the_descriptors_follow_every_fault_within_the_limits() -> Result<()> {
    empty_scene("chaos", async |scene| {
        let mut faults = Vec::new();
        for name in FAULTS {
            faults.extend(select(&[name.to_owned()])?);
        }
        let stage = Stage::set_up(scene.state(), scene.namespace(), faults[0].needs(), Effort::SHORT).await?;
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
