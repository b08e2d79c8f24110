//! The last good values: those with which the API server last accepted the owned objects. A bad
//! part of a service keeps its last good value.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::crd::names::Component;
use crate::link::ForwardedPort;
use crate::operator::children::{ChildId, Kind, LAST_GOOD_ANNOTATION, LastGood};
use crate::operator::drift::owns_annotation;
use crate::operator::holder::Holder;

/// The last good values of a service.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Last {
    backends: Option<LastGood>,
    frontend: Option<LastGood>,
}

/// The owned objects that contain the last good values, as they are on the API server.
#[derive(Debug, Clone, Default)]
pub struct LastObjects {
    /// The metadata of the backends' Deployment.
    pub backends: Option<ObjectMeta>,
    /// The metadata of the frontends' Deployment.
    pub frontend: Option<ObjectMeta>,
}

impl Last {
    /// Reads the last good values. Ignores values that somebody else has written, and objects of
    /// somebody else. `holder_of` returns who holds one of the objects.
    pub fn read(found: LastObjects, service: &str, holder_of: impl Fn(&ChildId, &ObjectMeta) -> Holder) -> Self {
        let is_ours = |component: Component, metadata: &ObjectMeta| {
            let id = ChildId { kind: Kind::Deployment, name: component.child_name(service) };
            holder_of(&id, metadata) == Holder::Us
        };
        let settings = |component: Component, deployment: Option<ObjectMeta>| {
            let deployment = deployment.filter(|found| is_ours(component, found))?;
            owns_annotation(&deployment, LAST_GOOD_ANNOTATION).then(|| LastGood::read(&deployment))?
        };
        Self {
            backends: settings(Component::Backend, found.backends),
            frontend: settings(Component::Frontend, found.frontend),
        }
    }

    /// Returns the last good values of a component.
    pub fn of(&self, component: Component) -> Option<&LastGood> {
        match component {
            Component::Backend => self.backends.as_ref(),
            Component::Frontend => self.frontend.as_ref(),
        }
    }

    /// Returns the ports with which the backends were last configured.
    pub fn ports(&self) -> &[ForwardedPort] {
        self.backends.as_ref().map(|last| &*last.ports).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::operator::children::tests::support::Fixture;
    use crate::operator::holder::holder;

    /// Returns the objects of a service as they are on the API server.
    fn found(fixture: &Fixture) -> LastObjects {
        let live = |id: &str| -> Value {
            let mut manifest = fixture.child(id);
            manifest["metadata"]["managedFields"] = json!([{
                "manager": "onionbalance-operator", "operation": "Apply",
                "fieldsV1": {"f:metadata": {"f:annotations": {"f:onionbalance.dev/last-good": {}}}},
            }]);
            manifest
        };
        let metadata = |id: &str| serde_json::from_value(live(id)["metadata"].clone()).unwrap();
        LastObjects { backends: metadata("Deployment web-backend"), frontend: metadata("Deployment web-frontend") }
    }

    fn read(found: LastObjects, fixture: &Fixture) -> Last {
        Last::read(found, "web", |_, metadata| holder(metadata, &fixture.object, || false))
    }

    #[test]
    fn the_values_are_those_that_the_operator_last_applied() {
        let fixture = Fixture::of(&json!({"backends": {"replicas": 5}}));
        let last = read(found(&fixture), &fixture);
        assert_eq!(last.of(Component::Backend).unwrap().settings["replicas"], 5);
        assert_eq!(last.of(Component::Frontend).unwrap().address, fixture.key.address());
        assert_eq!(last.ports(), fixture.ports);
    }

    #[test]
    fn values_of_somebody_else_do_not_count() {
        let fixture = Fixture::new();
        let foreign = |metadata: &mut ObjectMeta| metadata.owner_references = None;
        let mut others = found(&fixture);
        for metadata in [others.backends.as_mut().unwrap(), others.frontend.as_mut().unwrap()] {
            foreign(metadata);
            metadata.labels = None;
        }
        assert_eq!(read(others, &fixture), Last::default());
        let mut edited = found(&fixture);
        edited.backends.as_mut().unwrap().managed_fields = None;
        let last = read(edited, &fixture);
        assert!(last.of(Component::Backend).is_none() && last.of(Component::Frontend).is_some());
        assert_eq!(read(LastObjects::default(), &fixture), Last::default());
    }
}
