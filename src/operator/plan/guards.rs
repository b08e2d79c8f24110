//! The finding about the entry guards that all pods share, which the publisher reports in the
//! status.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt as _;

use super::published::silence;
use crate::crd::{
    GuardMode, GuardsProblem, GuardsProblemKind, OnionBalancedService, OnionBalancedServiceStatus, Reason,
    ServerLocation, names,
};
use crate::operator::conditions::Finding;

/// Returns the finding about the shared guards, or None if the pods share none or no publisher has
/// reported on them yet. `Ready` does not depend on the finding, because a pod without shared
/// guards works as a stock tor does.
pub(super) fn finding(
    object: &OnionBalancedService,
    status: &OnionBalancedServiceStatus,
    lease: Option<&Lease>,
    now: Timestamp,
) -> Option<Finding> {
    let anonymity = &object.spec.anonymity;
    let uses_guards = anonymity.guards == GuardMode::Shared && anonymity.server_location == ServerLocation::Hidden;
    if !uses_guards || object.spec.suspend {
        return None;
    }
    let guards = status.guards.as_ref()?;
    if let Some(message) = silence(lease, now) {
        return Some(Finding::unknown(Reason::GuardsUnknown, message));
    }
    let secret = names::guards_secret(&object.name_any());
    if let Some(GuardsProblem { kind, message, noticed }) = &guards.problem {
        let noticed = noticed.0;
        return Some(match kind {
            GuardsProblemKind::Replaced => Finding::no(
                Reason::GuardsReplaced,
                format!(
                    "The publisher replaced the content of Secret {secret} at {noticed:.0}: {message}. Pods that started \
                     shortly before may have chosen their own guards."
                ),
            ),
            GuardsProblemKind::NotKept => Finding::no(
                Reason::GuardsNotKept,
                format!(
                    "The publisher cannot keep the guards in Secret {secret} (noticed at {noticed:.0}): {message}."
                ),
            ),
        });
    }
    let (shared, unlisted) = (guards.shared, guards.unlisted);
    if unlisted > shared / 2 {
        let message = format!("{unlisted} of {shared} shared guards are not in the Tor consensus.");
        return Some(Finding::no(Reason::GuardsUnlisted, message));
    }
    Some(match guards.in_use {
        0 => Finding::unknown(Reason::GuardsUnknown, "No pod has reported its guards yet."),
        1 => {
            Finding::yes(Reason::GuardsAgree, format!("All pods use the same guard first; {shared} guards are shared."))
        }
        some if some <= object.spec.anonymity.guards_in_use.into() => {
            let message = format!("The pods spread over {some} guards, as intended; {shared} guards are shared.");
            Finding::yes(Reason::GuardsAgree, message)
        }
        different => {
            let message = format!("The pods use {different} different guards first; {shared} guards are shared.");
            Finding::no(Reason::GuardsDiffer, message)
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::operator::plan::tests::support::{concluded, condition, healthy, with};

    /// Returns the conditions `GuardsShared` and `Ready` of a healthy service with these guards.
    fn found(guards: &Value) -> (String, String) {
        let mut observed = healthy();
        observed.object = with(&observed.object, "status/guards", guards.clone());
        let (_, status) = concluded(&observed);
        (condition(&status, "GuardsShared"), condition(&status, "Ready"))
    }

    fn guards(shared: u32, unlisted: u32, in_use: u32) -> Value {
        json!({"shared": shared, "unlisted": unlisted, "inUse": in_use})
    }

    fn problem(kind: &str) -> Value {
        let mut guards = guards(20, 0, 1);
        guards["problem"] = json!({"kind": kind, "message": "why", "noticed": "2025-12-31T23:30:00Z"});
        guards
    }

    #[test]
    fn each_problem_has_its_own_reason_and_the_service_stays_ready() {
        for (seen, expected) in [
            (guards(20, 0, 1), "True GuardsAgree: All pods use the same guard first; 20 guards are shared."),
            (guards(20, 0, 2), "False GuardsDiffer: The pods use 2 different guards first; 20 guards are shared."),
            (guards(20, 11, 1), "False GuardsUnlisted: 11 of 20 shared guards are not in the Tor consensus."),
            (guards(20, 10, 0), "Unknown GuardsUnknown: No pod has reported its guards yet."),
            (
                problem("Replaced"),
                "False GuardsReplaced: The publisher replaced the content of Secret web-guards at \
                 2025-12-31T23:30:00Z: why. Pods that started shortly before may have chosen their own guards.",
            ),
            (
                problem("NotKept"),
                "False GuardsNotKept: The publisher cannot keep the guards in Secret web-guards (noticed at \
                 2025-12-31T23:30:00Z): why.",
            ),
        ] {
            let (shared, ready) = found(&seen);
            assert_eq!((shared.as_str(), ready.as_str()), (expected, "True Ready: The service is reachable."));
        }
    }

    #[test]
    fn pods_that_spread_over_guards_as_intended_agree() {
        for (wanted, in_use, expected) in [
            (3, 3, "True GuardsAgree: The pods spread over 3 guards, as intended; 20 guards are shared."),
            (3, 4, "False GuardsDiffer: The pods use 4 different guards first; 20 guards are shared."),
            (2, 3, "False GuardsDiffer: The pods use 3 different guards first; 20 guards are shared."),
        ] {
            let mut observed = healthy();
            observed.object = with(&observed.object, "status/guards", guards(20, 0, in_use));
            observed.object = with(&observed.object, "spec/anonymity/guardsInUse", json!(wanted));
            let (_, status) = concluded(&observed);
            assert_eq!(condition(&status, "GuardsShared"), expected);
        }
    }

    #[test]
    fn the_report_of_a_silent_publisher_does_not_count() {
        let mut observed = healthy();
        observed.object = with(&observed.object, "status/guards", guards(20, 0, 2));
        observed.lease = None;
        let (_, status) = concluded(&observed);
        let expected = "Unknown GuardsUnknown: No publisher holds the Lease; check the frontend pods.";
        assert_eq!(condition(&status, "GuardsShared"), expected);
    }

    #[test]
    fn pods_that_share_no_guards_have_no_condition() {
        for (path, value) in [
            ("spec/anonymity/guards", json!("PerPod")),
            ("spec/anonymity/serverLocation", json!("Exposed")),
            ("spec/suspend", json!(true)),
        ] {
            let mut observed = healthy();
            observed.object = with(&observed.object, "status/guards", guards(20, 0, 2));
            observed.object = with(&observed.object, path, value);
            let (_, status) = concluded(&observed);
            assert!(!status.conditions.iter().any(|condition| condition.type_ == "GuardsShared"), "{path}");
        }
    }
}
