//! A short version of `make chaos`: when a backend's tor is killed or hangs, its points disappear
//! from every HSDir's descriptor within seconds.

use anyhow::Result;
use onionbalance_e2e::chaos::figure::Limit;
use onionbalance_e2e::chaos::needs::Needs;
use onionbalance_e2e::chaos::run::{Effort, run};
use onionbalance_e2e::chaos::{select, table, verdict};

use crate::scene::scene;

#[tokio::test]
async fn a_backend_whose_tor_is_killed_or_frozen_is_withdrawn() -> Result<()> {
    scene("chaos", async |scene| {
        let stage = scene.stage(Needs::default(), Effort::SHORT).await?;
        let mut figures = Vec::new();
        for fault in select(&["backend_tor_kill".to_owned(), "backend_tor_freeze".to_owned()])? {
            figures.extend(run(&stage, fault.as_ref(), Effort::SHORT).await?);
        }
        eprintln!("{}", table(&figures));
        stage.tear_down().await?;
        // This run makes too few requests to judge the percentages of failed and slow requests: a
        // single request that was in progress at the killed tor is 1% of them.
        figures.retain(|figure| figure.name.ends_with("_gone_s") || figure.name.ends_with("_hsdirs"));
        // Pods of other tests start on the same processors meanwhile, so the time limits are
        // doubled here. `make chaos` has the machine to itself.
        for figure in &mut figures {
            if let Some(Limit::AtMost(most)) = &mut figure.limit {
                *most *= 2.0;
            }
        }
        verdict(&figures, &[])
    })
    .await
}
