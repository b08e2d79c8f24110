//! Examines the results of the publisher's own probe, which connects to the address as clients do.

use crate::crd::{OnionBalancedService, ProbeResult, ProbeStatus, Reason};
use crate::status::advice;
use crate::status::doctor::facts::Facts;
use crate::status::doctor::finding::{Finding, Mark};

const AREA: &str = "address";

pub(super) fn examine(facts: &Facts, object: &OnionBalancedService) -> Vec<Finding> {
    let Facts { namespace, name, .. } = facts;
    if !object.spec.frontend.probe.enabled {
        let found = "The probe of the address is switched off (spec.frontend.probe.enabled).";
        return vec![Finding::new(Mark::Unchecked, AREA, found).remedy(&format!(
            "switch the probe on: kubectl patch obs {name} -n {namespace} --type merge -p \
             '{{\"spec\":{{\"frontend\":{{\"probe\":{{\"enabled\":true}}}}}}}}'"
        ))];
    }
    let status = facts.status();
    let has = |probe: &&ProbeStatus| object.spec.ports.iter().any(|port| port.port == probe.port);
    let results: Vec<_> = status.probes.iter().filter(has).map(|probe| judge(facts, probe)).collect();
    if results.is_empty() {
        let found = "No probe of the address has ended yet.";
        let advice = advice::action(Reason::NotProbed.as_str(), namespace, name);
        return vec![Finding::new(Mark::Unchecked, AREA, found).maybe(advice.as_deref())];
    }
    results
}

fn judge(facts: &Facts, probe: &ProbeStatus) -> Finding {
    let ProbeStatus { port, result, message, since } = probe;
    let minutes = facts.seconds_since(since.0) / 60;
    let reason = match result {
        ProbeResult::Answered => {
            let found = format!("Port {port} answers a Tor client, as it has for {minutes} min.");
            return Finding::ok(AREA, found);
        }
        ProbeResult::NotMade => Reason::NotProbed,
        ProbeResult::DescriptorFailed => Reason::DescriptorFailed,
        ProbeResult::IntroductionFailed => Reason::IntroductionFailed,
        ProbeResult::RendezvousFailed => Reason::RendezvousFailed,
        ProbeResult::TargetFailed => Reason::TargetFailed,
    };
    let why = message.as_deref().unwrap_or("the publisher gives no reason");
    let found = format!("Port {port} does not answer a Tor client for {minutes} min ({result:?}): {why}");
    let mark = if reason == Reason::NotProbed { Mark::Unchecked } else { Mark::Problem };
    let advice = advice::action(reason.as_str(), &facts.namespace, &facts.name);
    let found = if reason == Reason::NotProbed { format!("Port {port} could not be probed: {why}") } else { found };
    Finding::new(mark, AREA, found).maybe(advice.as_deref())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::status::doctor::judge::tests::{healthy, with_spec, with_status};

    fn found(probes: Value) -> (Mark, String) {
        let mut facts = healthy();
        with_status(&mut facts, "probes", probes);
        let finding = examine(&facts, facts.object().unwrap()).remove(0);
        (finding.mark, finding.found)
    }

    fn probe(port: u16, result: &str) -> Value {
        json!([{"port": port, "result": result, "message": "Why.", "since": "2026-01-01T11:55:00Z"}])
    }

    #[test]
    fn an_answer_is_good() {
        let expected = "Port 80 answers a Tor client, as it has for 5 min.";
        assert_eq!(found(probe(80, "Answered")), (Mark::Ok, expected.to_owned()));
    }

    #[test]
    fn each_failure_is_a_problem() {
        for result in ["DescriptorFailed", "IntroductionFailed", "RendezvousFailed", "TargetFailed"] {
            let expected = format!("Port 80 does not answer a Tor client for 5 min ({result}): Why.");
            assert_eq!(found(probe(80, result)), (Mark::Problem, expected));
        }
    }

    #[test]
    fn without_a_probe_nothing_is_known() {
        assert_eq!(found(probe(80, "NotMade")), (Mark::Unchecked, "Port 80 could not be probed: Why.".to_owned()));
        assert_eq!(found(json!([])).0, Mark::Unchecked);
        assert_eq!(found(probe(81, "TargetFailed")).0, Mark::Unchecked, "the object has no such port");
        let mut facts = healthy();
        with_spec(&mut facts, "frontend", json!({"probe": {"enabled": false}}));
        let finding = examine(&facts, facts.object().unwrap()).remove(0);
        assert_eq!(finding.mark, Mark::Unchecked);
        let expected =
            r#"kubectl patch obs web -n shop --type merge -p '{"spec":{"frontend":{"probe":{"enabled":true}}}}'"#;
        assert_eq!(finding.remedy.unwrap().commands, [expected]);
    }
}
