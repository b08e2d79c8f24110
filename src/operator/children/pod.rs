//! What both kinds of pod have in common: security, volumes, containers, and the settings that a user may give.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource,
    ExecAction, HTTPGetAction, Lifecycle, LifecycleHandler, LocalObjectReference, ObjectFieldSelector,
    PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile, SecurityContext, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::Inputs;
use crate::crd::names::{self, Component};
use crate::crd::{PodSettings, Resources};
use crate::link::{METRICS_PORT, PROBE_PORT};

/// User and group of every process: tor and the agent share sockets, and the agent must be able to kill tor.
const UID: i64 = 65532;

/// Our program, as `PATH` of the data plane's image has it: a hook does not know of an entry point.
const PROGRAM: &str = "onionbalance-operator";

const CONFIG: &str = "/etc/onionbalance/config";
const RUN: &str = "/run/onionbalance";
const TOR: &str = "/var/lib/tor";

/// What a component adds to the common pod.
pub(super) struct Parts {
    /// Name and arguments of the container beside tor, and the arguments with which our program makes what tor needs.
    pub name: &'static str,
    pub arguments: Vec<String>,
    pub init_arguments: [&'static str; 2],
    /// What that container is told beside which pod it is. An older data plane overlooks what it does not know, as it would not an
    /// argument.
    pub variables: Vec<(&'static str, String)>,
    /// Ports beside probes and metrics.
    pub ports: Vec<ContainerPort>,
    /// For that container alone.
    pub secrets: Vec<(Volume, VolumeMount)>,
    /// Called on both containers before SIGTERM.
    pub pre_stop: Option<&'static str>,
    /// What the container beside tor answers on tor's behalf: tor is restarted when it fails.
    pub tor_liveness: Option<&'static str>,
    /// Whether its containers see each other's processes, and through /proc each other's files.
    pub shares_processes: bool,
    pub grace_seconds: i64,
}

/// The pod template of a component.
pub(super) fn template(
    inputs: &Inputs<'_>,
    component: Component,
    settings: &PodSettings,
    hash: String,
    parts: Parts,
) -> PodTemplateSpec {
    let service = inputs.name();
    let pre_stop =
        parts.pre_stop.map(|path| LifecycleHandler { http_get: Some(get(path)), ..LifecycleHandler::default() });
    let (secret_volumes, secret_mounts): (Vec<_>, Vec<_>) = parts.secrets.into_iter().unzip();
    let resources = settings.resources.as_ref();
    let tor = Container {
        name: "tor".to_owned(),
        image: Some(inputs.settings.tor_image.clone()),
        command: Some(vec!["tor".to_owned()]),
        args: Some(
            ["-f", "/etc/onionbalance/config/torrc", "--defaults-torrc", "/run/onionbalance/empty"]
                .map(ToOwned::to_owned)
                .to_vec(),
        ),
        lifecycle: pre_stop.clone().map(|hook| Lifecycle { pre_stop: Some(hook), ..Lifecycle::default() }),
        // Until the other container answers for the first time, nothing is said of tor.
        startup_probe: parts.tor_liveness.map(|path| probe(path, 2, 150)),
        // The other container restarts in less than these 30 s. (A grace period of its own came with Kubernetes 1.22; an older
        // API server refuses the whole Deployment for it.)
        liveness_probe: parts.tor_liveness.map(|path| probe(path, 5, 6)),
        // Without one, the kubelet of Kubernetes 1.20 notes only at its next look at the pod, up to 90 s later, that the startup probe
        // is through.
        readiness_probe: parts.tor_liveness.map(|path| probe(path, 2, 2)),
        resources: Some(requirements(resources.and_then(|r| r.tor.as_ref()), ("50m", "96Mi"))),
        ..container(inputs)
    };
    let agent = Container {
        name: parts.name.to_owned(),
        image: Some(inputs.settings.data_plane_image.clone()),
        args: Some(parts.arguments),
        env: Some(environment().into_iter().chain(parts.variables.into_iter().map(variable)).collect()),
        ports: Some([parts.ports, vec![port("probes", PROBE_PORT), port("metrics", METRICS_PORT)]].concat()),
        startup_probe: Some(probe("/startupz", 2, 150)),
        liveness_probe: Some(probe("/livez", 10, 3)),
        readiness_probe: Some(probe("/readyz", 2, 2)),
        lifecycle: Some(Lifecycle { post_start: Some(init(parts.init_arguments)), pre_stop, ..Lifecycle::default() }),
        resources: Some(requirements(resources.and_then(|r| r.agent.as_ref()), ("10m", "32Mi"))),
        volume_mounts: Some([mounts(), secret_mounts].concat()),
        ..container(inputs)
    };
    let mut labels = settings.labels.clone();
    labels.extend(names::labels(&service, Some(component)));
    let mut annotations = settings.annotations.clone();
    annotations.insert("onionbalance.dev/config-hash".to_owned(), hash);
    annotations.insert("kubectl.kubernetes.io/default-container".to_owned(), parts.name.to_owned());
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels), annotations: Some(annotations), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            service_account_name: Some(component.child_name(&service)),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            share_process_namespace: parts.shares_processes.then_some(true),
            termination_grace_period_seconds: Some(parts.grace_seconds),
            security_context: Some(pod_security()),
            // In this order: tor needs what the other one's hook makes.
            containers: vec![agent, tor],
            volumes: Some([volumes(&component.child_name(&service)), secret_volumes].concat()),
            node_selector: (!settings.node_selector.is_empty()).then(|| settings.node_selector.clone()),
            priority_class_name: settings.priority_class_name.clone(),
            runtime_class_name: settings.runtime_class_name.clone(),
            image_pull_secrets: (!settings.image_pull_secrets.is_empty()).then(|| {
                let name = |secret: &crate::crd::SecretReference| LocalObjectReference { name: secret.name.clone() };
                settings.image_pull_secrets.iter().map(name).collect()
            }),
            ..PodSpec::default()
        }),
    }
}

