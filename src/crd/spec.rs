//! The `spec` of an `OnionBalancedService`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::torrc::Place;
use super::{AddressProbe, Anonymity, CircuitLimits, OnionBalancedServiceStatus, PodSettings, Port, rules};

/// The desired state of an onion service: its ports, its key, its backends and its publisher.
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
    printcolumn(name = "State", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message"),
    printcolumn(
        name = "Exposed",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type==\"LocationExposed\")].status"
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::spec()))]
pub struct OnionBalancedServiceSpec {
    /// The ports of the onion address and the target of each port, from 1 to 64.
    #[schemars(
        length(min = 1, max = 64),
        extend(
            "x-kubernetes-list-type" = "map",
            "x-kubernetes-list-map-keys" = ["port"],
            "x-kubernetes-validations" = rules::ports()
        )
    )]
    pub ports: Vec<Port>,
    /// The master key that determines the onion address, and the Secret that holds the key.
    #[serde(default)]
    pub master_key: MasterKeySpec,
    /// Controls whether a generated master key is kept when this object is deleted. `Retain` keeps
    /// the Secret, so a new object with the same name gets the same address again. `Delete` deletes
    /// the Secret, so the address is lost permanently. A Secret that you supplied is never deleted.
    /// Default `Retain`.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Controls through which relays the pods of the service enter the Tor network.
    #[serde(default)]
    pub anonymity: Anonymity,
    /// True takes the service offline: the frontend and the backends are scaled to 0, and nothing
    /// is published. The owned objects, the key and the address are kept. Default `false`.
    #[serde(default)]
    pub suspend: bool,
    /// The backends that run in this cluster. Each backend is a pod with a tor of its own and an
    /// agent, which forwards the clients' streams to the targets.
    #[serde(default)]
    pub backends: Backends,
    /// Backends that run elsewhere, for example in other clusters or on servers outside Kubernetes.
    /// The publisher treats them like the backends in this cluster. At most 128.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 128),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["onionAddress"])
    )]
    pub external_backends: Vec<ExternalBackend>,
    /// The publisher, which holds the master key and merges the backends' descriptors. Client
    /// traffic does not pass through the publisher.
    #[serde(default)]
    pub frontend: Frontend,
    /// Client authorization. If set, only clients with one of the listed keys can connect; with
    /// no valid key in the list, no client can connect. If absent, every client can connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restricted_discovery: Option<RestrictedDiscovery>,
}

impl OnionBalancedServiceSpec {
    /// Returns true if the publishers accept the app's requests to close circuits: circuits are
    /// limited, and the app of at least one port learns their addresses.
    pub fn closes_circuits(&self) -> bool {
        self.backends.circuit_limits.is_some() && self.ports.iter().any(|port| port.proxy_protocol.is_some())
    }
}

/// The master key that determines the onion address, and the Secret that holds the key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::master_key()))]
pub struct MasterKeySpec {
    /// The name of a Secret in the same namespace with an entry `hs_ed25519_secret_key` in tor's
    /// format. If absent, the operator generates a key once and stores it in the Secret
    /// `<name>-master-key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = rules::secret_name()))]
    pub secret_name: Option<String>,
    /// True if the Secret holds signing kits (`kubectl onionbalance key delegate`) instead of the
    /// master key, which stays offline. `secretName` is then required. The service is published as
    /// long as the kits last. Default `false`.
    #[serde(default)]
    pub delegated: bool,
    /// The onion address that the key must produce, with or without `.onion`. The operator refuses
    /// a Secret with a different key. To change the address intentionally, change both the Secret
    /// and this field. If absent, the first key determines the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 62), extend("x-kubernetes-validations" = rules::onion_address()))]
    pub onion_address: Option<String>,
}

/// Controls whether a generated master key is kept when its `OnionBalancedService` is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// Keeps the Secret.
    #[default]
    Retain,
    /// Deletes the Secret, so the address is lost permanently.
    Delete,
}

/// The settings of the backends that run in this cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Backends {
    /// The number of backend pods, at least 0. `kubectl scale` and autoscalers set this field.
    /// Default 2.
    #[schemars(range(min = 0))]
    pub replicas: i32,
    /// The number of introduction points that each backend establishes, and the largest number that
    /// the publisher publishes of each backend. One descriptor holds at most 20. From 3 to 20.
    /// Default 3.
    #[schemars(range(min = 3, max = 20))]
    pub introduction_points: u8,
    /// The time in seconds for which a backend's open streams may continue after the backend has
    /// been replaced or removed by scaling down. From 0 to 86400 (one day). Default 120.
    #[schemars(range(max = 86400))]
    pub drain_timeout_seconds: u32,
    /// Tor's denial-of-service defence at the introduction points. If absent, the defence is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intro_dos_defense: Option<IntroDosDefense>,
    /// Limits for each client's circuit, which the agent enforces. If absent, tor limits a circuit
    /// to 256 open streams and refuses more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_limits: Option<CircuitLimits>,
    /// Additional torrc lines for each backend's tor and its onion service, one option per line, at
    /// most 16384 characters. Only the options that docs/reference.md lists are allowed, and their
    /// names must be written in full. If absent, no lines are added.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "text")]
    #[schemars(
        length(max = 16384),
        extend("x-kubernetes-validations" = rules::extra_torrc(Place::Backend))
    )]
    pub extra_torrc: String,
    /// Settings of the backend pods. They take precedence over the operator's defaults.
    pub template: PodSettings,
}

