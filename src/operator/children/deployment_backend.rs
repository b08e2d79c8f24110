//! The Deployment of the backends: pods with tor and the agent.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{ConfigMap, KeyToPath, SecretVolumeSource, Volume, VolumeMount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::config_map::{LINGER_SECONDS, config_hash};
use super::{BuildError, Inputs, LastGood, pod};
use crate::crd::names::{self, Component};
use crate::link::paths::{GUARDS_DIR, TOKEN_DIR, VANGUARDS_DIR};
use crate::link::{
    AGENT_API_PORT, GUARDS_IN_USE, MAC_ENTRY, REFUSED_TARGETS, SAMPLE_ENTRY, VANGUARDS_ENTRY, VANGUARDS_MAC_ENTRY,
    grace_period,
};

/// Builds the Deployment of the backends. `config` is the `ConfigMap` that their pods mount.
pub(super) fn deployment(inputs: &Inputs<'_>, config: &ConfigMap) -> Result<Value, BuildError> {
    let service = inputs.name();
    let backends = &inputs.object.spec.backends;
    let settings = inputs.settings().default_templates.under(&backends.template, &service, Component::Backend);
    let token = Volume {
        name: "token".to_owned(),
        secret: Some(file(names::agent_token_secret(&service), "token")),
        ..Volume::default()
    };
    let parts = pod::Parts {
        name: "agent",
        arguments: vec!["backend".to_owned()],
        init_arguments: ["backend", "init"],
        // The agent checks the addresses that names resolve to, which the operator cannot know.
        variables: [(REFUSED_TARGETS, inputs.settings().policy.refused_targets.to_string())]
            .into_iter()
            .chain(guards_in_use(inputs))
            .collect(),
        ports: vec![pod::port("agent", AGENT_API_PORT)],
        secrets: [(token, pod::read_only("token", TOKEN_DIR))]
            .into_iter()
            .chain(guards(inputs))
            .chain(vanguards(inputs))
            .collect(),
        pre_stop: Some("/drain"),
        // The agent kills a frozen tor sooner than the kubelet would.
        tor_liveness: None,
        // The agent must see tor's process to kill it.
        shares_processes: true,
        grace_period: grace_period(
            Duration::from_secs(LINGER_SECONDS.into()),
            Duration::from_secs(backends.drain_timeout_seconds.into()),
        ),
    };
    let hash = config_hash(inputs, config);
    let last = LastGood {
        delegated: false,
        guards: inputs.object.spec.anonymity.guards,
        guards_in_use: inputs.object.spec.anonymity.guards_in_use,
        vanguards: inputs.object.spec.anonymity.vanguards,
        server_location: inputs.object.spec.anonymity.server_location,
        address: inputs.address,
        settings: serde_json::to_value(backends)?,
        ports: inputs.ports.to_vec(),
        secret: None,
        account: None,
    };
    let deployment = Deployment {
        metadata: last.annotate(inputs.component_metadata(Component::Backend))?,
        spec: Some(DeploymentSpec {
            replicas: Some(if inputs.object.spec.suspend { 0 } else { backends.replicas }),
            selector: LabelSelector {
                match_labels: Some(names::pod_labels(&service, Component::Backend)),
                ..LabelSelector::default()
            },
            strategy: Some(rolling()),
            template: pod::template(inputs, Component::Backend, &settings, hash, parts),
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    };
    let mut deployment = serde_json::to_value(&deployment)?;
    pod::place(&mut deployment["spec"]["template"]["spec"], inputs, &settings, Component::Backend);
    Ok(deployment)
}

/// Returns the rollout strategy: a pod is terminated only once its replacement is ready.
pub(super) fn rolling() -> DeploymentStrategy {
    DeploymentStrategy {
        type_: Some("RollingUpdate".to_owned()),
        rolling_update: Some(RollingUpdateDeployment {
            max_surge: Some(IntOrString::String("25%".to_owned())),
            max_unavailable: Some(IntOrString::Int(0)),
        }),
    }
}

/// Returns a volume source for one key of a Secret. Only the pod's group can read the file.
pub(super) fn file(secret: String, key: &str) -> SecretVolumeSource {
    SecretVolumeSource {
        secret_name: Some(secret),
        default_mode: Some(0o440),
        items: Some(vec![KeyToPath { key: key.to_owned(), path: key.to_owned(), mode: None }]),
        ..SecretVolumeSource::default()
    }
}

/// Returns the volume with the shared guards and its mount, or None if the tors of the service do
/// not share their guards. The programs in the pods recognise by this mount whether they do. The
/// Secret has no content until a publisher has written it, and a pod must start without the Secret,
/// too.
pub(super) fn guards(inputs: &Inputs<'_>) -> Option<(Volume, VolumeMount)> {
    inputs.shares_guards().then(|| of_guards_secret(inputs, "guards", [SAMPLE_ENTRY, MAC_ENTRY], GUARDS_DIR))
}

/// Returns the variable with the number of guards over which the pods spread. The default is left
/// out, so that an upgrade replaces no pods.
pub(super) fn guards_in_use(inputs: &Inputs<'_>) -> Option<(&'static str, String)> {
    let number = inputs.object.spec.anonymity.guards_in_use;
    (inputs.shares_guards() && number > 1).then(|| (GUARDS_IN_USE, number.to_string()))
}

/// Returns the volume with the shared vanguards and its mount, or None if the tors of the service
/// do not share them. The programs in the pods recognise by this mount whether they do.
pub(super) fn vanguards(inputs: &Inputs<'_>) -> Option<(Volume, VolumeMount)> {
    let entries = [VANGUARDS_ENTRY, VANGUARDS_MAC_ENTRY];
    inputs.shares_vanguards().then(|| of_guards_secret(inputs, "vanguards", entries, VANGUARDS_DIR))
}

/// Returns a volume with entries of the guards' Secret, and its mount.
fn of_guards_secret(inputs: &Inputs<'_>, name: &str, entries: [&str; 2], place: &str) -> (Volume, VolumeMount) {
    let entry = |key: &str| KeyToPath { key: key.to_owned(), path: key.to_owned(), mode: None };
    let secret = SecretVolumeSource {
        secret_name: Some(names::guards_secret(&inputs.name())),
        default_mode: Some(0o440),
        items: Some(entries.map(entry).to_vec()),
        optional: Some(true),
    };
    let volume = Volume { name: name.to_owned(), secret: Some(secret), ..Volume::default() };
    (volume, pod::read_only(name, place))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::link::RefusedTargets;
    use crate::operator::children::tests::support::Fixture;
    use crate::operator::settings::Settings;

    #[test]
    fn both_components_mount_the_vanguards_that_they_share() {
        for (spec, shares) in [
            (json!({}), false),
            (json!({"anonymity": {"vanguards": "Full"}}), true),
            (json!({"anonymity": {"vanguards": "Full", "guards": "PerPod"}}), true),
            (json!({"anonymity": {"vanguards": "Full", "serverLocation": "Exposed"}}), false),
        ] {
            let fixture = Fixture::of(&spec);
            for component in ["backend", "frontend"] {
                let pod = &fixture.child(&format!("Deployment web-{component}"))["spec"]["template"]["spec"];
                let mounts = pod["containers"][0].to_string().contains("/etc/onionbalance/vanguards");
                assert_eq!(mounts, shares, "{component}: {spec}");
                assert!(!pod["containers"][1].to_string().contains("/vanguards"), "tor needs no copy");
                let volume = pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == "vanguards");
                let items = volume.map(|volume| volume["secret"]["items"][0]["key"].clone());
                assert_eq!(items, shares.then(|| json!("vanguards")));
                let torrc = fixture.child(&format!("ConfigMap web-{component}"))["data"]["torrc"].to_string();
                assert_eq!(torrc.contains("VanguardsLiteEnabled 1"), shares, "{torrc}");
            }
        }
    }

    #[test]
    fn both_components_mount_the_guards_unless_a_tor_has_another_way_into_the_network() {
        let mounts = |fixture: &Fixture| {
            ["Deployment web-backend", "Deployment web-frontend"].map(|id| {
                let pod = &fixture.child(id)["spec"]["template"]["spec"];
                let volumes = pod["volumes"].as_array().unwrap();
                let volume = volumes.iter().find(|volume| volume["name"] == "guards");
                assert_eq!(volume.is_some(), pod["containers"][0].to_string().contains("/etc/onionbalance/guards"));
                assert!(!pod["containers"][1].to_string().contains("/etc/onionbalance/guards"), "tor needs no copy");
                volume.cloned()
            })
        };
        let mut fixture = Fixture::new();
        fixture.environment.settings.tor_extra_config = String::new();
        let items = json!([{"key": "guards", "path": "guards"}, {"key": "mac", "path": "mac"}]);
        let secret = json!({"secretName": "web-guards", "optional": true, "defaultMode": 0o440, "items": items});
        for volume in mounts(&fixture) {
            assert_eq!(volume.unwrap()["secret"], secret);
        }
        fixture.environment.settings.tor_extra_config = "UseBridges 1".to_owned();
        assert_eq!(mounts(&fixture), [None, None]);
        for spec in [
            // The backends would wait for guards that nobody chooses.
            json!({"frontend": {"extraTorrc": "UseBridges 1"}}),
            json!({"anonymity": {"guards": "PerPod"}}),
            // Tor uses no guards in single-hop mode.
            json!({"anonymity": {"serverLocation": "Exposed"}}),
        ] {
            let mut fixture = Fixture::of(&spec);
            fixture.environment.settings.tor_extra_config = String::new();
            assert_eq!(mounts(&fixture), [None, None], "{spec}");
        }
    }

    #[test]
    fn the_pods_learn_over_how_many_guards_they_spread() {
        let variables = |spec| {
            let mut fixture = Fixture::of(&spec);
            fixture.environment.settings.tor_extra_config = String::new();
            ["Deployment web-backend", "Deployment web-frontend"].map(|id| {
                let ours = &fixture.child(id)["spec"]["template"]["spec"]["containers"][0];
                let variables = ours["env"].as_array().unwrap();
                let found = variables.iter().find(|variable| variable["name"] == "GUARDS_IN_USE");
                found.map(|variable| variable["value"].clone())
            })
        };
        let two = Some(json!("2"));
        assert_eq!(variables(json!({"anonymity": {"guardsInUse": 2}})), [two.clone(), two]);
        assert_eq!(variables(json!({})), [None, None]);
        let bridges = json!({"anonymity": {"guardsInUse": 2}, "frontend": {"extraTorrc": "UseBridges 1"}});
        assert_eq!(variables(bridges), [None, None], "the pods share no guards");
    }

    #[test]
    fn a_suspended_service_has_no_backends() {
        let replicas = |spec| Fixture::of(&spec).child("Deployment web-backend")["spec"]["replicas"].clone();
        assert_eq!(replicas(json!({"backends": {"replicas": 5}})), 5);
        assert_eq!(replicas(json!({"backends": {"replicas": 5}, "suspend": true})), 0);
    }

    #[test]
    fn both_containers_wait_for_the_drain_within_the_grace_period() {
        let fixture = Fixture::of(&json!({"backends": {"drainTimeoutSeconds": 100}}));
        let pod = &fixture.child("Deployment web-backend")["spec"]["template"]["spec"];
        assert_eq!(pod["terminationGracePeriodSeconds"], 145);
        for container in pod["containers"].as_array().unwrap() {
            assert_eq!(container["lifecycle"]["preStop"]["httpGet"], json!({"path": "/drain", "port": 9401}));
        }
    }

    #[test]
    fn only_the_agent_has_the_token_and_no_container_has_kubernetes_credentials() {
        let pod = &Fixture::new().child("Deployment web-backend")["spec"]["template"]["spec"];
        let holders: Vec<_> = pod["containers"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|c| c["volumeMounts"].as_array().unwrap().iter().any(|mount| mount["name"] == "token"))
            .map(|container| container["name"].as_str().unwrap())
            .collect();
        assert_eq!(holders, ["agent"]);
        let volumes = pod["volumes"].as_array().unwrap();
        assert!(volumes.iter().all(|volume| volume.get("projected").is_none()));
        assert!(!pod.to_string().contains("master-key"));
        assert_eq!(pod["shareProcessNamespace"], true);
    }

    #[test]
    fn a_rollout_terminates_a_pod_only_once_its_replacement_is_ready() {
        let strategy = &Fixture::new().child("Deployment web-backend")["spec"]["strategy"];
        assert_eq!(strategy["rollingUpdate"]["maxUnavailable"], 0);
    }

    #[test]
    fn a_new_image_torrc_policy_or_template_starts_a_rollout_but_scaling_does_not() {
        let pods = |spec, change: fn(&mut Settings)| {
            let mut fixture = Fixture::of(&spec);
            change(&mut fixture.environment.settings);
            fixture.child("Deployment web-backend")["spec"]["template"].clone()
        };
        let before = pods(json!({}), |_| {});
        let changes: [fn(&mut Settings); 5] = [
            |settings| settings.fixed_user_ids = false,
            |settings| settings.policy.refused_targets = RefusedTargets::none(),
            |settings| settings.tor_image = "tor:2".to_owned(),
            |settings| settings.data_plane_image = "operator:2".to_owned(),
            |settings| settings.tor_extra_config = "UseBridges 0".to_owned(),
        ];
        for change in changes {
            assert_ne!(pods(json!({}), change), before);
        }
        for backends in [
            json!({"extraTorrc": "HiddenServiceMaxStreams 100"}),
            json!({"introductionPoints": 5}),
            json!({"template": {"annotations": {"restarted": "now"}}}),
            json!({"template": {"resources": {"tor": {"requests": {"memory": "1Gi"}}}}}),
        ] {
            assert_ne!(pods(json!({"backends": backends}), |_| {}), before, "{backends}");
        }
        assert_eq!(pods(json!({"backends": {"replicas": 9}}), |_| {}), before);
    }

    #[test]
    fn the_agent_gets_the_list_of_refused_targets_in_a_variable() {
        let value = |settings: fn(&mut Settings)| {
            let mut fixture = Fixture::new();
            settings(&mut fixture.environment.settings);
            let agent = &fixture.child("Deployment web-backend")["spec"]["template"]["spec"]["containers"][0];
            let variables = agent["env"].as_array().unwrap();
            variables.iter().find(|variable| variable["name"] == "REFUSED_TARGETS").unwrap()["value"].clone()
        };
        assert_eq!(value(|_| {}), RefusedTargets::default().to_string());
        assert_eq!(value(|settings| settings.policy.refused_targets = RefusedTargets::none()), "none");
        assert_eq!(
            value(|settings| settings.policy.refused_targets = "10.0.0.0/8,api-server".parse().unwrap()),
            "10.0.0.0/8,api-server"
        );
    }

    #[test]
    fn the_agent_has_three_probes_and_three_ports() {
        let agent = &Fixture::new().child("Deployment web-backend")["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(agent["args"], json!(["backend"]));
        for (probe, path) in [("startupProbe", "/startupz"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
        {
            assert_eq!(agent[probe]["httpGet"], json!({"path": path, "port": 9401}));
        }
        let ports: Vec<_> = agent["ports"].as_array().unwrap().iter().map(|port| &port["containerPort"]).collect();
        assert_eq!(ports, [9400, 9401, 9402]);
    }
}
