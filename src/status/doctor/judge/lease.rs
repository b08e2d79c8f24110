//! Examines the publishers' Lease. Without a publisher that renews the Lease, nobody publishes, and
//! the publisher's report in the status is outdated.

use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt as _;

use crate::crd::Reason;
use crate::status::advice;
use crate::status::doctor::facts::Facts;
use crate::status::doctor::finding::Finding;
use crate::status::doctor::metrics::holder;

const AREA: &str = "publisher";
/// The time in seconds without a renewal after which a publisher counts as silent, as in the
/// condition `Published`.
const SILENCE: i64 = 60;

pub(super) fn examine(facts: &Facts) -> Finding {
    let advice = advice::action(Reason::PublisherSilent.as_str(), &facts.namespace, &facts.name);
    let problem = |found: String| Finding::problem(AREA, found).maybe(advice.as_deref());
    let lease = match &facts.lease {
        Ok(Some(lease)) => lease,
        Ok(None) => return problem("No publisher has ever held the Lease.".to_owned()),
        Err(unread) => return Finding::unread(AREA, unread),
    };
    let Some(holder) = holder(lease) else {
        return problem("No publisher holds the Lease.".to_owned());
    };
    let Some((since, longest)) = renewed(lease, facts) else {
        return problem(format!("Pod {holder} holds the Lease, but has never renewed it."));
    };
    if since > longest {
        let has_pod = facts.pods.as_ref().is_ok_and(|pods| pods.iter().any(|pod| pod.name_any() == holder));
        let pod = if has_pod || facts.pods.is_err() { "" } else { " The pod does not exist." };
        return problem(format!("Pod {holder} has not renewed its Lease for {since} s.{pod}"));
    }
    Finding::ok(AREA, format!("Pod {holder} holds the Lease and renewed it {since} s ago."))
}

/// Returns the seconds since the last renewal, and the longest time that is normal.
fn renewed(lease: &Lease, facts: &Facts) -> Option<(i64, i64)> {
    let spec = lease.spec.as_ref()?;
    let longest = SILENCE.max(i64::from(spec.lease_duration_seconds.unwrap_or(0)) * 3);
    Some((facts.seconds_since(spec.renew_time.as_ref()?.0), longest))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::status::doctor::finding::Mark;
    use crate::status::doctor::judge::tests::{forbidden, healthy};

    fn found(holder: &str, renewed: &str) -> (Mark, String) {
        let mut facts = healthy();
        let lease = json!({"spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": renewed}});
        facts.lease = Ok(Some(serde_json::from_value(lease).unwrap()));
        let finding = examine(&facts);
        (finding.mark, finding.found)
    }

    #[test]
    fn a_publisher_that_renews_the_lease_is_good() {
        let (mark, text) = found("web-frontend-a_1", "2026-01-01T11:59:57.000000Z");
        assert_eq!((mark, text.as_str()), (Mark::Ok, "Pod web-frontend-a holds the Lease and renewed it 3 s ago."));
    }

    #[test]
    fn a_silent_publisher_is_a_problem() {
        let (mark, text) = found("web-frontend-a_1", "2026-01-01T11:58:00.000000Z");
        let expected = "Pod web-frontend-a has not renewed its Lease for 120 s.";
        assert_eq!((mark, text.as_str()), (Mark::Problem, expected));
        let (_, text) = found("web-frontend-x_1", "2026-01-01T11:58:00.000000Z");
        assert!(text.ends_with("for 120 s. The pod does not exist."), "{text}");
        let (mark, text) = found("", "2026-01-01T11:59:57.000000Z");
        assert_eq!((mark, text.as_str()), (Mark::Problem, "No publisher holds the Lease."));
    }

    #[test]
    fn a_lease_that_does_not_exist_or_cannot_be_read_is_told_apart() {
        let mut facts = healthy();
        facts.lease = Ok(None);
        assert_eq!(examine(&facts).mark, Mark::Problem);
        facts.lease = Err(forbidden("get"));
        assert_eq!(examine(&facts).mark, Mark::Unchecked);
    }
}
