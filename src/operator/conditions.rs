//! The conditions that a reconciliation determines, and the rules for merging them into the status.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::crd::{ConditionType, Reason};

/// The status of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// The condition is met.
    True,
    /// The condition is not met.
    False,
    /// The operator cannot determine whether the condition is met.
    Unknown,
}

impl Truth {
    fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// The status, reason and message that a reconciliation has determined for one condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The condition's status.
    pub truth: Truth,
    /// The machine-readable reason for the condition's status.
    pub reason: Reason,
    /// The explanation for humans, including the next step if there is one.
    pub message: String,
}

impl Finding {
    /// Creates a finding that says that the condition is met.
    pub fn yes(reason: Reason, message: impl Into<String>) -> Self {
        Self { truth: Truth::True, reason, message: message.into() }
    }

    /// Creates a finding that says that the condition is not met.
    pub fn no(reason: Reason, message: impl Into<String>) -> Self {
        Self { truth: Truth::False, reason, message: message.into() }
    }

    /// Creates a finding that says that the operator cannot determine whether the condition is met.
    pub fn unknown(reason: Reason, message: impl Into<String>) -> Self {
        Self { truth: Truth::Unknown, reason, message: message.into() }
    }

    /// Returns true if the condition is met.
    pub fn holds(&self) -> bool {
        self.truth == Truth::True
    }
}

/// The maximum length of a condition message, in characters. The schema allows more, but a message
/// can quote an admission webhook, whose response can have any length.
const MAX_MESSAGE: usize = 4096;

/// The maximum length of one item in a list, in characters.
const MAX_ITEM: usize = 1000;

/// Joins the items of a list that are to be part of a condition message. If the list has more than
/// about `limit` characters, it ends with the number of the remaining items.
pub fn listed(items: &[String], separator: &str, limit: usize) -> String {
    let (mut text, mut length) = (String::new(), 0);
    for (index, item) in items.iter().enumerate() {
        let item = shortened(item, MAX_ITEM.min(limit));
        length += item.chars().count() + separator.chars().count();
        if index > 0 {
            text.push_str(separator);
            if length > limit {
                return format!("{text}… and {} more", items.len() - index);
            }
        }
        text.push_str(&item);
    }
    text
}

/// Returns the beginning of a text that has more than `limit` characters, or the whole text.
fn shortened(text: &str, limit: usize) -> String {
    if text.chars().nth(limit).is_none() {
        return text.to_owned();
    }
    text.chars().take(limit.saturating_sub(1)).chain(['…']).collect()
}

/// Merges findings into the previous conditions. Conditions without a finding are dropped. A
/// transition time changes only when the condition's status changes. The schema's default
/// conditions, whose transition time is in 1970, are not treated as previous conditions.
pub fn merge(
    previous: &[Condition],
    found: &[(ConditionType, Finding)],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let merged = found.iter().map(|(kind, finding)| {
        let before = previous.iter().find(|condition| condition.type_ == kind.as_str());
        let before = before.filter(|before| before.last_transition_time.0 != Timestamp::UNIX_EPOCH);
        let unchanged = before.filter(|before| before.status == finding.truth.as_str());
        Condition {
            type_: kind.as_str().to_owned(),
            status: finding.truth.as_str().to_owned(),
            reason: finding.reason.as_str().to_owned(),
            message: shortened(&finding.message, MAX_MESSAGE),
            observed_generation: generation,
            last_transition_time: unchanged.map_or(Time(now), |before| before.last_transition_time.clone()),
        }
    });
    merged.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_transition_time_changes_only_with_the_status() {
        let accepted = ConditionType::Accepted;
        let first = merge(&[], &[(accepted, Finding::no(Reason::InvalidSpec, "a"))], Some(1), at(10));
        let other_reason = merge(&first, &[(accepted, Finding::no(Reason::InvalidName, "b"))], Some(2), at(20));
        assert_eq!(other_reason[0].last_transition_time, Time(at(10)));
        assert_eq!((other_reason[0].reason.as_str(), other_reason[0].observed_generation), ("InvalidName", Some(2)));
        let other_status = merge(&other_reason, &[(accepted, Finding::yes(Reason::Valid, ""))], Some(2), at(30));
        assert_eq!(other_status[0].last_transition_time, Time(at(30)));
    }

    #[test]
    fn the_default_of_the_schema_is_not_a_transition() {
        let ready = ConditionType::Ready;
        let default = merge(&[], &[(ready, Finding::unknown(Reason::Pending, ""))], None, at(0));
        let first = merge(&default, &[(ready, Finding::unknown(Reason::Generating, ""))], Some(1), at(10));
        assert_eq!(first[0].last_transition_time, Time(at(10)));
    }

    #[test]
    fn a_condition_without_a_finding_is_removed() {
        let first = merge(&[], &[(ConditionType::Accepted, Finding::yes(Reason::Valid, ""))], None, at(1));
        let second = merge(&first, &[(ConditionType::Ready, Finding::yes(Reason::Ready, ""))], None, at(2));
        assert_eq!(second.iter().map(|condition| condition.type_.as_str()).collect::<Vec<_>>(), ["Ready"]);
    }

    #[test]
    fn a_long_list_ends_with_the_number_of_the_remaining_items() {
        let items = |lengths: &[usize]| lengths.iter().map(|length| "ä".repeat(*length)).collect::<Vec<_>>();
        assert_eq!(listed(&[], "; ", 10), "");
        assert_eq!(listed(&items(&[1, 2, 1]), "; ", 10), "ä; ää; ä");
        assert_eq!(listed(&items(&[1, 2, 1, 1, 1]), "; ", 10), "ä; ää; ä; … and 2 more");
        assert_eq!(listed(&items(&[30, 1]), "; ", 10), "äääääääää…; … and 1 more");
        let long = listed(&items(&[5000; 3]), "; ", 3000);
        assert!(long.ends_with("ä…; … and 1 more") && long.chars().count() < 2100, "{long}");
    }

    #[test]
    fn a_long_message_is_truncated() {
        let found = [(ConditionType::Accepted, Finding::no(Reason::InvalidSpec, "ä".repeat(10_000)))];
        let merged = merge(&[], &found, None, at(1));
        let message = &merged[0].message;
        assert_eq!(message.chars().count(), MAX_MESSAGE);
        assert!(message.ends_with("ä…"));
    }
}
