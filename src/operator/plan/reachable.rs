//! The finding about the probes of the onion address from outside, which the publisher reports in
//! the status.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;

use super::published::silence;
use crate::crd::{OnionBalancedService, OnionBalancedServiceStatus, ProbeResult, ProbeStatus, Reason};
use crate::operator::conditions::Finding;

/// Returns the finding about the probes, or None if nothing is probed. A failure of one port is
/// reported even if the other ports answer. A publisher that does not renew its Lease does not
/// probe either, so its results are outdated.
pub(super) fn finding(
    object: &OnionBalancedService,
    status: &OnionBalancedServiceStatus,
    lease: Option<&Lease>,
    now: Timestamp,
) -> Option<Finding> {
    if !object.spec.frontend.probe.enabled || object.spec.suspend {
        return None;
    }
    let has = |probe: &&ProbeStatus| object.spec.ports.iter().any(|port| port.port == probe.port);
    let results: Vec<&ProbeStatus> = status.probes.iter().filter(has).collect();
    if let (false, Some(message)) = (results.is_empty(), silence(lease, now)) {
        return Some(Finding::unknown(Reason::NotProbed, message));
    }
    let failed = results.iter().find_map(|probe| Some((*probe, reason(probe.result)?)));
    if let Some((ProbeStatus { port, message, .. }, reason)) = failed {
        let message = message.as_deref().unwrap_or("the publisher gives no reason");
        return Some(Finding::no(reason, format!("Port {port}: {message}")));
    }
    let answered = |probe: &&ProbeStatus| probe.result == ProbeResult::Answered;
    let ports: Vec<_> = results.iter().copied().filter(answered).map(|probe| probe.port.to_string()).collect();
    if !ports.is_empty() {
        let message = format!("The address answers from outside on port {}.", ports.join(", "));
        return Some(Finding::yes(Reason::Answered, message));
    }
    let message = match results.first() {
        Some(ProbeStatus { message: Some(message), .. }) => format!("The last probe was not made: {message}"),
        Some(_) => "The last probe was not made.".to_owned(),
        None => "No probe has ended yet.".to_owned(),
    };
    Some(Finding::unknown(Reason::NotProbed, message))
}

/// Returns the reason why a probe failed, or None if the probe did not fail.
fn reason(result: ProbeResult) -> Option<Reason> {
    match result {
        ProbeResult::DescriptorFailed => Some(Reason::DescriptorFailed),
        ProbeResult::IntroductionFailed => Some(Reason::IntroductionFailed),
        ProbeResult::RendezvousFailed => Some(Reason::RendezvousFailed),
        ProbeResult::TargetFailed => Some(Reason::TargetFailed),
        ProbeResult::Answered | ProbeResult::NotMade => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::operator::plan::tests::support::{concluded, condition, healthy, with};

    /// Returns the conditions `Reachable` and `Ready` of a healthy service with these results.
    fn found(probes: &Value) -> (String, String) {
        let mut observed = healthy();
        observed.object = with(&observed.object, "status/probes", probes.clone());
        let (_, status) = concluded(&observed);
        (condition(&status, "Reachable"), condition(&status, "Ready"))
    }

    fn probe(port: u16, result: &str, since: &str) -> Value {
        json!({"port": port, "result": result, "message": "why", "since": since})
    }

    const RECENT: &str = "2025-12-31T23:59:00Z";

    #[test]
    fn each_failure_has_its_own_reason_and_the_service_is_not_ready() {
        for reason in ["DescriptorFailed", "IntroductionFailed", "RendezvousFailed", "TargetFailed"] {
            let (reachable, ready) = found(&json!([probe(80, reason, RECENT)]));
            assert_eq!(reachable, format!("False {reason}: Port 80: why"));
            assert_eq!(ready, reachable);
        }
    }

    #[test]
    fn a_service_is_ready_before_its_first_probe() {
        for probes in [json!([]), json!([probe(80, "NotMade", RECENT)])] {
            let (reachable, ready) = found(&probes);
            assert!(reachable.starts_with("Unknown NotProbed: "), "{reachable}");
            assert_eq!(ready, "True Ready: The service is reachable.");
        }
    }

    #[test]
    fn an_answer_makes_the_condition_true() {
        let (reachable, ready) = found(&json!([probe(80, "Answered", RECENT)]));
        assert_eq!(reachable, "True Answered: The address answers from outside on port 80.");
        assert_eq!(ready, "True Ready: The service is reachable.");
    }

    #[test]
    fn the_results_of_a_silent_publisher_and_of_another_port_do_not_count() {
        let (other, _) = found(&json!([probe(81, "TargetFailed", RECENT)]));
        assert_eq!(other, "Unknown NotProbed: No probe has ended yet.");
        for result in ["Answered", "TargetFailed"] {
            let mut observed = healthy();
            observed.object = with(&observed.object, "status/probes", json!([probe(80, result, RECENT)]));
            observed.lease = None;
            let (_, status) = concluded(&observed);
            let expected = "Unknown NotProbed: No publisher holds the Lease; check the frontend pods.";
            assert_eq!(condition(&status, "Reachable"), expected);
        }
    }

    #[test]
    fn without_a_probe_there_is_no_condition() {
        for (path, value) in [("spec/frontend/probe/enabled", json!(false)), ("spec/suspend", json!(true))] {
            let mut observed = healthy();
            observed.object = with(&observed.object, "status/probes", json!([probe(80, "TargetFailed", RECENT)]));
            observed.object = with(&observed.object, path, value);
            let (_, status) = concluded(&observed);
            assert!(!status.conditions.iter().any(|condition| condition.type_ == "Reachable"), "{path}");
        }
    }
}
