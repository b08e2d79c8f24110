//! The finding about the signing kits of a delegated service: how long they last.

use std::time::SystemTime;

use jiff::Timestamp;

use super::Observed;
use crate::crd::Reason;
use crate::onion::kit::{Coverage, CoverageState};
use crate::operator::conditions::Finding;

/// What to do before the kits end.
const REMEDY: &str = "create the next kit on the machine with the master key (kubectl onionbalance key delegate), and \
     apply it";

/// Returns the finding about the signing kits. Returns None for a service that is not delegated,
/// and if its Secret holds no usable kit, which the condition `MasterKeyReady` reports.
pub(super) fn finding(observed: &Observed, now: Timestamp) -> Option<Finding> {
    let secret = observed.key_secret.as_ref().filter(|_| observed.object.spec.master_key.delegated)?;
    Some(describe(&Coverage::of(secret.kits().ok()?, SystemTime::from(now))))
}

fn describe(coverage: &Coverage) -> Finding {
    let until = coverage.until.and_then(|until| Timestamp::try_from(until).ok());
    let end = until.map_or_else(|| "have ended".to_owned(), |until| format!("end at {until:.0}"));
    let days = match coverage.days_left {
        1 => "1 day is left".to_owned(),
        days => format!("{days} days are left"),
    };
    match coverage.state {
        CoverageState::Enough => Finding::yes(Reason::KitsLoaded, format!("The signing kits {end}; {days}.")),
        CoverageState::Expiring => {
            Finding::yes(Reason::SigningKeysExpiring, format!("The signing kits {end}; {days}: {REMEDY}."))
        }
        CoverageState::Missing => Finding::no(
            Reason::SigningKeysMissing,
            format!(
                "No signing kit covers {} of the 2 time periods that must be published now; the kits {end}: {REMEDY}.",
                coverage.missing
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::operator::conditions::Truth;

    fn described(until: Option<u64>, missing: usize, days_left: u64, state: CoverageState) -> (Truth, Reason, String) {
        let until = until.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let Finding { truth, reason, message } = describe(&Coverage { until, missing, days_left, state });
        (truth, reason, message)
    }

    #[test]
    fn the_message_names_the_end_and_the_days_left() {
        let (truth, reason, message) = described(Some(1_796_126_400), 0, 20, CoverageState::Enough);
        assert_eq!((truth, reason), (Truth::True, Reason::KitsLoaded));
        assert_eq!(message, "The signing kits end at 2026-12-01T12:00:00Z; 20 days are left.");
        let (truth, reason, message) = described(Some(1_796_126_400), 0, 1, CoverageState::Expiring);
        assert_eq!((truth, reason), (Truth::True, Reason::SigningKeysExpiring));
        assert!(message.contains("1 day is left: create the next kit"), "{message}");
        let (truth, reason, message) = described(None, 2, 0, CoverageState::Missing);
        assert_eq!((truth, reason), (Truth::False, Reason::SigningKeysMissing));
        assert!(message.starts_with("No signing kit covers 2 of the 2 time periods"), "{message}");
        assert!(message.contains("the kits have ended: "), "{message}");
    }
}
