//! The frontends: tor and the publisher.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapProjection, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath, ObjectFieldSelector,
    ProjectedVolumeSource, ServiceAccountTokenProjection, Volume, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use super::config_map::config_hash;
use super::deployment_backend::{file, rolling};
use super::{BuildError, Inputs, SECRET_KEY_FILE, hash, pod};
use crate::crd::names::{self, Component};

/// For releasing the Lease.
const GRACE_SECONDS: i64 = 30;

/// `account` is the UID of their `ServiceAccount`. A pod's token is bound to it: when the account was deleted and made anew,
/// the API server refuses the old pods, and only new ones get a token that is good.
pub(super) fn deployment(inputs: &Inputs<'_>, config: &ConfigMap, account: &str) -> Result<Value, BuildError> {
    let service = inputs.name();
    let frontend = &inputs.object.spec.frontend;
    let settings = inputs.settings.default_templates.under(&frontend.template, &service, Component::Frontend);
    let key = Volume {
        name: "master-key".to_owned(),
        secret: Some(file(names::master_key_secret(inputs.object), SECRET_KEY_FILE)),
        ..Volume::default()
    };
    let parts = pod::Parts {
        name: "publisher",
        arguments: ["frontend", "--service", &service].map(ToOwned::to_owned).to_vec(),
        init_arguments: ["frontend", "init"],
        // Another key that somebody puts into the Secret is not taken up.
        variables: vec![("ONION_ADDRESS", inputs.address.to_string())],
        ports: Vec::new(),
        secrets: vec![
            (key, pod::read_only("master-key", "/etc/onionbalance/master-key")),
            (api_access(), pod::read_only("api-access", "/var/run/secrets/kubernetes.io/serviceaccount")),
        ],
        pre_stop: None,
        tor_liveness: Some("/tor/livez"),
        // Through it, tor could read the publisher's key and token under /proc.
        shares_processes: false,
        grace_seconds: GRACE_SECONDS,
    };
    let hash = hash(&format!("{} {account}", config_hash(inputs, config)));
    let deployment = Deployment {
        metadata: inputs.component_metadata(Component::Frontend),
        spec: Some(DeploymentSpec {
            replicas: Some(if inputs.object.spec.suspend { 0 } else { frontend.replicas }),
            selector: LabelSelector {
                match_labels: Some(names::pod_labels(&service, Component::Frontend)),
                ..LabelSelector::default()
            },
            strategy: Some(rolling()),
            template: pod::template(inputs, Component::Frontend, &settings, hash, parts),
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    };
    let mut deployment = serde_json::to_value(&deployment)?;
    pod::place(&mut deployment["spec"]["template"]["spec"], &settings, &service, Component::Frontend);
    Ok(deployment)
}

/// What Kubernetes would mount into every container, for the publisher alone: tor, which speaks to the world, has none.
fn api_access() -> Volume {
    let token = ServiceAccountTokenProjection {
        path: "token".to_owned(),
        expiration_seconds: Some(3607),
        ..ServiceAccountTokenProjection::default()
    };
    let authority = ConfigMapProjection {
        name: "kube-root-ca.crt".to_owned(),
        items: Some(vec![KeyToPath { key: "ca.crt".to_owned(), path: "ca.crt".to_owned(), mode: None }]),
        ..ConfigMapProjection::default()
    };
    let namespace = DownwardAPIProjection {
        items: Some(vec![DownwardAPIVolumeFile {
            path: "namespace".to_owned(),
            field_ref: Some(ObjectFieldSelector {
                field_path: "metadata.namespace".to_owned(),
                ..ObjectFieldSelector::default()
            }),
            ..DownwardAPIVolumeFile::default()
        }]),
    };
    Volume {
        name: "api-access".to_owned(),
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(0o440),
            sources: Some(vec![
                VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() },
                VolumeProjection { config_map: Some(authority), ..VolumeProjection::default() },
                VolumeProjection { downward_api: Some(namespace), ..VolumeProjection::default() },
            ]),
        }),
        ..Volume::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::operator::children::testing::Fixture;
    use crate::operator::children::{Inputs, children};

    #[test]
    fn only_the_publisher_holds_the_master_key_and_an_api_token() {
        let pod = &Fixture::new().child("Deployment web-frontend")["spec"]["template"]["spec"];
        for volume in ["master-key", "api-access"] {
            let holders: Vec<_> = pod["containers"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|c| c["volumeMounts"].as_array().unwrap().iter().any(|mount| mount["name"] == volume))
                .map(|container| container["name"].as_str().unwrap())
                .collect();
            assert_eq!(holders, ["publisher"], "{volume}");
        }
        assert!(pod.get("shareProcessNamespace").is_none(), "/proc would show tor what the publisher holds");
    }

    #[test]
    fn the_publisher_knows_which_key_to_expect() {
        let fixture = Fixture::new();
        let pod = &fixture.child("Deployment web-frontend")["spec"]["template"]["spec"];
        let publisher = pod["containers"].as_array().unwrap().iter().find(|c| c["name"] == "publisher").unwrap();
        let address = json!({"name": "ONION_ADDRESS", "value": fixture.inputs().address.to_string()});
        assert!(publisher["env"].as_array().unwrap().contains(&address), "{publisher}");
    }

    #[test]
    fn the_secret_is_the_one_that_the_object_names() {
        let volume = |spec| {
            let deployment = Fixture::of(&spec).child("Deployment web-frontend");
            deployment["spec"]["template"]["spec"]["volumes"][3]["secret"].clone()
        };
        assert_eq!(volume(json!({}))["secretName"], "web-master-key");
        let named = volume(json!({"masterKey": {"secretName": "mine"}}));
        assert_eq!(named["secretName"], "mine");
        assert_eq!(named["items"], json!([{"key": "hs_ed25519_secret_key", "path": "hs_ed25519_secret_key"}]));
    }

    #[test]
    fn the_publisher_is_told_its_service() {
        let publisher = &Fixture::new().child("Deployment web-frontend")["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(publisher["args"], json!(["frontend", "--service", "web"]));
        assert_eq!(publisher["env"][2]["valueFrom"]["fieldRef"]["fieldPath"], "metadata.uid");
        assert!(publisher["lifecycle"].get("preStop").is_none());
    }

    #[test]
    fn a_new_account_takes_new_pods_and_without_one_there_are_none() {
        let fixture = Fixture::new();
        let template = |account| {
            let inputs = Inputs { frontend_account: account, ..fixture.inputs() };
            let frontend =
                children(&inputs).unwrap().into_iter().find(|child| child.id.to_string() == "Deployment web-frontend");
            frontend.map(|child| child.manifest["spec"]["template"].clone())
        };
        assert_eq!(template(Some("a")), template(Some("a")));
        assert_ne!(template(Some("a")), template(Some("b")));
        assert_eq!(template(None), None);
    }

    #[test]
    fn the_publisher_answers_for_tors_liveness() {
        let tor = &Fixture::new().child("Deployment web-frontend")["spec"]["template"]["spec"]["containers"][1];
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            assert_eq!(tor[probe]["httpGet"], json!({"path": "/tor/livez", "port": 9401}));
        }
    }

    #[test]
    fn suspended_means_none() {
        let replicas = |spec| Fixture::of(&spec).child("Deployment web-frontend")["spec"]["replicas"].clone();
        assert_eq!(replicas(json!({"frontend": {"replicas": 2}})), 2);
        assert_eq!(replicas(json!({"frontend": {"replicas": 2}, "suspend": true})), 0);
    }
}
