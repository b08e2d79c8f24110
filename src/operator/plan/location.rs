//! `spec.anonymity.serverLocation`: the field cannot be changed, and an exposed location is
//! reported.

use super::Observed;
use super::basis::last_good;
use crate::crd::names::Component;
use crate::crd::validate::{self, Problem};
use crate::crd::{Reason, ServerLocation};
use crate::operator::children::{LAST_GOOD_ANNOTATION, LastGood};
use crate::operator::conditions::Finding;
use crate::operator::drift::owns_annotation;

/// Returns the problem of a location that differs from the one with which the pods run. An API
/// server before Kubernetes 1.25 does not evaluate the rule of the schema about this change.
pub(super) fn changed(observed: &Observed) -> Option<Problem> {
    validate::changed_location(in_use(observed)?, observed.object.spec.anonymity.server_location)
}

/// Returns the problem of an exposed location that the operator's own torrc lines contradict.
pub(super) fn contradicted(observed: &Observed) -> Option<Problem> {
    let lines = &observed.environment.settings.tor_extra_config;
    validate::exposed_beside(lines, observed.object.spec.anonymity.server_location)
}

/// Returns the location with which the pods were last configured, or None if there are no pods.
fn in_use(observed: &Observed) -> Option<ServerLocation> {
    let location = |component: Component| {
        if observed.last.is_some() {
            return last_good(observed, component).map(|last| last.server_location);
        }
        let metadata = &observed.deployment(component)?.metadata;
        let last = owns_annotation(metadata, LAST_GOOD_ANNOTATION).then(|| LastGood::read(metadata))?;
        last.map(|last| last.server_location)
    };
    [Component::Frontend, Component::Backend].into_iter().find_map(location)
}

