//! Examines whether the tors have bootstrapped. A pod is Ready only if its tor has. The metrics
//! tell about the tor of a pod that is not Ready.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use crate::crd::names::Component;
use crate::status::doctor::facts::{Facts, Metrics};
use crate::status::doctor::finding::Finding;
use crate::status::doctor::pod::{is_ending, is_of, is_ready, phase};

const AREA: &str = "tor";

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let Ok(pods) = &facts.pods else { return Vec::new() };
    let running = pods.iter().filter(|pod| phase(pod) == "Running" && !is_ending(pod));
    let (ready, unready): (Vec<&Pod>, Vec<&Pod>) = running.partition(|pod| is_ready(pod));
    let mut found = Vec::new();
    if !ready.is_empty() {
        found.push(Finding::ok(AREA, format!("The tor of each ready pod has bootstrapped ({}).", ready.len())));
    }
    let mut is_unread = false;
    for pod in unready {
        let name = pod.name_any();
        match facts.metrics.get(&name) {
            Some(Ok(metrics)) => found.extend(complaint(pod, metrics).map(|complaint| {
                let text = format!("{name}: {complaint}.");
                let advice = format!(
                    "check that the pod can reach the Tor network: kubectl logs -n {} {name} -c tor --tail=20",
                    facts.namespace
                );
                Finding::problem(AREA, text).remedy(&advice)
            })),
            // One finding is enough: the reason is the same for all pods.
            Some(Err(unread)) if !is_unread => {
                is_unread = true;
                found.push(Finding::unread(AREA, unread));
            }
            _ => {}
        }
    }
    found
}

/// Returns what is wrong with the tor of a pod.
fn complaint(pod: &Pod, metrics: &Metrics) -> Option<&'static str> {
    let is_down = |name: &str| metrics.get(name) == Some(&0.0);
    if is_of(pod, Component::Frontend) {
        return is_down("onionbalance_publisher_tor_up")
            .then_some("the publisher has no connection to a bootstrapped tor");
    }
    if is_down("onionbalance_agent_tor_up") {
        return Some("tor does not answer on its control socket");
    }
    if is_down("onionbalance_agent_bootstrapped") {
        return Some("tor has not bootstrapped");
    }
    is_down("onionbalance_agent_introduction_points").then_some("tor has bootstrapped, but has no introduction point")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::doctor::finding::Mark;
    use crate::status::doctor::judge::tests::{forbidden, healthy, pod};

    /// Returns the findings about a pod that is not ready, whose metrics are these.
    fn found(component: &str, metrics: &[(&str, f64)]) -> Vec<(Mark, String)> {
        let mut facts = healthy();
        facts.pods = Ok(vec![serde_json::from_value(pod("x", component, false)).unwrap()]);
        let metrics = metrics.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        facts.metrics = [("x".to_owned(), Ok(metrics))].into();
        examine(&facts).into_iter().map(|finding| (finding.mark, finding.found)).collect()
    }

    #[test]
    fn the_tor_of_a_ready_pod_has_bootstrapped() {
        let expected = Finding::ok(AREA, "The tor of each ready pod has bootstrapped (3).");
        assert_eq!(examine(&healthy()), [expected]);
    }

    #[test]
    fn a_tor_that_does_not_work_is_named() {
        for (component, metric, expected) in [
            ("backend", "onionbalance_agent_tor_up", "x: tor does not answer on its control socket."),
            ("backend", "onionbalance_agent_bootstrapped", "x: tor has not bootstrapped."),
            (
                "backend",
                "onionbalance_agent_introduction_points",
                "x: tor has bootstrapped, but has no introduction point.",
            ),
            ("frontend", "onionbalance_publisher_tor_up", "x: the publisher has no connection to a bootstrapped tor."),
        ] {
            assert_eq!(found(component, &[(metric, 0.0)]), [(Mark::Problem, expected.to_owned())]);
            assert_eq!(found(component, &[(metric, 1.0)]), []);
        }
    }

    #[test]
    fn metrics_that_cannot_be_read_are_reported_once() {
        let mut facts = healthy();
        let pods = ["x", "y"].map(|name| serde_json::from_value(pod(name, "backend", false)).unwrap());
        facts.pods = Ok(pods.to_vec());
        facts.metrics = ["x", "y"].map(|name| (name.to_owned(), Err(forbidden("get")))).into();
        let found = examine(&facts);
        assert_eq!((found.len(), found[0].mark), (1, Mark::Unchecked));
    }
}
