//! Conditions: what we find, and how it is merged into what stands in the status.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The types, in the order in which one depends on the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Name and spec can be used.
    Accepted,
    /// The master key is there and is ours to use.
    MasterKeyReady,
    /// The clients of a service with restricted discovery are known, and all of them may connect.
    ClientsReady,
    /// All backends are Ready, and their targets are known.
    BackendsReady,
    /// A descriptor is on the HSDirs, and a publisher keeps it there.
    Published,
    /// All of these.
    Ready,
    /// Waiting does not help. There only while it is so, as kstatus has it.
    Stalled,
}

impl Type {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::MasterKeyReady => "MasterKeyReady",
            Self::ClientsReady => "ClientsReady",
            Self::BackendsReady => "BackendsReady",
            Self::Published => "Published",
            Self::Ready => "Ready",
            Self::Stalled => "Stalled",
        }
    }
}

/// A condition's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It is so.
    True,
    /// It is not so.
    False,
    /// We cannot say.
    Unknown,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// What we find of one condition: its status, a stable reason, and a message for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether.
    pub status: Status,
    /// Why, for programs: never renamed.
    pub reason: &'static str,
    /// Why, and what to do.
    pub message: String,
}

impl Verdict {
    /// It is so.
    pub fn yes(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: Status::True, reason, message: message.into() }
    }

    /// It is not so.
    pub fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: Status::False, reason, message: message.into() }
    }

    /// We cannot say.
    pub fn unknown(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: Status::Unknown, reason, message: message.into() }
    }

    /// Whether it is so.
    pub fn holds(&self) -> bool {
        self.status == Status::True
    }
}

/// The longest message that the schema takes, less room to spare: an admission webhook's words can be of any length.
const MAX_MESSAGE: usize = 4096;

/// The conditions as they should be: exactly the found ones. The transition time moves only when the status does; the schema's
/// default, of the year 1970, was never found.
pub fn merge(
    previous: &[Condition],
    found: &[(Type, Verdict)],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let merged = found.iter().map(|(kind, verdict)| {
        let before = previous.iter().find(|condition| condition.type_ == kind.as_str());
        let before = before.filter(|before| before.last_transition_time.0 != Timestamp::UNIX_EPOCH);
        let unmoved = before.filter(|before| before.status == verdict.status.as_str());
        Condition {
            type_: kind.as_str().to_owned(),
            status: verdict.status.as_str().to_owned(),
            reason: verdict.reason.to_owned(),
            message: verdict.message.chars().take(MAX_MESSAGE).collect(),
            observed_generation: generation,
            last_transition_time: unmoved.map_or(Time(now), |before| before.last_transition_time.clone()),
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
    fn the_transition_time_moves_only_with_the_status() {
        let first = merge(&[], &[(Type::Accepted, Verdict::no("InvalidSpec", "a"))], Some(1), at(10));
        let other_reason = merge(&first, &[(Type::Accepted, Verdict::no("InvalidName", "b"))], Some(2), at(20));
        assert_eq!(other_reason[0].last_transition_time, Time(at(10)));
        assert_eq!((other_reason[0].reason.as_str(), other_reason[0].observed_generation), ("InvalidName", Some(2)));
        let other_status = merge(&other_reason, &[(Type::Accepted, Verdict::yes("Valid", ""))], Some(2), at(30));
        assert_eq!(other_status[0].last_transition_time, Time(at(30)));
    }

    #[test]
    fn the_schemas_default_was_never_a_transition() {
        let default = merge(&[], &[(Type::Ready, Verdict::unknown("Pending", ""))], None, at(0));
        let first = merge(&default, &[(Type::Ready, Verdict::unknown("Generating", ""))], Some(1), at(10));
        assert_eq!(first[0].last_transition_time, Time(at(10)));
    }

    #[test]
    fn what_is_no_longer_found_goes() {
        let first = merge(&[], &[(Type::Accepted, Verdict::yes("Valid", ""))], None, at(1));
        let second = merge(&first, &[(Type::Ready, Verdict::yes("Ready", ""))], None, at(2));
        assert_eq!(second.iter().map(|condition| condition.type_.as_str()).collect::<Vec<_>>(), ["Ready"]);
    }

    #[test]
    fn an_endless_message_is_cut() {
        let found = [(Type::Accepted, Verdict::no("InvalidSpec", "ä".repeat(10_000)))];
        assert_eq!(merge(&[], &found, None, at(1))[0].message.chars().count(), MAX_MESSAGE);
    }
}
