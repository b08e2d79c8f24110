//! What the API server serves: asked at the start, and again from time to time, since a cluster is upgraded under us.

use std::time::Duration;

use kube::Client;
use tokio::time::sleep;
use tracing::info;

use super::children::PolicyVersion;
use crate::common::complaint::{Complaint, cause};

/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(2);
/// How often it is asked again.
const AGAIN: Duration = Duration::from_secs(300);

/// The newest version of `PodDisruptionBudget` that it serves and we know. Asks until there is an answer.
pub async fn policy(client: &Client) -> Option<PolicyVersion> {
    let mut complaint = Complaint::default();
    loop {
        match ask(client).await {
            Ok(version) => {
                if version.is_none() {
                    info!("the API server has no PodDisruptionBudgets that we know: none are made");
                }
                return version;
            }
            Err(error) => {
                complaint.utter("cannot ask the API server what it serves", &cause(&error));
                sleep(RETRY).await;
            }
        }
    }
}

/// Ends when the answer is no longer this one.
pub async fn another_policy(client: &Client, known: Option<PolicyVersion>) {
    loop {
        sleep(AGAIN).await;
        // No answer is no news.
        if ask(client).await.is_ok_and(|version| version != known) {
            info!("the API server serves other versions than before");
            return;
        }
    }
}

async fn ask(client: &Client) -> kube::Result<Option<PolicyVersion>> {
    let groups = client.list_api_groups().await?;
    let versions = groups.groups.iter().find(|group| group.name == "policy").map(|group| &group.versions);
    for (name, version) in [("v1", PolicyVersion::V1), ("v1beta1", PolicyVersion::V1Beta1)] {
        if !versions.into_iter().flatten().any(|served| served.version == name) {
            continue;
        }
        let resources = client.list_api_group_resources(&format!("policy/{name}")).await?;
        if resources.resources.iter().any(|resource| resource.name == "poddisruptionbudgets") {
            return Ok(Some(version));
        }
    }
    Ok(None)
}
