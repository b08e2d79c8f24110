//! Discovery of the API server's optional APIs, at startup and then periodically, because a cluster
//! can be upgraded while the operator runs.

use std::time::Duration;

use kube::Client;
use tokio::time::sleep;
use tracing::info;

use super::served::{PolicyVersion, Served};
use crate::common::complaint::{Complaint, cause};

/// The pause after a failed discovery request.
const RETRY: Duration = Duration::from_secs(2);
/// The interval between two discovery requests.
const INTERVAL: Duration = Duration::from_secs(300);

/// Returns the optional APIs that the API server serves. Retries until the request succeeds.
pub async fn served(client: &Client) -> Served {
    let mut complaint = Complaint::default();
    loop {
        match ask(client).await {
            Ok(served) => {
                if served.disruption_budgets.is_none() {
                    info!("the API server does not serve a known version of PodDisruptionBudget; not creating any");
                }
                return served;
            }
            Err(error) => {
                complaint.utter("could not discover the APIs of the API server; retrying", &cause(&error));
                sleep(RETRY).await;
            }
        }
    }
}

/// Returns once the optional APIs that the API server serves differ from the known ones.
pub async fn change(client: &Client, known: Served) {
    loop {
        sleep(INTERVAL).await;
        // A failed request is not a change.
        if ask(client).await.is_ok_and(|served| served != known) {
            info!("the versions of PodDisruptionBudget that the API server serves have changed");
            return;
        }
    }
}

async fn ask(client: &Client) -> kube::Result<Served> {
    let groups = client.list_api_groups().await?;
    let versions = groups.groups.iter().find(|group| group.name == "policy").map(|group| &group.versions);
    for (name, version) in [("v1", PolicyVersion::V1), ("v1beta1", PolicyVersion::V1Beta1)] {
        if !versions.into_iter().flatten().any(|served| served.version == name) {
            continue;
        }
        let resources = client.list_api_group_resources(&format!("policy/{name}")).await?;
        if resources.resources.iter().any(|resource| resource.name == "poddisruptionbudgets") {
            return Ok(Served { disruption_budgets: Some(version) });
        }
    }
    Ok(Served { disruption_budgets: None })
}
