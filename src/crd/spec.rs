//! `spec` of an `OnionBalancedService`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::validate::torrc::Place;
use super::{OnionBalancedServiceStatus, rules, schema};

/// What is wanted.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "onionbalance.dev",
    version = "v1alpha1",
    kind = "OnionBalancedService",
    doc = "One public v3 onion address, served by any number of Tor backends.",
    plural = "onionbalancedservices",
    shortname = "obs",
    category = "onion",
    namespaced,
    status = "OnionBalancedServiceStatus",
    scale(
        spec_replicas_path = ".spec.backends.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.onionAddress"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready"),
    printcolumn(name = "Intros", type_ = "integer", json_path = ".status.published[0].introductionPoints"),
    printcolumn(name = "Published", type_ = "date", json_path = ".status.published[0].lastPublished"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "State",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::spec()))]
pub struct OnionBalancedServiceSpec {
    /// The ports of the onion address, and what each leads to.
    #[schemars(
        length(min = 1, max = 64),
        extend(
            "x-kubernetes-list-type" = "map",
            "x-kubernetes-list-map-keys" = ["port"],
            "x-kubernetes-validations" = rules::ports()
        )
    )]
    pub ports: Vec<Port>,
    /// The key that the onion address is made of, and where it is kept.
    #[serde(default)]
    pub master_key: MasterKeySpec,
    /// What happens to a generated master key when this object is deleted: with `Retain` its Secret stays, and an object of the
    /// same name has the same address again. A Secret of your own always stays.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Scales frontend and backends to 0 and publishes nothing: the service is away, its objects, key and address stay.
    #[serde(default)]
    pub suspend: bool,
    /// The backends in this cluster.
    #[serde(default)]
    pub backends: Backends,
    /// Backends elsewhere: other clusters, plain servers. They count as those in the cluster do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 128),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["onionAddress"])
    )]
    pub external_backends: Vec<ExternalBackend>,
    /// The publisher: it merges the backends' descriptors and holds the master key. No client's stream passes it.
    #[serde(default)]
    pub frontend: Frontend,
    /// Only clients with one of these keys may connect. Without any key, nobody may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restricted_discovery: Option<RestrictedDiscovery>,
}

/// A port of the onion address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// A name for metrics and messages; each port's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), extend("x-kubernetes-validations" = rules::port_name()))]
    pub name: Option<String>,
    /// The port that clients connect to, as in `http://<address>.onion:<port>/`. Each is there once.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// Where its streams go.
    pub target: Target,
    /// How streams to the target begin. `v1`: with a header of the PROXY protocol, version 1, whose source address names the
    /// client's circuit; the target must expect it. Absent: without a header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// `v1`: each stream to the target begins with a header of the PROXY protocol, version 1, whose source address names the
/// client's circuit. The target must expect it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// The text form.
    V1,
}

/// Exactly one of its fields is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = rules::target()))]
pub struct Target {
    /// A Service of the same namespace. Its name is resolved for each connection, so it may be deleted and made again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceTarget>,
    /// `host:port`, as in `web.example.org:8080` or `[2001:db8::1]:80`; the name is resolved for each connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 300), extend("x-kubernetes-validations" = rules::host_and_port()))]
    pub address: Option<String>,
}

/// A Service and one of its ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceTarget {
    /// The Service's name.
    #[schemars(length(max = 63), extend("x-kubernetes-validations" = rules::service_name()))]
    pub name: String,
    /// The Service's port, by name or number (its `port`, not its `targetPort`).
    #[schemars(schema_with = "schema::port_reference")]
    pub port: IntOrString,
}

/// The key that the onion address is made of, and where it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MasterKeySpec {
    /// A Secret of the same namespace with an entry `hs_ed25519_secret_key`, in tor's format. Unset: generated once, as
    /// `<name>-master-key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), extend("x-kubernetes-validations" = rules::secret_name()))]
    pub secret_name: Option<String>,
    /// The address that the key must have: another key in the Secret is refused. To change the address on purpose, change the
    /// Secret and this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 62), extend("x-kubernetes-validations" = rules::onion_address()))]
    pub onion_address: Option<String>,
}

/// What happens to a generated master key when its object is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// It stays.
    #[default]
    Retain,
    /// It goes, and the address with it.
    Delete,
}

/// The backends in this cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Backends {
    /// How many pods. `kubectl scale` and autoscalers set it.
    #[schemars(range(min = 0))]
    pub replicas: i32,
    /// Introduction points of each. All backends' points are published; a descriptor holds 20.
    #[schemars(range(min = 3, max = 20))]
    pub introduction_points: u8,
    /// How many seconds open streams may go on when a backend is scaled away or replaced.
    #[schemars(range(max = 86400))]
    pub drain_timeout_seconds: u32,
    /// Tor's introduction-point denial-of-service defence; absent: off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intro_dos_defense: Option<IntroDosDefense>,
    /// More torrc lines for the backends' tors and their onion service, one option on a line. Options that the operator sets or
    /// needs itself are refused.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 16384), extend("x-kubernetes-validations" = rules::extra_torrc(Place::Backend)))]
    pub extra_torrc: String,
    /// Pod settings, above the operator's defaults.
    pub template: PodSettings,
}

impl Default for Backends {
    fn default() -> Self {
        Self {
            replicas: 2,
            introduction_points: 3,
            drain_timeout_seconds: 120,
            intro_dos_defense: None,
            extra_torrc: String::new(),
            template: PodSettings::default(),
        }
    }
}