/// Returns the finding that the location of the servers is exposed, or None if Tor hides it.
pub(super) fn finding(location: ServerLocation) -> Option<Finding> {
    let message = "The location of the servers is NOT hidden, because spec.anonymity.serverLocation is Exposed: everyone \
                   can find out the addresses of the nodes. Only the clients are anonymous.";
    (location == ServerLocation::Exposed).then(|| Finding::yes(Reason::LocationNotHidden, message))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::apps::v1::Deployment;
    use serde_json::{Value, json};

    use super::*;
    use crate::crd::tests::refused::{RefusedChange, changed as with_change, refused_changes};
    use crate::operator::children::tests::support::{Fixture, environment, object};
    use crate::operator::plan::tests::support::{Server, concluded, condition, from, healthy, with};
    use crate::operator::plan::{Last, LastObjects};
    use crate::operator::policy::ObjectPolicy;

    /// Returns the metadata of the service's Deployments as they are on the API server, if the spec
    /// had this part `spec.anonymity`.
    fn deployed(anonymity: &Value) -> LastObjects {
        let fixture = Fixture::of(&json!({ "anonymity": anonymity }));
        let metadata = |id: &str| {
            let mut metadata = fixture.child(id)["metadata"].clone();
            metadata["managedFields"] =
                json!([{"manager": "onionbalance-operator", "operation": "Apply", "fieldsV1": {}}]);
            from(metadata)
        };
        LastObjects { backends: metadata("Deployment web-backend"), frontend: metadata("Deployment web-frontend") }
    }

    /// Returns the healthy service with one `spec.anonymity`, whose Deployments were applied with
    /// another one. The last good values have been read, or are only in the cached Deployments.
    fn edited(before: &Value, after: &Value, was_read: bool) -> Observed {
        let mut observed = healthy();
        Arc::make_mut(&mut observed.environment).settings.tor_extra_config = String::new();
        observed.object = with(&observed.object, "spec/anonymity", after.clone());
        let found = deployed(before);
        let backends = observed.backends.as_mut().map(Arc::make_mut).unwrap();
        backends.metadata.annotations = found.backends.as_ref().unwrap().annotations.clone();
        backends.metadata.managed_fields = found.backends.as_ref().unwrap().managed_fields.clone();
        observed.last = was_read.then(|| Last::read(found, "web", |_, _| crate::operator::holder::Holder::Us));
        observed
    }

    #[test]
    fn a_change_is_refused_without_the_help_of_the_api_server() {
        for RefusedChange { before, after, says } in refused_changes() {
            let [before, after] = [before, after].map(|change| {
                let anonymity = with_change(&change)["spec"]["anonymity"].clone();
                if anonymity.is_null() { json!({}) } else { anonymity }
            });
            for was_read in [false, true] {
                let observed = edited(&before, &after, was_read);
                assert_eq!(changed(&observed).unwrap().to_string(), says, "{before} {after} {was_read}");
                assert_eq!(changed(&edited(&after, &after, was_read)), None, "{after}");
            }
            let (_, status) = concluded(&edited(&before, &after, true));
            let accepted = condition(&status, "Accepted");
            assert!(accepted.starts_with(&format!("False InvalidSpec: {says}. Until ")), "{accepted}");
            // The condition is about the pods, which keep their location.
            let is_exposed = status.conditions.iter().any(|found| found.type_ == "LocationExposed");
            assert_eq!(is_exposed, before["serverLocation"] == "Exposed", "{before} {after}");
        }
    }

    #[test]
    fn the_pods_keep_their_location_when_a_change_is_refused() {
        let mut server = Server::default();
        let mut environment = environment();
        environment.settings.tor_extra_config = String::new();
        let environment = Arc::new(environment);
        let service = |location: &str| object(&json!({"anonymity": {"serverLocation": location}})).into();
        let new = Observed { owned: None, last: None, backends: None, ..healthy() };
        server.run(Observed { object: service("Exposed"), environment: environment.clone(), ..new });
        let torrc = |server: &Server| server.manifests["ConfigMap web-backend"]["data"]["torrc"].to_string();
        let exposed = torrc(&server);
        assert!(exposed.contains("HiddenServiceSingleHopMode 1"), "{exposed}");

        let deployed = server.existing.iter().find(|(id, _)| id.to_string() == "Deployment web-backend").unwrap().1;
        let backends = Deployment { metadata: deployed.clone(), ..Deployment::default() };
        let edited = Observed { object: service("Hidden"), environment, owned: None, last: None, ..healthy() };
        let (_, status) = server.run(Observed { backends: Some(Arc::new(backends)), ..edited });
        assert!(condition(&status, "Accepted").starts_with("False InvalidSpec: spec.anonymity.serverLocation: "));
        assert_eq!(torrc(&server), exposed);
    }

    #[test]
    fn a_ready_service_says_that_its_location_is_exposed() {
        let exposed = json!({"serverLocation": "Exposed"});
        let (_, status) = concluded(&edited(&exposed, &exposed, true));
        let found = condition(&status, "LocationExposed");
        assert!(found.starts_with("True LocationNotHidden: The location of the servers is NOT hidden, "), "{found}");
        let ready = "True Ready: The service is reachable. The location of its servers is not hidden.";
        assert_eq!(condition(&status, "Ready"), ready);
        let (_, hidden) = concluded(&healthy());
        assert!(!hidden.conditions.iter().any(|found| found.type_ == "LocationExposed"));
        assert_eq!(condition(&hidden, "Ready"), "True Ready: The service is reachable.");
    }

    #[test]
    fn an_exposed_location_needs_the_permission_of_the_administrator() {
        let exposed = json!({"serverLocation": "Exposed"});
        let mut observed = edited(&exposed, &exposed, true);
        Arc::make_mut(&mut observed.environment).settings.policy = ObjectPolicy::default();
        let (_, status) = concluded(&observed);
        let accepted = condition(&status, "Accepted");
        let expected = "False NotAllowed: spec.anonymity.serverLocation: \"Exposed\" is not allowed; remove it, or ask the \
                        cluster's administrator to allow it with --allow-exposed-locations.";
        assert!(accepted.starts_with(expected), "{accepted}");
    }

    #[test]
    fn backends_are_not_exposed_beside_the_bridges_of_the_cluster() {
        let exposed = json!({"serverLocation": "Exposed"});
        let mut observed = edited(&exposed, &exposed, true);
        Arc::make_mut(&mut observed.environment).settings.tor_extra_config = "UseBridges 1".to_owned();
        let (conclusion, status) = concluded(&observed);
        let accepted = condition(&status, "Accepted");
        let expected =
            "False NotAllowed: spec.anonymity.serverLocation: \"Exposed\" cannot be combined with \"UseBridges\"";
        assert!(accepted.starts_with(expected), "{accepted}");
        assert_eq!(conclusion.withheld, [Component::Backend, Component::Frontend]);
    }
}
