use super::*;
use crate::common::log::{Addresses, Format};
use crate::operator::children::tests::support::Fixture;

fn pods(fixture: &Fixture) -> [Value; 2] {
    ["Deployment web-backend", "Deployment web-frontend"].map(|id| fixture.child(id)["spec"]["template"].clone())
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    pod["spec"]["containers"].as_array().unwrap().iter()
}

#[test]
fn every_pod_meets_the_restricted_pod_security_standard() {
    for pod in pods(&Fixture::new()) {
        let spec = &pod["spec"];
        assert_eq!(
            spec["securityContext"],
            json!({
                "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            })
        );
        assert_eq!(containers(&pod).count(), 2);
        assert!(spec.get("initContainers").is_none());
        for container in containers(&pod) {
            assert_eq!(
                container["securityContext"],
                json!({
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
                })
            );
        }
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(spec.get(field).is_none());
        }
        let volumes = spec["volumes"].as_array().unwrap();
        assert!(volumes.iter().all(|volume| volume.get("hostPath").is_none()));
        assert_eq!(spec["automountServiceAccountToken"], false);
        assert_eq!(spec["enableServiceLinks"], false);
    }
}

/// A cluster such as OpenShift assigns IDs from a range of each namespace, and rejects pods that
/// set others.
#[test]
fn user_ids_can_be_left_to_the_cluster() {
    let mut fixture = Fixture::new();
    fixture.environment.settings.fixed_user_ids = false;
    for pod in pods(&fixture) {
        assert_eq!(
            pod["spec"]["securityContext"],
            json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}})
        );
        let text = pod.to_string();
        for field in ["runAsUser", "runAsGroup", "fsGroup", "supplementalGroups", "65532"] {
            assert!(!text.contains(field), "{field} in {text}");
        }
    }
}

#[test]
fn each_container_has_resource_requests_and_the_configured_image() {
    for pod in pods(&Fixture::new()) {
        for container in containers(&pod) {
            assert!(container["resources"]["requests"]["memory"].is_string());
            let image = if container["name"] == "tor" { "tor:1" } else { "operator:1" };
            assert_eq!(container["image"], image);
            assert_eq!(container["imagePullPolicy"], "IfNotPresent");
        }
    }
}

#[test]
fn the_settings_for_logs_reach_agents_and_publishers_only() {
    let variables = |fixture: &Fixture| {
        pods(fixture).map(|pod| {
            assert!(pod["spec"]["containers"][1].get("env").is_none(), "tor has its own log");
            let ours = pod["spec"]["containers"][0]["env"].as_array().unwrap().clone();
            let is_of_log = |name: &Value| ["LOG_FORMAT", "LOG_ADDRESSES", "RUST_LOG"].map(Value::from).contains(name);
            ours.into_iter().filter(|variable| is_of_log(&variable["name"])).collect::<Vec<_>>()
        })
    };
    let mut fixture = Fixture::new();
    assert!(variables(&fixture).iter().all(Vec::is_empty), "an upgrade must not replace pods");
    let log = &mut fixture.environment.settings.data_plane_log;
    (log.format, log.addresses, log.filter) = (Format::Json, Addresses::Full, "warn".parse().unwrap());
    let expected = [
        json!({"name": "LOG_FORMAT", "value": "json"}),
        json!({"name": "LOG_ADDRESSES", "value": "full"}),
        json!({"name": "RUST_LOG", "value": "warn,kube_client=off,kube_runtime=off"}),
    ];
    assert_eq!(variables(&fixture), [expected.clone(), expected]);
}

#[test]
fn our_container_creates_the_files_before_tor_starts() {
    for (pod, program) in pods(&Fixture::new()).iter().zip(["backend", "frontend"]) {
        let names: Vec<_> = containers(pod).map(|container| container["name"].as_str().unwrap()).collect();
        assert_eq!(names, [if program == "backend" { "agent" } else { "publisher" }, "tor"]);
        let hooks: Vec<_> = containers(pod).map(|container| &container["lifecycle"]["postStart"]).collect();
        let init = json!({"exec": {"command": ["onionbalance-operator", program, "init"]}});
        assert_eq!(hooks, [&init, &Value::Null]);
    }
}

