//! The annotation by which the operator remembers the values with which the API server last
//! accepted a Deployment. While a part of the spec is bad, the part keeps its value in this
//! annotation.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::crd::{Anonymity, GuardMode, ServerLocation, VanguardMode};
use crate::link::ForwardedPort;
use crate::onion::OnionAddress;

/// The name of the annotation.
pub const LAST_GOOD_ANNOTATION: &str = "onionbalance.dev/last-good";
/// The maximum length of the annotation in bytes. An API server refuses an object whose annotations
/// are longer than 256 KiB in total. A Deployment with longer values has no such annotation.
const MAX_LENGTH: usize = 128 * 1024;

/// The values with which the API server last accepted a Deployment. They contain no secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastGood {
    /// The onion address of the service.
    pub address: OnionAddress,
    /// The content of `spec.backends` or `spec.frontend`.
    pub settings: Value,
    /// The ports with their resolved targets, in the backends' Deployment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ForwardedPort>,
    /// The name of the master key's Secret, in the frontends' Deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// True if that Secret holds signing kits instead of the master key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub delegated: bool,
    /// The value of `spec.anonymity.guards`.
    #[serde(default)]
    pub guards: GuardMode,
    /// The value of `spec.anonymity.guardsInUse`. The default is left out, so that an upgrade
    /// changes no Deployment.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub guards_in_use: u8,
    /// The value of `spec.anonymity.vanguards`. The default is left out, so that an upgrade changes
    /// no Deployment.
    #[serde(default, skip_serializing_if = "is_default")]
    pub vanguards: VanguardMode,
    /// The value of `spec.anonymity.serverLocation`. The default is left out, so that an upgrade
    /// changes no Deployment.
    #[serde(default, skip_serializing_if = "is_default")]
    pub server_location: ServerLocation,
    /// The UID of the frontends' `ServiceAccount`, in the frontends' Deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
}

fn one() -> u8 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_one(number: &u8) -> bool {
    *number == 1
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl LastGood {
    /// Reads the values from the metadata of a Deployment. Returns None if the annotation is
    /// missing or unreadable.
    pub fn read(deployment: &ObjectMeta) -> Option<Self> {
        serde_json::from_str(deployment.annotations.as_ref()?.get(LAST_GOOD_ANNOTATION)?).ok()
    }

    /// Returns the value of `spec.anonymity`.
    pub fn anonymity(&self) -> Anonymity {
        Anonymity {
            guards: self.guards,
            guards_in_use: self.guards_in_use,
            vanguards: self.vanguards,
            server_location: self.server_location,
        }
    }

    /// Adds the values to the metadata of a Deployment, unless they are too long.
    pub(super) fn annotate(&self, mut metadata: ObjectMeta) -> Result<ObjectMeta, serde_json::Error> {
        let text = serde_json::to_string(self)?;
        if text.len() <= MAX_LENGTH {
            metadata.annotations.get_or_insert_default().insert(LAST_GOOD_ANNOTATION.to_owned(), text);
        }
        Ok(metadata)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::operator::children::tests::support::Fixture;

    fn written(fixture: &Fixture, id: &str) -> Option<LastGood> {
        let metadata = fixture.child(id)["metadata"].clone();
        LastGood::read(&serde_json::from_value(metadata).unwrap())
    }

    #[test]
    fn each_deployment_remembers_its_part_of_the_spec() {
        let fixture = Fixture::of(&json!({"backends": {"replicas": 5}, "masterKey": {"secretName": "mine"}}));
        let backends = written(&fixture, "Deployment web-backend").unwrap();
        assert_eq!(backends.settings, serde_json::to_value(&fixture.object.spec.backends).unwrap());
        assert_eq!((backends.address, backends.secret, backends.account), (fixture.key.address(), None, None));
        assert_eq!(backends.ports, fixture.ports);
        let frontend = written(&fixture, "Deployment web-frontend").unwrap();
        assert_eq!(frontend.settings, serde_json::to_value(&fixture.object.spec.frontend).unwrap());
        assert_eq!(frontend.secret.as_deref(), Some("mine"));
        assert_eq!(frontend.account.as_deref(), Some("uid-of-account"));
    }

    #[test]
    fn both_deployments_remember_how_the_pods_enter_the_network() {
        let chosen = json!({"anonymity": {"guards": "PerPod", "vanguards": "Full"}});
        let full = Anonymity { guards: GuardMode::PerPod, vanguards: VanguardMode::Full, ..Anonymity::default() };
        let three = json!({"anonymity": {"guardsInUse": 3}});
        let spread = Anonymity { guards_in_use: 3, ..Anonymity::default() };
        let open = json!({"anonymity": {"serverLocation": "Exposed"}});
        let exposed = Anonymity { server_location: ServerLocation::Exposed, ..Anonymity::default() };
        for (spec, anonymity) in [(json!({}), Anonymity::default()), (chosen, full), (three, spread), (open, exposed)] {
            for id in ["Deployment web-backend", "Deployment web-frontend"] {
                assert_eq!(written(&Fixture::of(&spec), id).unwrap().anonymity(), anonymity, "{id}");
            }
        }
    }

    #[test]
    fn values_that_are_too_long_are_not_remembered() {
        let long = "x".repeat(MAX_LENGTH);
        let fixture = Fixture::of(&json!({"backends": {"template": {"annotations": {"note": long}}}}));
        assert_eq!(written(&fixture, "Deployment web-backend"), None);
        assert!(written(&fixture, "Deployment web-frontend").is_some());
    }
}
