//! Restores the stage after a fault that could not be injected, measured or ended, and after one
//! that the publisher remembers for longer than the run.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;

use super::stage::{PROBE, Stage};
use super::target::Mood;
use crate::install;
use crate::wait::{Seen, until};

/// The label selector of the frontends of the service under test.
const FRONTENDS: &str = "onionbalance.dev/service=web,app.kubernetes.io/component=frontend";
/// The label selector of all pods of the service under test.
const ALL: &str = "onionbalance.dev/service=web";
/// The time limit for pods to be replaced.
const REPLACED: Duration = Duration::from_secs(240);

impl Stage {
    /// Undoes everything that a fault may have left: thaws and restarts relays, restarts the
    /// control plane and the operator, resets the settings of the service and of its target, and
    /// replaces all pods, which also ends frozen programs and cut links.
    pub async fn restore(&self) -> Result<()> {
        let network = self.network.grown();
        network.thaw()?;
        network.up().await?;
        self.cluster.up().await?;
        let operator = format!("--namespace {} scale deployment/{}", install::NAMESPACE, install::DEPLOYMENT);
        self.kubectl.run(&format!("{operator} --replicas=1")).await?;
        self.set_mood(Mood::Answers);
        self.set_probe(PROBE).await?;
        self.restrict(&[]).await?;
        self.set_port("", "null").await?;
        self.replace(ALL).await
    }

    /// Replaces all frontends. A new publisher tries HSDirs again that failed for the old one. The
    /// old one would let them rest for up to half an hour.
    pub async fn replace_frontends(&self) -> Result<()> {
        self.replace(FRONTENDS).await
    }

    async fn replace(&self, selector: &str) -> Result<()> {
        let old = self.uids(selector).await?;
        self.run(&format!("delete pods --selector={selector} --grace-period=1 --wait=false")).await?;
        until("all pods are new", REPLACED, async || {
            let now = self.uids(selector).await?;
            let left = now.intersection(&old).count();
            let done = left == 0 && !now.is_empty();
            Ok(if done { Seen::Yes(()) } else { Seen::NotYet(format!("{left} of {} pods are old", now.len())) })
        })
        .await
    }

    async fn uids(&self, selector: &str) -> Result<BTreeSet<String>> {
        let path = "jsonpath={.items[*].metadata.uid}";
        let uids = self.run(&format!("get pods --selector={selector} -o {path}")).await?;
        Ok(uids.split_whitespace().map(str::to_owned).collect())
    }
}
