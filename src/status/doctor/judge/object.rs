//! Examines the object and its conditions.

use kube::ResourceExt as _;

use crate::crd::{ConditionType, Reason};
use crate::status::doctor::facts::Facts;
use crate::status::doctor::finding::{Finding, Mark};
use crate::status::view::{Problem, View};

const AREA: &str = "object";

/// The reasons that a service has while it starts, or because somebody has chosen them.
const HARMLESS: [Reason; 7] = [
    Reason::Generating,
    Reason::Progressing,
    Reason::RollingOut,
    Reason::Stopping,
    Reason::Suspended,
    Reason::ScaledToZero,
    Reason::Waiting,
];

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let Facts { namespace, name, .. } = facts;
    let Some(view) = &facts.view else {
        let found = format!("OnionBalancedService {namespace}/{name} does not exist.");
        return vec![Finding::problem(AREA, found).remedy("look for the right name and namespace: kubectl get obs -A")];
    };
    let mut found = Vec::new();
    if let Some(object) = facts.object()
        && object.metadata.deletion_timestamp.is_some()
    {
        let finalizers = object.finalizers().join(", ");
        let waits = if finalizers.is_empty() { String::new() } else { format!(" It waits for {finalizers}.") };
        found.push(Finding::warning(AREA, format!("The object is being deleted.{waits}")));
    }
    let problems = view.problems();
    if problems.is_empty() {
        found.push(Finding::ok(AREA, format!("All {} conditions are True.", facts.status().conditions.len())));
    }
    found.extend(problems.iter().map(judge));
    found.extend(expiring(view, facts));
    found
}

/// Judges a condition that is not True.
fn judge(problem: &Problem) -> Finding {
    let Problem { kind, status, reason, message, action } = problem;
    let reason_is = |known: &Reason| known.as_str() == reason;
    // A service without a current probe, or whose pods use different guards, still answers.
    let is_harmless = HARMLESS.iter().any(reason_is) || kind == ConditionType::GuardsShared.as_str();
    let is_certain =
        status == "False" || [Reason::PublisherSilent, Reason::Pending, Reason::InvalidSpec].iter().any(reason_is);
    let mark = if is_certain && !is_harmless { Mark::Problem } else { Mark::Warning };
    Finding::new(mark, AREA, format!("{kind} is {status} ({reason}): {message}")).maybe(action.as_deref())
}

/// Returns a warning if the signing kits end soon. The condition is True until they have ended.
fn expiring(view: &View, facts: &Facts) -> Option<Finding> {
    let conditions = &view.status()?.conditions;
    let soon = |reason: &str| reason == Reason::SigningKeysExpiring.as_str();
    let condition = conditions.iter().find(|condition| condition.status == "True" && soon(&condition.reason))?;
    let remedy = crate::status::advice::action(Reason::SigningKeysMissing.as_str(), &facts.namespace, &facts.name);
    Some(Finding::warning(AREA, condition.message.clone()).maybe(remedy.as_deref()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::doctor::judge::tests::{condition, healthy, with_status};

    fn found(conditions: &[(&str, &str, &str)]) -> Vec<(Mark, String)> {
        let conditions: Vec<_> =
            conditions.iter().map(|(kind, status, reason)| condition(kind, status, reason, "Why.")).collect();
        let mut facts = healthy();
        with_status(&mut facts, "conditions", conditions.into());
        examine(&facts).into_iter().map(|finding| (finding.mark, finding.found)).collect()
    }

    #[test]
    fn conditions_that_are_true_are_counted() {
        let all = [("Accepted", "True", "Valid"), ("Ready", "True", "Ready")];
        assert_eq!(found(&all), [(Mark::Ok, "All 2 conditions are True.".to_owned())]);
    }

    #[test]
    fn a_missing_object_is_a_problem() {
        let mut facts = healthy();
        facts.view = None;
        let finding = examine(&facts).remove(0);
        assert_eq!(
            (finding.mark, finding.found.as_str()),
            (Mark::Problem, "OnionBalancedService shop/web does not exist.")
        );
        assert_eq!(finding.remedy.unwrap().commands, ["kubectl get obs -A"]);
    }

    #[test]
    fn each_condition_that_is_not_true_is_judged() {
        for (kind, status, reason, expected) in [
            ("MasterKeyReady", "False", "SecretNotFound", Mark::Problem),
            ("BackendsReady", "False", "Progressing", Mark::Warning),
            ("Published", "False", "Suspended", Mark::Warning),
            ("Published", "Unknown", "PublisherSilent", Mark::Problem),
            ("Reachable", "Unknown", "NotProbed", Mark::Warning),
            ("GuardsShared", "False", "GuardsDiffer", Mark::Warning),
        ] {
            let all = [(kind, status, reason), ("Ready", "False", reason)];
            assert_eq!(found(&all), [(expected, format!("{kind} is {status} ({reason}): Why."))]);
        }
    }

    #[test]
    fn signing_kits_that_end_soon_are_a_warning() {
        let found = found(&[("SigningKeysReady", "True", "SigningKeysExpiring")]);
        assert_eq!(found[1], (Mark::Warning, "Why.".to_owned()));
    }

    #[test]
    fn an_object_that_nobody_has_reconciled_is_a_problem() {
        let mut facts = healthy();
        with_status(&mut facts, "observedGeneration", 1.into());
        assert_eq!(examine(&facts)[0].mark, Mark::Problem);
    }
}
