//! The finding about the probes of the onion address from outside, which the publisher reports in
//! the status.

use jiff::{SignedDuration, Timestamp};

use crate::crd::{OnionBalancedService, OnionBalancedServiceStatus, ProbeResult, ProbeStatus, Reason};
use crate::operator::conditions::Finding;

/// The time that passes, in addition to the times of the probes themselves, before a missing result
/// counts as outdated: a publisher may be replaced, and the status may be written late.
const GRACE: SignedDuration = SignedDuration::from_secs(120);

/// Returns the finding about the probes, or None if nothing is probed. A failure of one port is
/// reported even if the other ports answer.
pub(super) fn finding(
    object: &OnionBalancedService,
    status: &OnionBalancedServiceStatus,
    now: Timestamp,
) -> Option<Finding> {
    if !object.spec.frontend.probe.enabled || object.spec.suspend {
        return None;
    }
    let current = current(object, status, now);
    let failed = current.iter().find_map(|probe| Some((*probe, reason(probe.result)?)));
    if let Some((ProbeStatus { port, message, .. }, reason)) = failed {
        let message = message.as_deref().unwrap_or("the publisher gives no reason");
        return Some(Finding::no(reason, format!("Port {port}: {message}")));
    }
    let answered = |probe: &&ProbeStatus| probe.result == ProbeResult::Answered;
    let ports: Vec<_> = current.iter().copied().filter(answered).map(|probe| probe.port.to_string()).collect();
    if !ports.is_empty() {
        let message = format!("The address answers from outside on port {}.", ports.join(", "));
        return Some(Finding::yes(Reason::Answered, message));
    }
    let message = match (current.first(), status.probes.is_empty()) {
        (Some(ProbeStatus { message: Some(message), .. }), _) => format!("The last probe was not made: {message}"),
        (Some(_), _) => "The last probe was not made.".to_owned(),
        (None, true) => "No probe has ended yet.".to_owned(),
        (None, false) => "The last probe was too long ago; check the frontend pods.".to_owned(),
    };
    Some(Finding::unknown(Reason::NotProbed, message))
}

/// Returns the results that are not outdated, of ports that the service has.
fn current<'a>(
    object: &OnionBalancedService,
    status: &'a OnionBalancedServiceStatus,
    now: Timestamp,
) -> Vec<&'a ProbeStatus> {
    let probe = &object.spec.frontend.probe;
    let ports = &object.spec.ports;
    let seconds = |seconds: u32| i64::from(seconds);
    // The ports take turns, and the probe of each port may take as long as the timeout allows.
    let round = i64::try_from(ports.len()).unwrap_or(i64::MAX).saturating_add(1);
    let round = round.saturating_mul(seconds(probe.period_seconds).saturating_add(seconds(probe.timeout_seconds)));
    let is_current = |probe: &&ProbeStatus| {
        let age = now.duration_since(probe.time.0);
        ports.iter().any(|port| port.port == probe.port) && age.as_secs() <= round.saturating_add(GRACE.as_secs())
    };
    status.probes.iter().filter(is_current).collect()
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

    fn probe(port: u16, result: &str, time: &str) -> Value {
        json!({"port": port, "result": result, "message": "why", "time": time})
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
    fn results_that_are_outdated_or_of_another_port_do_not_count() {
        for ignored in [probe(81, "TargetFailed", RECENT), probe(80, "TargetFailed", "2025-12-31T23:00:00Z")] {
            let (reachable, _) = found(&json!([ignored]));
            assert_eq!(reachable, "Unknown NotProbed: The last probe was too long ago; check the frontend pods.");
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