impl Default for Backends {
    fn default() -> Self {
        Self {
            replicas: 2,
            introduction_points: 3,
            drain_timeout_seconds: 120,
            intro_dos_defense: None,
            circuit_limits: None,
            extra_torrc: String::new(),
            template: PodSettings::default(),
        }
    }
}

/// Tor's denial-of-service defence at the introduction points, configured by the options
/// `HiddenServiceEnableIntroDoSRatePerSec` and `HiddenServiceEnableIntroDoSBurstPerSec`. The
/// cell extension that carries both values limits them (rend-spec-v3, "Denial-of-Service defense
/// extension").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::intro_dos_defense()))]
pub struct IntroDosDefense {
    /// The number of introductions per second that an introduction point forwards in the long run.
    /// With 0, the number is not limited. From 0 to 2147483647. Default 25.
    #[serde(default = "default_dos_rate")]
    #[schemars(range(max = 0x7fff_ffff))]
    pub rate_per_second: u32,
    /// The number of introductions that an introduction point forwards in one burst. Must be at
    /// least `ratePerSecond`. From 0 to 2147483647. Default 200.
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

/// A backend outside the cluster: an unmodified tor that publishes its own onion service. Its torrc
/// needs the line `HiddenServiceOnionBalanceInstance 1`. Its `HiddenServiceDir` needs a file
/// `ob_config` with a `MasterOnionAddress` line that names the address of this service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalBackend {
    /// The external backend's own onion address, which is in the `hostname` file that its tor
    /// wrote.
    #[schemars(length(min = 1, max = 62), extend("x-kubernetes-validations" = rules::onion_address()))]
    pub onion_address: String,
    /// The largest number of this backend's introduction points that are published. The limit keeps
    /// a backend from attracting more clients than its share by offering many introduction points.
    /// From 1 to 20. Default 3, the number that tor establishes by default.
    #[serde(default = "default_max_introduction_points")]
    #[schemars(range(min = 1, max = 20))]
    pub max_introduction_points: u8,
}

fn default_max_introduction_points() -> u8 {
    3
}

/// The settings of the publisher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Frontend {
    /// The number of frontend pods, at least 0. One publisher is the leader, and the others are
    /// standbys. With 0, nothing is published, and clients can use the last descriptors for up to
    /// three hours. Default 1.
    #[schemars(range(min = 0))]
    pub replicas: i32,
    /// Controls whether different HSDirs may hold different descriptors. A descriptor holds at most
    /// 20 introduction points, and clients fetch descriptors from six HSDirs. `Auto` publishes
    /// different descriptors only if one descriptor cannot hold all introduction points. `Always`
    /// publishes different descriptors even if one would suffice, so that no single HSDir's
    /// descriptor reveals all introduction points. `Never` publishes the same descriptor
    /// everywhere. If there are more introduction points than fit into the descriptor, each of them
    /// is published only for part of the time. Default `Auto`.
    pub distinct_descriptors: DistinctDescriptors,
    /// The probe of the onion address from outside, through Tor.
    pub probe: AddressProbe,
    /// Additional torrc lines for the frontend's tor, one option per line, at most 16384
    /// characters. Only the options that docs/reference.md lists are allowed, and their names must
    /// be written in full. If absent, no lines are added.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "text")]
    #[schemars(
        length(max = 16384),
        extend("x-kubernetes-validations" = rules::extra_torrc(Place::Frontend))
    )]
    pub extra_torrc: String,
    /// Settings of the frontend pods. They take precedence over the operator's defaults.
    pub template: PodSettings,
}

impl Default for Frontend {
    fn default() -> Self {
        Self {
            replicas: 1,
            distinct_descriptors: DistinctDescriptors::Auto,
            probe: AddressProbe::default(),
            extra_torrc: String::new(),
            template: PodSettings::default(),
        }
    }
}

/// Controls whether all HSDirs get the same descriptor or different HSDirs get different
/// descriptors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DistinctDescriptors {
    /// Publishes different descriptors if one descriptor cannot hold all introduction points: if
    /// there are more than 20, or if two of them are at the same relay.
    #[default]
    Auto,
    /// Always publishes different descriptors. Each holds about half of the introduction points,
    /// but at least three.
    Always,
    /// Publishes the same descriptor to all HSDirs. If there are more introduction points than a
    /// descriptor can hold, each of them is published only for part of the time.
    Never,
}

/// Client authorization for this service. The clients from both fields are authorized, at most 128
/// in total.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RestrictedDiscovery {
    /// The authorized clients, at most 128.
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
    /// The name of a Secret in the same namespace with an entry `<name>.auth` for each client, in
    /// the format of C tor's `authorized_clients` directory. If absent, only the clients in
    /// `clients` are authorized.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = rules::secret_name()))]
    pub secret_name: Option<String>,
}

/// One authorized client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizedClient {
    /// The name that identifies the client in messages, from 1 to 253 characters. Each client needs
    /// a different name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The client's public key in the form `descriptor:x25519:<52 base32 characters>`. The command
    /// `kubectl onionbalance key generate --client NAME --address ADDRESS` writes the key to
    /// `NAME.auth` in this form. Never put the private key here.
    #[schemars(length(min = 1, max = 128), extend("x-kubernetes-validations" = rules::client_key()))]
    pub public_key: String,
}

/// Deserializes a text. Null stands for an empty text, as in the fields of Kubernetes' own types.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