#[test]
fn tor_reads_only_our_torrc() {
    for pod in pods(&Fixture::new()) {
        let tor = &pod["spec"]["containers"][1];
        assert_eq!(tor["command"], json!(["tor"]));
        assert_eq!(
            tor["args"],
            json!(["-f", "/etc/onionbalance/config/torrc", "--defaults-torrc", "/run/onionbalance/empty"])
        );
    }
}

#[test]
fn the_users_settings_reach_the_pod_but_ours_take_precedence() {
    let template = json!({
        "labels": {"team": "a"},
        "annotations": {"note": "b"},
        "resources": {"tor": {"limits": {"memory": "1Gi"}}, "agent": {"requests": {"cpu": 1}}},
        "nodeSelector": {"disk": "ssd"},
        "affinity": {"nodeAffinity": {}},
        "tolerations": [{"key": "tor", "operator": "Exists"}],
        "topologySpreadConstraints": [{"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
        "priorityClassName": "high",
        "runtimeClassName": "gvisor",
        "imagePullSecrets": [{"name": "pull"}],
    });
    let fixture = Fixture::of(&json!({"backends": {"template": template}}));
    let [pod, _] = pods(&fixture);
    assert_eq!(pod["metadata"]["labels"]["team"], "a");
    assert_eq!(pod["metadata"]["labels"]["onionbalance.dev/service"], "web");
    assert_eq!(pod["metadata"]["annotations"]["note"], "b");
    let spec = &pod["spec"];
    assert_eq!(spec["containers"][1]["resources"], json!({"requests": {"cpu": "50m"}, "limits": {"memory": "1Gi"}}));
    assert_eq!(spec["containers"][0]["resources"], json!({"requests": {"cpu": "1", "memory": "32Mi"}}));
    for field in ["nodeSelector", "affinity", "tolerations", "topologySpreadConstraints", "priorityClassName"] {
        assert_eq!(spec[field], template[field], "{field}");
    }
    assert_eq!(spec["runtimeClassName"], "gvisor");
    assert_eq!(spec["imagePullSecrets"], json!([{"name": "pull"}]));
}

#[test]
fn a_services_own_settings_override_the_operators_defaults() {
    let mut fixture = Fixture::of(&json!({"backends": {"template": {"labels": {"team": "b"}}}}));
    let settings = |value| serde_json::from_value::<PodSettings>(value).unwrap();
    let templates = &mut fixture.environment.settings.default_templates;
    templates.backend = settings(json!({"labels": {"team": "a", "tier": "1"}, "tolerations": [{"key": "tor"}]}));
    templates.frontend = settings(json!({"resources": {"agent": {"limits": {"memory": "1Gi"}}}}));
    let [backend, frontend] = pods(&fixture);
    assert_eq!(
        (&backend["metadata"]["labels"]["team"], &backend["metadata"]["labels"]["tier"]),
        (&json!("b"), &json!("1"))
    );
    assert_eq!(backend["spec"]["tolerations"], json!([{"key": "tor"}]));
    assert_eq!(frontend["spec"]["containers"][0]["resources"]["limits"], json!({"memory": "1Gi"}));
    assert!(frontend["metadata"]["labels"].get("tier").is_none() && frontend["spec"].get("tolerations").is_none());
}

#[test]
fn pods_spread_over_the_nodes_if_possible() {
    for pod in pods(&Fixture::new()) {
        let constraint = &pod["spec"]["topologySpreadConstraints"][0];
        assert_eq!(constraint["whenUnsatisfiable"], "ScheduleAnyway");
        let selector = constraint["labelSelector"]["matchLabels"].as_object().unwrap();
        assert!(selector.iter().all(|(key, value)| pod["metadata"]["labels"][key] == *value));
    }
}
