//! The Deployment of the frontends: pods with tor and the publisher.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapProjection, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath, ObjectFieldSelector,
    ProjectedVolumeSource, ServiceAccountTokenProjection, Volume, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use super::config_map::config_hash;
use super::deployment_backend::{file, guards, guards_in_use, rolling, vanguards};
use super::{BuildError, Inputs, LastGood, SECRET_KEY_FILE, SIGNING_KIT_FILE, pod};
use crate::crd::names::{self, Component};
use crate::link::paths::MASTER_KEY_DIR;
use crate::link::{CIRCUITS_PORT, TOR_PROBE_PATH};
use crate::operator::stamp::hash;

/// The termination grace period of a frontend pod, during which the publisher releases the Lease.
const GRACE_PERIOD: Duration = Duration::from_secs(30);

/// Builds the Deployment of the frontends. `config` is the `ConfigMap` that their pods mount, and
/// `account` is the UID of their `ServiceAccount`. A pod's token is bound to this UID: if the
/// account is deleted and recreated, the API server rejects the tokens of the old pods, so the pods
/// must be replaced.
pub(super) fn deployment(inputs: &Inputs<'_>, config: &ConfigMap, account: &str) -> Result<Value, BuildError> {
    let service = inputs.name();
    let frontend = &inputs.object.spec.frontend;
    let settings = inputs.settings().default_templates.under(&frontend.template, &service, Component::Frontend);
    let mut secrets = vec![
        (key(inputs), pod::read_only("master-key", MASTER_KEY_DIR)),
        (api_access(), pod::read_only("api-access", "/var/run/secrets/kubernetes.io/serviceaccount")),
    ];
    secrets.extend(guards(inputs).into_iter().chain(vanguards(inputs)));
    let mut arguments = ["frontend", "--service", &service].map(ToOwned::to_owned).to_vec();
    let mut served_ports = Vec::new();
    if inputs.closes_circuits() {
        arguments.extend(["--circuits-port".to_owned(), CIRCUITS_PORT.to_string()]);
        served_ports.push(pod::port("circuits", CIRCUITS_PORT));
    }
    let parts = pod::Parts {
        name: "publisher",
        arguments,
        init_arguments: ["frontend", "init"],
        // The publisher rejects the key in the Secret if the key's address differs from this one.
        variables: [("ONION_ADDRESS", inputs.address.to_string())].into_iter().chain(guards_in_use(inputs)).collect(),
        ports: served_ports,
        secrets,
        pre_stop: None,
        tor_liveness: Some(TOR_PROBE_PATH),
        // With a shared process namespace, tor could read the publisher's key and token under
        // /proc.
        shares_processes: false,
        grace_period: GRACE_PERIOD,
    };
    let hash = hash(&format!("{} {account}", config_hash(inputs, config)));
    let last = LastGood {
        address: inputs.address,
        settings: serde_json::to_value(frontend)?,
        ports: Vec::new(),
        secret: Some(names::master_key_secret(inputs.object)),
        delegated: inputs.object.spec.master_key.delegated,
        guards: inputs.object.spec.anonymity.guards,
        guards_in_use: inputs.object.spec.anonymity.guards_in_use,
        vanguards: inputs.object.spec.anonymity.vanguards,
        server_location: inputs.object.spec.anonymity.server_location,
        account: Some(account.to_owned()),
    };
    let deployment = Deployment {
        metadata: last.annotate(inputs.component_metadata(Component::Frontend))?,
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
    pod::place(&mut deployment["spec"]["template"]["spec"], inputs, &settings, Component::Frontend);
    Ok(deployment)
}

/// Returns the volume with the master key or, if the service is delegated, the signing kits.
fn key(inputs: &Inputs<'_>) -> Volume {
    let entry = if inputs.object.spec.master_key.delegated { SIGNING_KIT_FILE } else { SECRET_KEY_FILE };
    Volume {
        name: "master-key".to_owned(),
        secret: Some(file(names::master_key_secret(inputs.object), entry)),
        ..Volume::default()
    }
}

/// Returns the volume with the credentials for the Kubernetes API. Only the publisher mounts it; by
/// default, Kubernetes would also mount it in the tor container, which is exposed to the network.
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

    use crate::operator::children::tests::support::Fixture;
    use crate::operator::children::{Inputs, Stage, children};

    #[test]
    fn only_the_publisher_has_the_master_key_and_an_api_token() {
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
        assert!(pod.get("shareProcessNamespace").is_none(), "tor could read the publisher's secrets under /proc");
    }

    #[test]
    fn a_delegated_publisher_mounts_only_the_signing_kit() {
        let entry = |spec| {
            let pod = &Fixture::of(&spec).child("Deployment web-frontend")["spec"]["template"]["spec"];
            let volumes = pod["volumes"].as_array().unwrap();
            let secret = &volumes.iter().find(|volume| volume["name"] == "master-key").unwrap()["secret"];
            assert_eq!(secret["items"].as_array().unwrap().len(), 1);
            secret["items"][0]["key"].clone()
        };
        let delegated = json!({"masterKey": {"secretName": "mine", "delegated": true}});
        assert_eq!(entry(delegated), "signing.kit");
        assert_eq!(entry(json!({"masterKey": {"secretName": "mine"}})), "hs_ed25519_secret_key");
    }

    #[test]
    fn the_publisher_gets_the_address_of_the_expected_key() {
        let fixture = Fixture::new();
        let pod = &fixture.child("Deployment web-frontend")["spec"]["template"]["spec"];
        let publisher = pod["containers"].as_array().unwrap().iter().find(|c| c["name"] == "publisher").unwrap();
        let address = json!({"name": "ONION_ADDRESS", "value": fixture.inputs().address.to_string()});
        assert!(publisher["env"].as_array().unwrap().contains(&address), "{publisher}");
    }

    #[test]
    fn the_pods_mount_the_secret_that_the_object_names() {
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
    fn the_publisher_gets_the_name_of_its_service() {
        let publisher = &Fixture::new().child("Deployment web-frontend")["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(publisher["args"], json!(["frontend", "--service", "web"]));
        assert_eq!(publisher["env"][2]["valueFrom"]["fieldRef"]["fieldPath"], "metadata.uid");
        assert!(publisher["lifecycle"].get("preStop").is_none());
    }

    #[test]
    fn a_new_account_starts_a_rollout_and_no_pods_run_without_an_account() {
        let fixture = Fixture::new();
        let template = |account| {
            let inputs = Inputs { frontend_account: account, ..fixture.inputs() };
            let deployments = children(&inputs, Stage::Deployments).unwrap();
            let frontend = deployments.into_iter().find(|child| child.id.to_string() == "Deployment web-frontend");
            frontend.map(|child| child.manifest["spec"]["template"].clone())
        };
        assert_eq!(template(Some("a")), template(Some("a")));
        assert_ne!(template(Some("a")), template(Some("b")));
        assert_eq!(template(None), None);
    }

    #[test]
    fn the_publisher_answers_the_probes_of_tor() {
        let tor = &Fixture::new().child("Deployment web-frontend")["spec"]["template"]["spec"]["containers"][1];
        for probe in ["startupProbe", "readinessProbe"] {
            assert_eq!(tor[probe]["httpGet"], json!({"path": "/tor/livez", "port": 9401}));
        }
        assert_eq!(tor["livenessProbe"]["httpGet"], json!({"path": "/tor/livez?early", "port": 9401}));
    }

    #[test]
    fn a_silent_tor_is_killed_soon_where_a_probe_can_have_its_own_grace_period() {
        let mut fixture = Fixture::new();
        let probe = |fixture: &Fixture| {
            let pod = &fixture.child("Deployment web-frontend")["spec"]["template"]["spec"];
            pod["containers"][1]["livenessProbe"].clone()
        };
        let early = json!({
            "httpGet": {"path": "/tor/livez?early", "port": 9401}, "timeoutSeconds": 5,
            "periodSeconds": 2, "failureThreshold": 5, "terminationGracePeriodSeconds": 2,
        });
        assert_eq!(probe(&fixture), early);
        fixture.environment.served.fields.probe_grace_period = false;
        let late = json!({
            "httpGet": {"path": "/tor/livez", "port": 9401}, "timeoutSeconds": 5,
            "periodSeconds": 5, "failureThreshold": 6,
        });
        assert_eq!(probe(&fixture), late);
    }

    #[test]
    fn a_suspended_service_has_no_frontends() {
        let replicas = |spec| Fixture::of(&spec).child("Deployment web-frontend")["spec"]["replicas"].clone();
        assert_eq!(replicas(json!({"frontend": {"replicas": 2}})), 2);
        assert_eq!(replicas(json!({"frontend": {"replicas": 2}, "suspend": true})), 0);
    }
}
