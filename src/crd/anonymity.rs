//! The relays at the first hops of the pods' circuits: `spec.anonymity`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;

/// Controls how the pods of the service enter the Tor network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules::anonymity()))]
pub struct Anonymity {
    /// Controls whether all pods use the same entry guards. With `Shared`, a new pod uses the
    /// guards of the pods before it, so that a rollout does not bring the service closer to a
    /// malicious guard. The guards are kept in the Secret `<name>-guards`. With `PerPod`, each pod
    /// chooses its own guards. Guards are never shared if a torrc line sets `UseBridges`,
    /// `UseEntryGuards` or `EntryNodes`. A change replaces the pods. Default `Shared`.
    pub guards: GuardMode,
    /// The number of the shared guards over which the backends spread. With 1, all of them use the
    /// first guard, which carries the traffic of all backends. With 2 or 3, each backend uses one
    /// of the first two or three, so the service has more bandwidth, but more relays know the nodes
    /// and see the traffic. Requires `guards: Shared` if greater than 1. A change replaces the
    /// pods, and the set of guards stays the same. From 1 to 3. Default 1.
    #[schemars(range(min = 1, max = 3))]
    pub guards_in_use: u8,
    /// Controls which relays follow the guard in the circuits of the pods. With `Lite`, each tor
    /// chooses its own second relays, again at each start, and any third relays. With `Full`, all
    /// pods use the same four relays at the second and the same six at the third hop. The publisher
    /// chooses them, keeps them in the Secret `<name>-guards`, and replaces each one after 30 to 60
    /// days (second hop) or 1 to 48 hours (third hop). `Full` makes it much harder to find the
    /// guard of a service that exists for months, but the circuits are longer and slower. No torrc
    /// line may set `HSLayer2Nodes`, `HSLayer3Nodes` or `ExcludeNodes` with `Full`. A change
    /// replaces the pods. Default `Lite`.
    pub vanguards: VanguardMode,
    /// Controls whether Tor hides where the servers are: `Hidden` or `Exposed`. With `Exposed`, the
    /// service is NOT ANONYMOUS: the backends connect directly to introduction points and
    /// rendezvous points, so everyone can find out the addresses of the cluster's nodes.
    /// Connections are faster, and the clients stay anonymous. The administrator must allow
    /// `Exposed` (`--allow-exposed-locations`). This field cannot be changed. Default `Hidden`.
    pub server_location: ServerLocation,
}

impl Default for Anonymity {
    fn default() -> Self {
        Self {
            guards: GuardMode::default(),
            guards_in_use: 1,
            vanguards: VanguardMode::default(),
            server_location: ServerLocation::default(),
        }
    }
}

/// Controls which relays follow the guard in the circuits of the pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VanguardMode {
    /// Each tor chooses its own second relays (vanguards-lite).
    #[default]
    Lite,
    /// All pods share the second and the third relays (full vanguards).
    Full,
}

/// Controls whether the pods of a service share their entry guards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GuardMode {
    /// All pods use the same guards.
    #[default]
    Shared,
    /// Each pod chooses its own guards.
    PerPod,
}

/// Controls whether Tor hides where the servers of a service are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServerLocation {
    /// The backends are as anonymous as ordinary onion services.
    #[default]
    Hidden,
    /// The backends are single onion services: their circuits have a single hop, so everyone can
    /// find out where they are.
    Exposed,
}
