//! The types and reasons of an object's conditions. Programs compare these strings, so they must
//! not change.

use std::fmt;

/// The type of a condition. The variants are ordered so that each depends only on earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// The object's name and spec can be used.
    Accepted,
    /// The master key exists and this object is allowed to use it.
    MasterKeyReady,
    /// The signing kits of a delegated service cover all time periods that must be published now.
    SigningKeysReady,
    /// The clients of a service with restricted discovery are known, and all of them can connect.
    ClientsReady,
    /// All backends are ready and the targets of their ports are known.
    BackendsReady,
    /// A descriptor is on the HSDirs and a publisher keeps it there.
    Published,
    /// The onion address answers a client of the publisher's own, through Tor.
    Reachable,
    /// All pods enter the Tor network through the shared guards, and nobody else has changed them.
    GuardsShared,
    /// Tor does not hide the location of the servers, because the object says so. This condition
    /// exists only while it is True.
    LocationExposed,
    /// All the other conditions are True, except that `Reachable` may be Unknown, and that
    /// `GuardsShared` does not count.
    Ready,
    /// The object cannot become ready until a user changes something. Following kstatus, this
    /// condition exists only while it is True.
    Stalled,
}

impl ConditionType {
    /// Returns the type as written in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::MasterKeyReady => "MasterKeyReady",
            Self::SigningKeysReady => "SigningKeysReady",
            Self::ClientsReady => "ClientsReady",
            Self::BackendsReady => "BackendsReady",
            Self::Published => "Published",
            Self::Reachable => "Reachable",
            Self::GuardsShared => "GuardsShared",
            Self::LocationExposed => "LocationExposed",
            Self::Ready => "Ready",
            Self::Stalled => "Stalled",
        }
    }
}

/// Defines [`Reason`], and for each reason the conditions that it keeps from being True.
macro_rules! reasons {
    ($($(#[doc = $text:literal])+ $name:ident [$($condition:ident)*];)+) => {
        /// The machine-readable reason of a condition. The condition's message explains it to
        /// humans.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[doc = $text])+ $name,)+
        }

        impl Reason {
            /// All reasons of all conditions.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Returns the reason as written in the status.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// Returns the conditions that this reason keeps from being True. `Ready` repeats the
            /// reason of another condition, so it is included only for reasons that no other
            /// condition has.
            pub fn conditions(self) -> &'static [ConditionType] {
                match self {
                    $(Self::$name => &[$(ConditionType::$condition),*],)+
                }
            }
        }
    };
}