/// Sets the fields that a user gives as they stand: the API server checks them, and knows more than our types do.
pub(super) fn place(pod: &mut Value, settings: &PodSettings, service: &str, component: Component) {
    if let Some(affinity) = &settings.affinity {
        pod["affinity"] = affinity.clone();
    }
    if !settings.tolerations.is_empty() {
        pod["tolerations"] = settings.tolerations.clone().into();
    }
    pod["topologySpreadConstraints"] = if settings.topology_spread_constraints.is_empty() {
        json!([{
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": names::pod_labels(service, component)},
        }])
    } else {
        settings.topology_spread_constraints.clone().into()
    };
}

fn container(inputs: &Inputs<'_>) -> Container {
    Container {
        image_pull_policy: Some(inputs.settings.image_pull_policy.clone()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(mounts()),
        ..Container::default()
    }
}

fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(UID),
        run_as_group: Some(UID),
        fs_group: Some(UID),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
        ..PodSecurityContext::default()
    }
}

fn volumes(config_map: &str) -> Vec<Volume> {
    let memory =
        EmptyDirVolumeSource { medium: Some("Memory".to_owned()), size_limit: Some(Quantity("16Mi".to_owned())) };
    vec![
        Volume {
            name: "config".to_owned(),
            config_map: Some(ConfigMapVolumeSource { name: config_map.to_owned(), ..ConfigMapVolumeSource::default() }),
            ..Volume::default()
        },
        Volume { name: "run".to_owned(), empty_dir: Some(memory), ..Volume::default() },
        Volume { name: "tor".to_owned(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() },
    ]
}

fn mounts() -> Vec<VolumeMount> {
    vec![read_only("config", CONFIG), mount("run", RUN), mount("tor", TOR)]
}

fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

/// A volume that is only read.
pub(super) fn read_only(name: &str, path: &str) -> VolumeMount {
    VolumeMount { read_only: Some(true), ..mount(name, path) }
}

/// A TCP port of a container.
pub(super) fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number.into(),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

/// Makes what must be there before tor starts. The kubelet starts a pod's containers one after another, and the next only when
/// the hook of the one before is through. An init container does the same, but its end is noticed at the kubelet's next look at all
/// containers, once a second: a backend came a good second later. Where the container beside tor does not start, the kubelet tries
/// tor all the same, which ends for want of its files and is started again later.
fn init(arguments: [&str; 2]) -> LifecycleHandler {
    let command = [PROGRAM].into_iter().chain(arguments).map(ToOwned::to_owned).collect();
    LifecycleHandler { exec: Some(ExecAction { command: Some(command) }), ..LifecycleHandler::default() }
}

fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(get(path)),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(5),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}

fn get(path: &str) -> HTTPGetAction {
    HTTPGetAction { path: Some(path.to_owned()), port: IntOrString::Int(PROBE_PORT.into()), ..HTTPGetAction::default() }
}