/// `HiddenServiceEnableIntroDoSRatePerSec` and `…BurstPerSec`. Their bounds are those of the cell extension that carries them
/// (rend-spec-v3, "Denial-of-Service defense extension").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::intro_dos_defense()))]
pub struct IntroDosDefense {
    /// Introductions a second that a relay passes on.
    #[serde(default = "default_dos_rate")]
    #[schemars(range(max = 0x7fff_ffff))]
    pub rate_per_second: u32,
    /// Introductions that it passes on at once.
    #[serde(default = "default_dos_burst")]
    #[schemars(range(max = 0x7fff_ffff))]
    pub burst_per_second: u32,
}

fn default_dos_rate() -> u32 {
    25
}

fn default_dos_burst() -> u32 {
    200
}

/// A backend elsewhere: a stock tor that publishes its own onion service, with `HiddenServiceOnionBalanceInstance 1` and, in
/// its `HiddenServiceDir`, a file `ob_config` with the line `MasterOnionAddress` and this service's address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalBackend {
    /// Its own onion address, which its tor wrote to `hostname`.
    #[schemars(length(max = 62), extend("x-kubernetes-validations" = rules::onion_address()))]
    pub onion_address: String,
}

/// The publisher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Frontend {
    /// How many; one leads, the others stand by.
    #[schemars(range(min = 0))]
    pub replicas: i32,
    /// Whether different HSDirs may hold different descriptors: a descriptor holds at most 20 introduction points, and clients fetch
    /// from six HSDirs. `Auto`: when one descriptor cannot hold all points. `Always`: also when one could, so that no HSDir's
    /// descriptor tells all. `Never`: of more points than one descriptor holds, different ones take turns.
    pub distinct_descriptors: DistinctDescriptors,
    /// More torrc lines for the frontend's tor, one option on a line. Options that the operator sets or needs itself are refused,
    /// and those of an onion service.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 16384), extend("x-kubernetes-validations" = rules::extra_torrc(Place::Frontend)))]
    pub extra_torrc: String,
    /// Pod settings, above the operator's defaults.
    pub template: PodSettings,
}

impl Default for Frontend {
    fn default() -> Self {
        Self {
            replicas: 1,
            distinct_descriptors: DistinctDescriptors::Auto,
            extra_torrc: String::new(),
            template: PodSettings::default(),
        }
    }
}

/// Whether different HSDirs may hold different descriptors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DistinctDescriptors {
    /// When one descriptor cannot hold all points: there are more than 20, or two at one relay.
    #[default]
    Auto,
    /// Also when one could: each then holds about half of the points, but at least three.
    Always,
    /// Never: of more points than one descriptor holds, different ones take turns.
    Never,
}

/// The allow-list of pod fields. No containers or volumes: who may write this object must not be able to mount any Secret.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSettings {
    /// More labels of the pods.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 128, "x-kubernetes-validations" = rules::own_keys()))]
    pub labels: BTreeMap<String, String>,
    /// More annotations of the pods.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 128, "x-kubernetes-validations" = rules::own_keys()))]
    pub annotations: BTreeMap<String, String>,
    /// Resources of the containers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ContainerResources>,
    /// Labels that a node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 128))]
    pub node_selector: BTreeMap<String, String>,
    /// Affinity, as in a pod's `spec.affinity`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any_object")]
    pub affinity: Option<Value>,
    /// Tolerations, as in a pod's `spec.tolerations`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::any_objects")]
    pub tolerations: Vec<Value>,
    /// Topology spread, as in a pod's `spec.topologySpreadConstraints`. Empty: over the nodes, where that can be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::any_objects")]
    pub topology_spread_constraints: Vec<Value>,
    /// Name of the priority class.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub priority_class_name: Option<String>,
    /// Name of the runtime class.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub runtime_class_name: Option<String>,
    /// Secrets with which the images are pulled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub image_pull_secrets: Vec<SecretReference>,
}

/// A Secret of the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretReference {
    /// Its name.
    #[schemars(length(max = 253))]
    pub name: String,
}

/// Resources of a pod's two containers; each field that is absent has our default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ContainerResources {
    /// Of tor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tor: Option<Resources>,
    /// Of the agent, or the publisher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Resources>,
}

/// Resources of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Resources {
    /// What is set aside for it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::quantities")]
    pub requests: BTreeMap<String, IntOrString>,
    /// What it may use at most.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::quantities")]
    pub limits: BTreeMap<String, IntOrString>,
}

/// Client authorization at the master address: the clients of both fields, at most 128.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RestrictedDiscovery {
    /// Who may connect.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 128),
        extend(
            "x-kubernetes-list-type" = "map",
            "x-kubernetes-list-map-keys" = ["name"],
            "x-kubernetes-validations" = rules::clients()
        )
    )]
    pub clients: Vec<AuthorizedClient>,
    /// A Secret of the same namespace with an entry `<name>.auth` for each client, as in C tor's `authorized_clients`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), extend("x-kubernetes-validations" = rules::secret_name()))]
    pub secret_name: Option<String>,
}

/// A client that may connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizedClient {
    /// A name for people; each client's own.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// `descriptor:x25519:<52 base32 characters>`, as `onionbalance-operator key client` makes it. Never the private key.
    #[schemars(length(max = 128), extend("x-kubernetes-validations" = rules::client_key()))]
    pub public_key: String,
}
