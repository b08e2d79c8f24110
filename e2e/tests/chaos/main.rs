//! Injects the faults that matter most under load, one after another, on a cluster on which nothing
//! else runs. The times and the answers of the HSDirs must meet the limits of
//! `docs/reliability.md`. `make test-e2e` runs this test.

#[allow(dead_code, reason = "only the cluster tests use all of it")]
#[path = "../cluster/scene.rs"]
mod scene;

use anyhow::Result;
use onionbalance_e2e::chaos::effort::Effort;
use onionbalance_e2e::chaos::figure::Results;
use onionbalance_e2e::chaos::limit::Limit;
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

/// The figures that must meet their limits.
const JUDGED: [&str; 9] = [
    "requests",
    "false_alarms",
    "hsdirs",
    "other_hsdirs",
    "gone_s",
    "took_s",
    "republished_s",
    "fewest_points",
    "held_streams",
];

/// The counts that must meet a limit which allows for chance. Slow requests are only printed,
/// because a moment in which the machine does other work makes many of them slow.
const COUNTED: [&str; 3] = ["failed", "cut", "held_cut"];

/// Returns the limit that a figure of a short run must meet, if there is one.
fn of_short_run(limit: Limit, results: &Results) -> Option<Limit> {
    let is_one_of = |names: &[&str]| names.contains(&limit.what);
    if is_one_of(&COUNTED) { Some(limit.of_short_run(results)) } else { is_one_of(&JUDGED).then_some(limit) }
}

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
            let (limits, results) = (std::mem::take(&mut judged.limits), &judged.results);
            judged.limits = limits.into_iter().filter_map(|limit| of_short_run(limit, results)).collect();
        }
        stage.tear_down().await?;
        verdict(&judged, &broken)
    })
    .await
}