reasons! {
    /// The spec is valid.
    Valid [];
    /// The spec is invalid, or cannot be read because it does not match the types of the CRD.
    InvalidSpec [Accepted];
    /// The operator's administrator does not allow a value in the spec.
    NotAllowed [Accepted];
    /// The object's name cannot be used in the names of its owned objects.
    InvalidName [Accepted];
    /// Another object already has the name of an owned object.
    NameTaken [Accepted];

    /// The master key is in use.
    KeyLoaded [];
    /// The Secret of the master key is missing.
    SecretNotFound [MasterKeyReady];
    /// The Secret does not hold a valid master key.
    KeyInvalid [MasterKeyReady];
    /// Another `OnionBalancedService` already serves the address of this master key.
    KeyConflict [MasterKeyReady];
    /// The master key does not produce the object's address.
    AddressMismatch [MasterKeyReady];
    /// The operator is generating a master key.
    Generating [MasterKeyReady];
    /// The operator uses or generates no master key, because the object is not accepted.
    NotAccepted [MasterKeyReady];

    /// The signing kits last for at least 14 days.
    KitsLoaded [];
    /// The signing kits end within 14 days.
    SigningKeysExpiring [];
    /// No signing kit covers a time period that must be published now.
    SigningKeysMissing [SigningKeysReady];

    /// Only the listed clients may connect.
    Restricted [];
    /// The Secret of the authorized clients is missing.
    ClientsSecretNotFound [ClientsReady];
    /// There are more authorized clients than a descriptor can hold.
    TooManyClients [ClientsReady];
    /// Some entries are not valid clients.
    ClientsInvalid [ClientsReady];
    /// Discovery is restricted, but no client is listed.
    NoClients [ClientsReady];

    /// All backends are ready.
    AllReady [];
    /// The service has only external backends and no backend pods.
    OnlyExternal [];
    /// A target Service is missing.
    TargetNotFound [BackendsReady];
    /// A target Service does not have the port that the spec refers to.
    TargetPortNotFound [BackendsReady];
    /// The API server refused an owned object.
    ApplyFailed [MasterKeyReady BackendsReady];
    /// The API server refused to create pods, for example because of a quota.
    PodsRefused [BackendsReady Published];
    /// A node could not pull an image.
    ImagePullFailed [BackendsReady Published];
    /// A container does not start or keeps crashing, or a node has rejected a pod.
    PodsFailing [BackendsReady Published];
    /// The scheduler finds no node for a pod.
    Unschedulable [BackendsReady Published];
    /// A node has been creating a pod's containers for over a minute, for example because a volume
    /// cannot be mounted.
    PodsStuck [BackendsReady Published];
    /// A rollout makes no progress, and Kubernetes gives no other reason.
    ProgressDeadlineExceeded [BackendsReady Published];
    /// A backend is not published, because its descriptor does not fit those of the other backends.
    BackendExcluded [BackendsReady];
    /// A backend is withdrawn, because a target fails there while it passes at another backend.
    BackendUnhealthy [BackendsReady];
    /// A target fails at all backends that are published, so all of them stay published.
    TargetFailing [BackendsReady];
    /// Not all backends are ready yet.
    Progressing [BackendsReady];
    /// A new version of the backends is being rolled out.
    RollingOut [BackendsReady];
    /// The service is suspended or scaled to zero, but some of its pods are still running.
    Stopping [BackendsReady Published];
    /// `spec.suspend` is true, and no pod is running.
    Suspended [BackendsReady Published];
    /// `spec.backends.replicas` is 0 and there are no external backends.
    ScaledToZero [BackendsReady];
    /// The pods are created once the problem in another condition is solved.
    Waiting [BackendsReady];

    /// The descriptor is published.
    Published [];
    /// No descriptor has been published yet.
    NotPublished [Published];
    /// Discovery is restricted, but the published descriptor is open to everyone.
    NotRestricted [Published];
    /// No HSDir has accepted the descriptor.
    NotOnHSDirs [Published];
    /// No backend has introduction points.
    NoBackends [Published];
    /// The HSDirs have dropped the descriptor.
    Expired [Published];
    /// Another publisher publishes descriptors with the same master key.
    ForeignPublisher [Published];
    /// No publisher holds or renews the Lease.
    PublisherSilent [Published];

    /// The onion address answers from outside.
    Answered [];
    /// No HSDir that clients ask has the descriptor.
    DescriptorFailed [Reachable];
    /// No introduction point passes introductions on.
    IntroductionFailed [Reachable];
    /// No backend comes to the rendezvous point.
    RendezvousFailed [Reachable];
    /// The target behind a port does not answer.
    TargetFailed [Reachable];
    /// There is no current result of a probe.
    NotProbed [Reachable];

    /// All pods use the same guards first.
    GuardsAgree [];
    /// The content of the Secret of the guards could not be used, and was replaced.
    GuardsReplaced [GuardsShared];
    /// The publisher cannot read or write the Secret of the guards.
    GuardsNotKept [GuardsShared];
    /// Most of the shared guards are not in the Tor consensus.
    GuardsUnlisted [GuardsShared];
    /// The pods use different guards first.
    GuardsDiffer [GuardsShared];
    /// No current report on the guards exists.
    GuardsUnknown [GuardsShared];

    /// `spec.anonymity.serverLocation` is `Exposed`.
    LocationNotHidden [];

    /// All the other conditions are True.
    Ready [];
    /// The operator lacks a permission.
    Forbidden [Ready];
    /// The operator has not reconciled the object yet. This is the default in the schema.
    Pending [Ready];
}

impl Reason {
    /// Returns the reason with this name, or `None` if there is no such reason.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == name)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::custom_resource_definition;

    #[test]
    fn parse_finds_every_reason() {
        for &reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(reason));
        }
        assert_eq!(Reason::parse("Unreadable"), None);
    }

    #[test]
    fn the_schema_sets_pending_by_default() {
        let version = custom_resource_definition().spec.versions.remove(0);
        let schema = version.schema.and_then(|schema| schema.open_api_v3_schema).unwrap();
        let default = schema.properties.unwrap()["status"].default.clone().unwrap().0;
        assert_eq!(default["conditions"][0]["type"], ConditionType::Ready.as_str());
        assert_eq!(default["conditions"][0]["reason"], Reason::Pending.as_str());
    }
}