fn environment() -> Vec<EnvVar> {
    [("POD_NAME", "metadata.name"), ("POD_NAMESPACE", "metadata.namespace"), ("POD_UID", "metadata.uid")]
        .map(|(name, path)| EnvVar {
            name: name.to_owned(),
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector { field_path: path.to_owned(), ..ObjectFieldSelector::default() }),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        })
        .to_vec()
}

fn variable((name, value): (&str, String)) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value), ..EnvVar::default() }
}

/// The user's, or our requests of CPU and memory. No limits of our own: memory that tor needs under attack is better had
/// than a restart.
fn requirements(resources: Option<&Resources>, (cpu, memory): (&str, &str)) -> ResourceRequirements {
    let quantities = |map: &BTreeMap<String, IntOrString>| {
        let quantity = |value: &IntOrString| match value {
            IntOrString::Int(number) => Quantity(number.to_string()),
            IntOrString::String(text) => Quantity(text.clone()),
        };
        map.iter().map(|(name, value)| (name.clone(), quantity(value))).collect::<BTreeMap<_, _>>()
    };
    let mut requests = BTreeMap::from([
        ("cpu".to_owned(), Quantity(cpu.to_owned())),
        ("memory".to_owned(), Quantity(memory.to_owned())),
    ]);
    let mut limits = BTreeMap::new();
    if let Some(resources) = resources {
        limits = quantities(&resources.limits);
        // A request must not exceed its limit; one that is absent is the limit (the API server's default).
        requests.retain(|name, _| !limits.contains_key(name));
        requests.extend(quantities(&resources.requests));
    }
    ResourceRequirements {
        requests: Some(requests),
        limits: (!limits.is_empty()).then_some(limits),
        ..ResourceRequirements::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::children::testing::Fixture;

    fn pods(fixture: &Fixture) -> [Value; 2] {
        ["Deployment web-backend", "Deployment web-frontend"].map(|id| fixture.child(id)["spec"]["template"].clone())
    }

    fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
        pod["spec"]["containers"].as_array().unwrap().iter()
    }

    #[test]
    fn every_pod_meets_the_restricted_standard() {
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

    #[test]
    fn each_container_has_requests_and_the_images_of_the_settings() {
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
    fn tor_is_started_when_what_it_needs_is_made() {
        for (pod, program) in pods(&Fixture::new()).iter().zip(["backend", "frontend"]) {
            let names: Vec<_> = containers(pod).map(|container| container["name"].as_str().unwrap()).collect();
            assert_eq!(names, [if program == "backend" { "agent" } else { "publisher" }, "tor"]);
            let hooks: Vec<_> = containers(pod).map(|container| &container["lifecycle"]["postStart"]).collect();
            let init = json!({"exec": {"command": ["onionbalance-operator", program, "init"]}});
            assert_eq!(hooks, [&init, &Value::Null]);
        }
    }

    #[test]
    fn tor_is_started_with_our_torrc_alone() {
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
    fn a_users_settings_reach_the_pod_and_ours_win() {
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
        assert_eq!(
            spec["containers"][1]["resources"],
            json!({"requests": {"cpu": "50m"}, "limits": {"memory": "1Gi"}})
        );
        assert_eq!(spec["containers"][0]["resources"], json!({"requests": {"cpu": "1", "memory": "32Mi"}}));
        for field in ["nodeSelector", "affinity", "tolerations", "topologySpreadConstraints", "priorityClassName"] {
            assert_eq!(spec[field], template[field], "{field}");
        }
        assert_eq!(spec["runtimeClassName"], "gvisor");
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "pull"}]));
    }

    #[test]
    fn the_operators_defaults_reach_the_pods_under_the_objects_settings() {
        let mut fixture = Fixture::of(&json!({"backends": {"template": {"labels": {"team": "b"}}}}));
        let settings = |value| serde_json::from_value::<PodSettings>(value).unwrap();
        let templates = &mut fixture.settings.default_templates;
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
    fn pods_spread_over_the_nodes_where_that_can_be() {
        for pod in pods(&Fixture::new()) {
            let constraint = &pod["spec"]["topologySpreadConstraints"][0];
            assert_eq!(constraint["whenUnsatisfiable"], "ScheduleAnyway");
            let selector = constraint["labelSelector"]["matchLabels"].as_object().unwrap();
            assert!(selector.iter().all(|(key, value)| pod["metadata"]["labels"][key] == *value));
        }
    }
}
