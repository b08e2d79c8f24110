//! Examines the descriptors on the HSDirs, as the publisher reports them.

use crate::crd::{PublishedStatus, Reason};
use crate::status::advice;
use crate::status::doctor::facts::Facts;
use crate::status::doctor::finding::Finding;

const AREA: &str = "HSDirs";
/// The time in seconds after which an HSDir drops a descriptor.
const LIFETIME: i64 = 3 * 3600;
/// The longest time in seconds between two descriptors of one time period.
const REPUBLISH: i64 = 2 * 3600;
/// The time in seconds in which the uploads of a descriptor normally end.
const UPLOADS: i64 = 120;

/// Examines each time period by itself: clients with different clocks ask for different ones.
pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let periods = facts.status().published;
    if periods.is_empty() {
        let advice = advice::action(Reason::NotPublished.as_str(), &facts.namespace, &facts.name);
        return vec![Finding::problem(AREA, "No descriptor has been published.").maybe(advice.as_deref())];
    }
    periods.iter().map(|period| of_period(facts, period)).chain(failing(facts)).collect()
}

/// Returns a warning about HSDirs to which the uploads of the leading publisher fail.
fn failing(facts: &Facts) -> Option<Finding> {
    const FAILING: &str = "onionbalance_publisher_hsdirs_failing";
    let metrics = facts.metrics.values().filter_map(|read| read.as_ref().ok());
    let (number, seconds) = metrics
        .filter_map(|metrics| {
            Some((*metrics.get(FAILING)?, *metrics.get("onionbalance_publisher_hsdirs_failing_seconds")?))
        })
        .find(|(number, _)| *number > 0.0)?;
    let advice = advice::action(Reason::NotPublished.as_str(), &facts.namespace, &facts.name);
    let text = format!("The uploads to {number} HSDirs fail, to one of them for {:.0} min.", seconds / 60.0);
    Some(Finding::warning(AREA, text).maybe(advice.as_deref()))
}

fn of_period(facts: &Facts, period: &PublishedStatus) -> Finding {
    let PublishedStatus { time_period, hsdirs_accepted: accepted, hsdirs_total: total, .. } = period;
    let age = facts.seconds_since(period.last_published.0);
    let minutes = age / 60;
    let advice = |reason: Reason| advice::action(reason.as_str(), &facts.namespace, &facts.name);
    let text = format!("Period {time_period}: {accepted} of {total} HSDirs have the descriptor of {minutes} min ago");
    if age > LIFETIME {
        let text = format!("{text}. It has expired.");
        return Finding::problem(AREA, text).maybe(advice(Reason::Expired).as_deref());
    }
    if *accepted == 0 {
        let finding = if age > UPLOADS { Finding::problem } else { Finding::warning };
        return finding(AREA, format!("{text}.")).maybe(advice(Reason::NotOnHSDirs).as_deref());
    }
    if accepted < total && age > UPLOADS {
        let text = format!("{text}. The others are silent or refuse it; clients ask several HSDirs.");
        return Finding::warning(AREA, text).maybe(advice(Reason::NotPublished).as_deref());
    }
    if age > REPUBLISH {
        let text = format!("{text}. The next one is overdue.");
        return Finding::warning(AREA, text).maybe(advice(Reason::Expired).as_deref());
    }
    Finding::ok(AREA, format!("{text}."))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::status::doctor::finding::Mark;
    use crate::status::doctor::judge::tests::{healthy, with_status};

    fn found(accepted: u32, published: &str) -> (Mark, String) {
        let mut facts = healthy();
        let period = json!({
            "timePeriod": 20_454, "revisionCounter": 1, "introductionPoints": 6, "hsdirsAccepted": accepted,
            "hsdirsTotal": 8, "lastPublished": published,
        });
        with_status(&mut facts, "published", json!([period]));
        let finding = examine(&facts).remove(0);
        (finding.mark, finding.found)
    }

    #[test]
    fn a_descriptor_on_all_hsdirs_is_good() {
        let expected = "Period 20454: 8 of 8 HSDirs have the descriptor of 60 min ago.";
        assert_eq!(found(8, "2026-01-01T11:00:00Z"), (Mark::Ok, expected.to_owned()));
        assert_eq!(found(5, "2026-01-01T11:59:30Z").0, Mark::Ok, "the uploads may not have ended");
    }

    #[test]
    fn silent_hsdirs_are_a_warning_unless_all_are_silent() {
        let (mark, text) = found(7, "2026-01-01T11:30:00Z");
        assert!(mark == Mark::Warning && text.contains("7 of 8") && text.contains("silent"), "{text}");
        assert_eq!(found(0, "2026-01-01T11:30:00Z").0, Mark::Problem);
        assert_eq!(found(0, "2026-01-01T11:59:30Z").0, Mark::Warning);
    }

    #[test]
    fn an_old_descriptor_is_a_warning_until_the_hsdirs_drop_it() {
        let (mark, text) = found(8, "2026-01-01T09:30:00Z");
        assert!(mark == Mark::Warning && text.ends_with("150 min ago. The next one is overdue."), "{text}");
        let (mark, text) = found(8, "2026-01-01T08:30:00Z");
        assert!(mark == Mark::Problem && text.ends_with("It has expired."), "{text}");
    }

    #[test]
    fn a_service_that_was_never_published_is_a_problem() {
        let mut facts = healthy();
        with_status(&mut facts, "published", json!([]));
        assert_eq!(examine(&facts)[0].mark, Mark::Problem);
    }

    #[test]
    fn hsdirs_that_refuse_uploads_are_a_warning() {
        let mut facts = healthy();
        let failing = [("failing", 2.0), ("failing_seconds", 600.0)];
        let failing = failing.map(|(name, value)| (format!("onionbalance_publisher_hsdirs_{name}"), value));
        facts.metrics = [("web-frontend-a".to_owned(), Ok(failing.into()))].into();
        let finding = examine(&facts).pop().unwrap();
        let expected = "The uploads to 2 HSDirs fail, to one of them for 10 min.";
        assert_eq!((finding.mark, finding.found.as_str()), (Mark::Warning, expected));
    }
}
