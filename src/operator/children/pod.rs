//! The parts of a pod that backends and frontends have in common: the security context, volumes,
//! containers, and the user's own pod settings.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource,
    ExecAction, HTTPGetAction, KeyToPath, Lifecycle, LifecycleHandler, LocalObjectReference, ObjectFieldSelector,
    PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile, SecurityContext, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::{Inputs, config_map};
use crate::crd::names::{self, Component};
use crate::crd::{PodSettings, Resources};
use crate::link::paths::{CONFIG_DIR, EMPTY_FILE, RUN_DIR, TOR_DIR, TORRC};
use crate::link::{EARLY, METRICS_PORT, PROBE_PORT};

/// The user and group ID of every process, unless the cluster assigns these IDs. Tor and the agent
/// need the same ID because they share sockets and the agent must be able to kill tor.
const UID: i64 = 65532;

/// The name of our program, which is on the `PATH` of the data-plane image. Hooks need it because
/// they do not use the image's entry point.
const PROGRAM: &str = "onionbalance-operator";

/// The grace period, in seconds, of a container whose liveness probe has failed. A hanging program
/// does not react to SIGTERM, so the kubelet need not wait any longer than it always does.
const HUNG_GRACE_PERIOD: i64 = 2;

/// The parts of a pod that differ between the components. "Our container" is the one next to tor:
/// the agent or the publisher.
pub(super) struct Parts {
    /// The name of our container, `agent` or `publisher`.
    pub name: &'static str,
    /// The arguments of the program in our container.
    pub arguments: Vec<String>,
    /// The arguments that make our program create the files that tor needs.
    pub init_arguments: [&'static str; 2],
    /// The environment variables of our container, in addition to those that identify its pod.
    /// These are variables and not arguments because an older data plane ignores an unknown
    /// variable but rejects an unknown argument.
    pub variables: Vec<(&'static str, String)>,
    /// The ports of our container, in addition to those for probes and metrics.
    pub ports: Vec<ContainerPort>,
    /// The volumes that only our container mounts, with their mounts.
    pub secrets: Vec<(Volume, VolumeMount)>,
    /// The HTTP path that the kubelet calls for both containers before it sends SIGTERM.
    pub pre_stop: Option<&'static str>,
    /// The HTTP path at which our container answers tor's liveness probe. The kubelet restarts tor
    /// if the probe fails.
    pub tor_liveness: Option<&'static str>,
    /// True if the containers share a process namespace, so that they can see each other's
    /// processes and, through /proc, each other's files.
    pub shares_processes: bool,
    /// The pod's termination grace period.
    pub grace_period: Duration,
}

/// Returns the pod template of a component.
pub(super) fn template(
    inputs: &Inputs<'_>,
    component: Component,
    settings: &PodSettings,
    hash: String,
    parts: Parts,
) -> PodTemplateSpec {
    let service = inputs.name();
    let grace_seconds = i64::try_from(parts.grace_period.as_secs()).unwrap_or(i64::MAX);
    let (name, shares_processes) = (parts.name, parts.shares_processes);
    let (secret_volumes, secret_mounts): (Vec<_>, Vec<_>) = parts.secrets.iter().cloned().unzip();
    let tor = tor_container(inputs, settings, &parts);
    let ours = our_container(inputs, settings, parts, secret_mounts);
    let mut labels = settings.labels.clone();
    labels.extend(names::labels(&service, Some(component)));
    let mut annotations = settings.annotations.clone();
    annotations.insert("onionbalance.dev/config-hash".to_owned(), hash);
    annotations.insert("kubectl.kubernetes.io/default-container".to_owned(), name.to_owned());
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels), annotations: Some(annotations), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            service_account_name: Some(component.child_name(&service)),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            share_process_namespace: shares_processes.then_some(true),
            termination_grace_period_seconds: Some(grace_seconds),
            security_context: Some(pod_security(inputs.settings().fixed_user_ids)),
            // The order of the containers matters: tor needs the files that our container's hook
            // creates.
            containers: vec![ours, tor],
            volumes: Some([volumes(&service, component), secret_volumes].concat()),
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

fn tor_container(inputs: &Inputs<'_>, settings: &PodSettings, parts: &Parts) -> Container {
    let resources = settings.resources.as_ref().and_then(|resources| resources.tor.as_ref());
    Container {
        name: "tor".to_owned(),
        image: Some(inputs.settings().tor_image.clone()),
        command: Some(vec!["tor".to_owned()]),
        args: Some(["-f", TORRC, "--defaults-torrc", EMPTY_FILE].map(ToOwned::to_owned).to_vec()),
        lifecycle: parts.pre_stop.map(|path| Lifecycle { pre_stop: Some(get_hook(path)), ..Lifecycle::default() }),
        // The kubelet considers tor to be starting until our container answers for the first time.
        startup_probe: parts.tor_liveness.map(|path| probe(path, 2, 150)),
        liveness_probe: parts.tor_liveness.map(|path| tor_liveness_probe(inputs, path)),
        // Without a readiness probe, the kubelet of Kubernetes 1.20 notices that the startup probe
        // has succeeded only at its next sync of the pod, up to 90 s later.
        readiness_probe: parts.tor_liveness.map(|path| probe(path, 2, 2)),
        resources: Some(requirements(resources, ("50m", "96Mi"))),
        ..container(inputs)
    }
}

fn our_container(
    inputs: &Inputs<'_>,
    settings: &PodSettings,
    parts: Parts,
    secret_mounts: Vec<VolumeMount>,
) -> Container {
    let resources = settings.resources.as_ref().and_then(|resources| resources.agent.as_ref());
    let variables = parts.variables.into_iter().chain(inputs.settings().data_plane_log.variables()).map(variable);
    Container {
        name: parts.name.to_owned(),
        image: Some(inputs.settings().data_plane_image.clone()),
        args: Some(parts.arguments),
        env: Some(environment().into_iter().chain(variables).collect()),
        ports: Some([parts.ports, vec![port("probes", PROBE_PORT), port("metrics", METRICS_PORT)]].concat()),
        startup_probe: Some(probe("/startupz", 2, 150)),
        liveness_probe: Some(impatient(inputs, probe("/livez", 10, 3))),
        readiness_probe: Some(probe("/readyz", 2, 2)),
        lifecycle: Some(Lifecycle {
            post_start: Some(init(parts.init_arguments)),
            pre_stop: parts.pre_stop.map(get_hook),
            ..Lifecycle::default()
        }),
        resources: Some(requirements(resources, ("10m", "32Mi"))),
        volume_mounts: Some([mounts(), secret_mounts].concat()),
        ..container(inputs)
    }
}

/// Copies the user's settings that the operator does not interpret. Only the API server validates
/// them, because it may know more fields than our types do.
///
/// By default, the pods of one version spread over the nodes. If the API server cannot restrict the
/// constraint to one version, the pods of the old version distort it during a rollout, and the new
/// pods may end up on a single node.
pub(super) fn place(pod: &mut Value, inputs: &Inputs<'_>, settings: &PodSettings, component: Component) {
    if let Some(affinity) = &settings.affinity {
        pod["affinity"] = affinity.clone();
    }
    if !settings.tolerations.is_empty() {
        pod["tolerations"] = settings.tolerations.clone().into();
    }
    pod["topologySpreadConstraints"] = if settings.topology_spread_constraints.is_empty() {
        let mut constraint = json!({
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": names::pod_labels(&inputs.name(), component)},
        });
        if inputs.fields().match_label_keys {
            constraint["matchLabelKeys"] = json!(["pod-template-hash"]);
        }
        json!([constraint])
    } else {
        settings.topology_spread_constraints.clone().into()
    };
}

fn container(inputs: &Inputs<'_>) -> Container {
    Container {
        image_pull_policy: Some(inputs.settings().image_pull_policy.clone()),
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

/// Returns the security context of a pod. A cluster that assigns user IDs rejects others, so the
/// context has none for such a cluster. Neither container has an ID of its own: whatever the pod's
/// ID is, both run with it.
fn pod_security(fixed_user_ids: bool) -> PodSecurityContext {
    let id = fixed_user_ids.then_some(UID);
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: id,
        run_as_group: id,
        fs_group: id,
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
        ..PodSecurityContext::default()
    }
}

fn volumes(service: &str, component: Component) -> Vec<Volume> {
    let item = |entry: &&str| KeyToPath { key: (*entry).to_owned(), path: (*entry).to_owned(), mode: None };
    let config = ConfigMapVolumeSource {
        name: component.child_name(service),
        items: Some(config_map::entries(component).iter().map(item).collect()),
        ..ConfigMapVolumeSource::default()
    };
    let memory =
        EmptyDirVolumeSource { medium: Some("Memory".to_owned()), size_limit: Some(Quantity("16Mi".to_owned())) };
    vec![
        Volume { name: "config".to_owned(), config_map: Some(config), ..Volume::default() },
        Volume { name: "run".to_owned(), empty_dir: Some(memory), ..Volume::default() },
        Volume { name: "tor".to_owned(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() },
    ]
}

fn mounts() -> Vec<VolumeMount> {
    vec![read_only("config", CONFIG_DIR), mount("run", RUN_DIR), mount("tor", TOR_DIR)]
}

fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

/// Returns a read-only mount of a volume.
pub(super) fn read_only(name: &str, path: &str) -> VolumeMount {
    VolumeMount { read_only: Some(true), ..mount(name, path) }
}

/// Returns the declaration of a container's TCP port.
pub(super) fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number.into(),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

/// Returns the hook that creates the files that tor needs. The kubelet starts the containers of a
/// pod one after another, and starts each only after the previous container's hook has finished. An
/// init container would work too, but the kubelet checks only once a second whether it has
/// finished, so a backend would start more than a second later. If our container does not start,
/// the kubelet starts tor anyway. Tor then exits because its files are missing, and the kubelet
/// restarts it later.
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

/// Returns the liveness probe of a tor for which our container answers. The kubelet takes a missing
/// answer, for example while our container restarts, for the answer that tor hangs.
///
/// On an older API server, a tor that has been silent for 20 s fails the probe, the kubelet waits
/// for another 30 s, and then for the pod's grace period. Where the probe can have its own grace
/// period, it fails as soon as tor has been silent for a few seconds, and the kubelet waits for
/// 10 s: a single wait covers both a busy tor and the restart of our container.
fn tor_liveness_probe(inputs: &Inputs<'_>, path: &str) -> Probe {
    if inputs.fields().probe_grace_period {
        impatient(inputs, probe(&format!("{path}?{EARLY}"), 2, 5))
    } else {
        probe(path, 5, 6)
    }
}

/// Gives a liveness probe its own grace period if the API server supports that. By default, a
/// container that hangs gets the grace period of its pod, which lasts as long as a drain.
fn impatient(inputs: &Inputs<'_>, probe: Probe) -> Probe {
    let grace_period = inputs.fields().probe_grace_period.then_some(HUNG_GRACE_PERIOD);
    Probe { termination_grace_period_seconds: grace_period, ..probe }
}

fn get_hook(path: &str) -> LifecycleHandler {
    LifecycleHandler { http_get: Some(get(path)), ..LifecycleHandler::default() }
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

/// Returns the user's resource requirements, with our default requests for CPU and memory where the
/// user sets none. There are no default limits: under attack, more memory serves tor better than a
/// restart.
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
        // A request must not exceed its limit. The API server sets a missing request to the limit.
        requests.retain(|name, _| !limits.contains_key(name));
        requests.extend(quantities(&resources.requests));
    }
    ResourceRequirements {
        requests: Some(requests),
        limits: (!limits.is_empty()).then_some(limits),
        ..ResourceRequirements::default()
    }
}
