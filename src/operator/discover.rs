//! Discovery of the API server's optional APIs and fields, at startup and then periodically,
//! because a cluster can be upgraded while the operator runs.

use std::time::Duration;

use kube::Client;
use tokio::time::sleep;
use tracing::{info, warn};

use super::openapi::{Document, Index, OpenApiError};
use super::served::{Fields, PolicyVersion, Served};
use crate::common::complaint::{Complaint, cause};

/// The pause after a failed discovery request.
const RETRY: Duration = Duration::from_secs(2);
/// The interval between two discovery requests.
const INTERVAL: Duration = Duration::from_secs(300);
/// How often the operator tries to learn the optional fields before it starts without them. If it
/// gave up at once, a server that is still starting could cause two rollouts of all pods.
const ATTEMPTS: u32 = 10;

/// The OpenAPI documents that contain the schemas with optional fields: that of Deployments, and
/// that of disruption budgets.
const DOCUMENTS: [&str; 2] = ["apis/apps/v1", "apis/policy/v1"];

/// Finds out what an API server serves.
pub struct Discovery {
    client: Client,
    /// The URLs of the documents that were read last, and the fields that were found in them.
    read: ([String; 2], Fields),
}

/// The reason why the optional fields are unknown.
#[derive(Debug, thiserror::Error)]
enum FieldsError {
    #[error(transparent)]
    OpenApi(#[from] OpenApiError),
    /// Every server has Deployments, so this server has not collected all documents yet.
    #[error("the index of OpenAPI documents does not contain {}", DOCUMENTS[0])]
    Incomplete,
}

impl Discovery {
    /// Creates the discovery for the API server of a client.
    pub fn new(client: Client) -> Self {
        Self { client, read: Default::default() }
    }

    /// Returns the optional APIs and fields that the API server serves. Retries until the request
    /// for the APIs succeeds. If the API server describes no fields, or its description cannot be
    /// read for 20 s, the result contains none.
    pub async fn served(&mut self) -> Served {
        let disruption_budgets = self.budgets_in_the_end().await;
        if disruption_budgets.is_none() {
            info!("the API server does not serve a known version of PodDisruptionBudget; not creating any");
        }
        let fields = self.fields_if_possible().await;
        info!(?fields, "discovered the optional fields of the API server");
        Served { disruption_budgets, fields }
    }

    /// Returns once the optional APIs or fields that the API server serves differ from the known
    /// ones.
    pub async fn change(&mut self, known: Served) {
        loop {
            sleep(INTERVAL).await;
            // A failed request is not a change.
            let Ok(disruption_budgets) = self.budgets().await else { continue };
            let Ok(fields) = self.fields().await else { continue };
            if (Served { disruption_budgets, fields }) != known {
                info!("the optional APIs or fields that the API server serves have changed");
                return;
            }
        }
    }

    async fn budgets_in_the_end(&self) -> Option<PolicyVersion> {
        let mut complaint = Complaint::default();
        loop {
            match self.budgets().await {
                Ok(version) => return version,
                Err(error) => {
                    complaint.utter("could not discover the APIs of the API server; retrying", &cause(&error));
                    sleep(RETRY).await;
                }
            }
        }
    }

    async fn fields_if_possible(&mut self) -> Fields {
        let mut complaint = Complaint::default();
        for _ in 0..ATTEMPTS {
            match self.fields().await {
                Ok(fields) => return fields,
                Err(error) => {
                    complaint.utter("could not discover the fields of the API server; retrying", &error);
                    sleep(RETRY).await;
                }
            }
        }
        warn!("could not discover the fields of the API server; not using any optional field");
        Fields::default()
    }

    async fn budgets(&self) -> kube::Result<Option<PolicyVersion>> {
        let groups = self.client.list_api_groups().await?;
        let versions = groups.groups.iter().find(|group| group.name == "policy").map(|group| &group.versions);
        for (name, version) in [("v1", PolicyVersion::V1), ("v1beta1", PolicyVersion::V1Beta1)] {
            if !versions.into_iter().flatten().any(|served| served.version == name) {
                continue;
            }
            let resources = self.client.list_api_group_resources(&format!("policy/{name}")).await?;
            if resources.resources.iter().any(|resource| resource.name == "poddisruptionbudgets") {
                return Ok(Some(version));
            }
        }
        Ok(None)
    }

    /// Returns the optional fields. The documents are large, so they are read only if they have
    /// changed.
    async fn fields(&mut self) -> Result<Fields, FieldsError> {
        let Some(index) = Index::read(&self.client).await? else { return Ok(Fields::default()) };
        let urls = DOCUMENTS.map(|document| index.url(document).unwrap_or_default().to_owned());
        let [deployments, budgets] = &urls;
        if deployments.is_empty() {
            return Err(FieldsError::Incomplete);
        }
        if urls != self.read.0 {
            let deployments = Document::read(&self.client, deployments).await?;
            let budgets =
                if budgets.is_empty() { Document::default() } else { Document::read(&self.client, budgets).await? };
            self.read = (urls, fields_of(&deployments, &budgets));
        }
        Ok(self.read.1)
    }
}

fn fields_of(deployments: &Document, budgets: &Document) -> Fields {
    Fields {
        probe_grace_period: deployments.has("io.k8s.api.core.v1.Probe", "terminationGracePeriodSeconds"),
        match_label_keys: deployments.has("io.k8s.api.core.v1.TopologySpreadConstraint", "matchLabelKeys"),
        unhealthy_pod_eviction_policy: budgets
            .has("io.k8s.api.policy.v1.PodDisruptionBudgetSpec", "unhealthyPodEvictionPolicy"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Returns a document with the given schemas, each of which has one field.
    fn document(schemas: &[(&str, &str)]) -> Document {
        let schema = |(name, field): &(&str, &str)| {
            let properties = Value::from_iter([((*field).to_owned(), json!({"type": "string"}))]);
            ((*name).to_owned(), json!({"type": "object", "properties": properties}))
        };
        let schemas: Value = schemas.iter().map(schema).collect();
        serde_json::from_value(json!({"components": {"schemas": schemas}})).unwrap()
    }

    #[test]
    fn each_field_is_looked_up_in_its_own_schema() {
        let none = document(&[]);
        let probe = document(&[("io.k8s.api.core.v1.Probe", "terminationGracePeriodSeconds")]);
        let expected = Fields { probe_grace_period: true, ..Fields::default() };
        assert_eq!(fields_of(&probe, &none), expected);
        let spread = document(&[("io.k8s.api.core.v1.TopologySpreadConstraint", "matchLabelKeys")]);
        assert_eq!(fields_of(&spread, &none), Fields { match_label_keys: true, ..Fields::default() });
        let budget = document(&[("io.k8s.api.policy.v1.PodDisruptionBudgetSpec", "unhealthyPodEvictionPolicy")]);
        let expected = Fields { unhealthy_pod_eviction_policy: true, ..Fields::default() };
        assert_eq!(fields_of(&none, &budget), expected);
        // A pod has a field of the same name, on every server.
        let pod = document(&[("io.k8s.api.core.v1.PodSpec", "terminationGracePeriodSeconds")]);
        assert_eq!(fields_of(&pod, &none), Fields::default());
    }
}
