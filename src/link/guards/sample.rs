//! Reads and writes the `Guard` lines of tor's state file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use data_encoding::{HEXUPPER, HEXUPPER_PERMISSIVE};
use jiff::Timestamp;

/// The keyword of a guard's line in tor's state file.
const KEYWORD: &str = "Guard";
/// The guard selection of a tor that uses neither bridges nor a very restricted set of entry nodes.
const SELECTION: &str = "default";
/// The maximum length in bytes of a text that is read. A state file has a few other lines.
const MAX_BYTES: usize = 64 * 1024;
/// The maximum number of guards in a sample. Tor's own limit is 60 (guard-spec, `MAX_SAMPLE_SIZE`).
const MAX_GUARDS: usize = 60;
/// The maximum length of a relay's nickname (dir-spec, section 2.1.3).
const MAX_NICKNAME: usize = 19;
/// The maximum length of the version of the tor that sampled a guard.
const MAX_VERSION: usize = 64;
/// The form of a time in tor's state file, which is in UTC.
const TIME_FORM: &str = "%Y-%m-%dT%H:%M:%S";

/// A relay in a sample of entry guards. Times are in seconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// The relay's RSA identity digest.
    pub identity: [u8; 20],
    /// The relay's nickname. Tor uses the nickname only in messages.
    pub nickname: String,
    /// The time at which tor sampled the guard. Tor shifts this time by a random amount.
    pub sampled_on: u64,
    /// The version of the tor that sampled the guard.
    pub sampled_by: String,
    /// The time since which the guard has not been in the consensus. It is None for a listed guard.
    pub unlisted_since: Option<u64>,
    /// The time at which tor first used the guard, or None if tor has not used the guard yet.
    pub confirmed_on: Option<u64>,
}

impl Guard {
    /// Returns true if the guard is in the consensus.
    pub fn is_listed(&self) -> bool {
        self.unlisted_since.is_none()
    }
}

/// A sample of entry guards in the order of tor's preference. No guard occurs twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuardSample(Vec<Guard>);

/// An error that explains why a text has no usable sample of guards. No message quotes the text,
/// because a log must not name a service's guards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    /// The text is too long.
    #[error("the text with the guards has more than {} bytes", MAX_BYTES)]
    TooLong,
    /// There are too many guards.
    #[error("there are more than {} guards", MAX_GUARDS)]
    TooMany,
    /// Two lines name the same relay.
    #[error("a guard is listed twice")]
    Duplicate,
    /// A line lacks a field, or the value of the field is not what tor writes.
    #[error("the field {0} of a guard is missing or not in the form that tor writes")]
    Field(&'static str),
}

impl GuardSample {
    /// Creates a sample from guards in their order. Returns an error if a guard occurs twice or
    /// there are too many guards.
    pub fn new(guards: Vec<Guard>) -> Result<Self, GuardError> {
        if guards.len() > MAX_GUARDS {
            return Err(GuardError::TooMany);
        }
        let distinct: BTreeSet<_> = guards.iter().map(|guard| guard.identity).collect();
        if distinct.len() == guards.len() { Ok(Self(guards)) } else { Err(GuardError::Duplicate) }
    }

    /// Reads the guards of the default selection from a state file or a part of it. Other lines,
    /// other selections and unknown fields are ignored, because tor writes them too. An empty
    /// result is not an error.
    pub fn parse(text: &str) -> Result<Self, GuardError> {
        if text.len() > MAX_BYTES {
            return Err(GuardError::TooLong);
        }
        let mut guards = Vec::new();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            if words.next() != Some(KEYWORD) {
                continue;
            }
            guards.extend(parse_guard(words)?);
            if guards.len() > MAX_GUARDS {
                return Err(GuardError::TooMany);
            }
        }
        // The sort is stable. A tor that is too old to number its guards writes them in their
        // order.
        guards.sort_by_key(|(index, _)| *index);
        Self::new(guards.into_iter().map(|(_, guard)| guard).collect())
    }

    /// Reads tor's answer to `GETINFO entry-guards`, which lists the guards of a sample in their
    /// order (control-spec). The answer has no dates; the guards get the given one.
    pub fn parse_entry_guards(text: &str, sampled_on: u64) -> Result<Self, GuardError> {
        if text.len() > MAX_BYTES {
            return Err(GuardError::TooLong);
        }
        let names = text.lines().filter_map(|line| line.split_ascii_whitespace().next());
        let guards = names.map(|name| {
            let name = name.strip_prefix('$').unwrap_or(name);
            let (digits, nickname) = name.split_at_checked(2 * 20).ok_or(GuardError::Field("rsa_id"))?;
            let nickname = nickname.strip_prefix(['~', '=']).unwrap_or(nickname);
            if nickname.len() > MAX_NICKNAME || !nickname.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return Err(GuardError::Field("nickname"));
            }
            Ok(Guard {
                identity: parse_identity(digits)?,
                nickname: nickname.to_owned(),
                sampled_on,
                sampled_by: String::new(),
                unlisted_since: None,
                confirmed_on: None,
            })
        });
        Self::new(guards.collect::<Result<_, _>>()?)
    }

    /// Returns the guards in their order.
    pub fn guards(&self) -> &[Guard] {
        &self.0
    }

    /// Returns true if the sample has no guard.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for GuardSample {
    /// Writes the lines of a state file. Tor prefers confirmed guards in the order of the sample,
    /// so the confirmed guards are numbered in this order.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut confirmed = 0;
        for (index, guard) in self.0.iter().enumerate() {
            let identity = HEXUPPER.encode(&guard.identity);
            write!(f, "{KEYWORD} in={SELECTION} rsa_id={identity}")?;
            if !guard.nickname.is_empty() {
                write!(f, " nickname={}", guard.nickname)?;
            }
            write!(f, " sampled_on={} sampled_idx={index}", format_time(guard.sampled_on))?;
            if !guard.sampled_by.is_empty() {
                write!(f, " sampled_by={}", guard.sampled_by)?;
            }
            if let Some(time) = guard.unlisted_since {
                write!(f, " unlisted_since={}", format_time(time))?;
            }
            write!(f, " listed={}", u8::from(guard.is_listed()))?;
            if let Some(time) = guard.confirmed_on {
                write!(f, " confirmed_on={} confirmed_idx={confirmed}", format_time(time))?;
                confirmed += 1;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Reads the fields of one guard. Returns None for a guard of another selection, and otherwise the
/// guard with its place in the sample.
fn parse_guard<'a>(words: impl Iterator<Item = &'a str>) -> Result<Option<(u32, Guard)>, GuardError> {
    let mut fields = BTreeMap::new();
    for word in words {
        let (name, value) = word.split_once('=').ok_or(GuardError::Field("name"))?;
        // Which of two values a tor would use depends on the tor.
        if fields.insert(name, value).is_some() {
            return Err(GuardError::Field("name"));
        }
    }
    if fields.get("in") != Some(&SELECTION) {
        return Ok(None);
    }
    let time =
        |name: &'static str| fields.get(name).map(|text| parse_time(text).ok_or(GuardError::Field(name))).transpose();
    let word = |name: &'static str, longest: usize, is_valid: fn(u8) -> bool| {
        let text = fields.get(name).copied().unwrap_or_default();
        if text.len() > longest || !text.bytes().all(is_valid) {
            return Err(GuardError::Field(name));
        }
        Ok(text.to_owned())
    };
    let index = match fields.get("sampled_idx") {
        None => u32::MAX,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().map_err(|_| GuardError::Field("sampled_idx"))?
        }
        Some(_) => return Err(GuardError::Field("sampled_idx")),
    };
    let sampled_on = time("sampled_on")?.ok_or(GuardError::Field("sampled_on"))?;
    let is_listed = match fields.get("listed").copied() {
        Some("1") => true,
        Some("0") => false,
        _ => return Err(GuardError::Field("listed")),
    };
    // Tor sets this time when the guard leaves the consensus. The time of the sampling is the
    // earliest possible one.
    let unlisted_since = time("unlisted_since")?.unwrap_or(sampled_on);
    let guard = Guard {
        identity: parse_identity(fields.get("rsa_id").copied().unwrap_or_default())?,
        nickname: word("nickname", MAX_NICKNAME, |byte| byte.is_ascii_alphanumeric())?,
        sampled_on,
        sampled_by: word("sampled_by", MAX_VERSION, |byte| byte.is_ascii_alphanumeric() || b".-+_".contains(&byte))?,
        unlisted_since: (!is_listed).then_some(unlisted_since),
        confirmed_on: time("confirmed_on")?,
    };
    Ok(Some((index, guard)))
}

fn parse_identity(digits: &str) -> Result<[u8; 20], GuardError> {
    let mut identity = [0; 20];
    if digits.len() != 2 * identity.len() {
        return Err(GuardError::Field("rsa_id"));
    }
    HEXUPPER_PERMISSIVE.decode_mut(digits.as_bytes(), &mut identity).map_err(|_| GuardError::Field("rsa_id"))?;
    Ok(identity)
}

/// Parses a time in exactly the form that [`format_time`] returns.
fn parse_time(text: &str) -> Option<u64> {
    let time: Timestamp = format!("{text}Z").parse().ok()?;
    let seconds = u64::try_from(time.as_second()).ok()?;
    (format_time(seconds) == text).then_some(seconds)
}

fn format_time(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.unwrap_or(Timestamp::MAX).strftime(TIME_FORM).to_string()
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    /// A time in the year 9999, the latest year that a state file can contain.
    const LATEST: u64 = 253_402_000_000;

    /// Lines of a state file as tor 0.4.9 writes them.
    const STATE: &str = "\
# Tor state file last generated on 2026-11-28 10:00:00 local time
Guard in=default rsa_id=0101010101010101010101010101010101010101 nickname=one sampled_on=2026-11-20T10:00:00 \
sampled_idx=0 sampled_by=0.4.9.11 listed=1 confirmed_on=2026-11-21T11:00:00 confirmed_idx=0 pb_use_attempts=2.000000
Guard in=bridges bridge_addr=192.0.2.1:443 sampled_on=x
Guard in=default rsa_id=0303030303030303030303030303030303030303 nickname=three sampled_on=2026-11-19T10:00:00 \
sampled_idx=2 sampled_by=0.4.9.11 unlisted_since=2026-11-27T09:00:00 listed=0
Guard in=default rsa_id=0202020202020202020202020202020202020202 nickname=two sampled_on=2026-11-18T10:00:00 \
sampled_idx=1 sampled_by=0.4.9.11 listed=1 newer=1
TorVersion Tor 0.4.9.11
";

    /// Returns a listed guard that was sampled at a time and is not confirmed.
    pub(in crate::link::guards) fn guard(number: u8, sampled_on: u64) -> Guard {
        Guard {
            identity: [number; 20],
            nickname: format!("n{number}"),
            sampled_on,
            sampled_by: "0.4.9.11".to_owned(),
            unlisted_since: None,
            confirmed_on: None,
        }
    }

    /// Generates guards with the numbers 0 to 19, so that two samples have some guards in common.
    pub(in crate::link::guards) fn any_guard(latest: u64) -> impl Strategy<Value = Guard> {
        let times = (0..=latest, option::of(0..=latest), option::of(0..=latest));
        (0..20_u8, "[A-Za-z0-9]{0,19}", times, "[0-9a-z.+_-]{0,12}").prop_map(
            |(number, nickname, (sampled_on, unlisted_since, confirmed_on), sampled_by)| Guard {
                identity: [number; 20],
                nickname,
                sampled_on,
                sampled_by,
                unlisted_since,
                confirmed_on,
            },
        )
    }

    /// Generates samples of distinct guards.
    pub(in crate::link::guards) fn any_sample(latest: u64) -> impl Strategy<Value = GuardSample> {
        vec(any_guard(latest), 0..25).prop_map(|mut guards| {
            let mut seen = BTreeSet::new();
            guards.retain(|guard| seen.insert(guard.identity));
            GuardSample::new(guards).unwrap()
        })
    }

    #[test]
    fn the_guards_of_a_state_file_are_read_in_the_order_of_the_sample() {
        let sample = GuardSample::parse(STATE).unwrap();
        let numbers: Vec<_> = sample.guards().iter().map(|guard| guard.identity[0]).collect();
        assert_eq!(numbers, [1, 2, 3]);
        let [one, two, three] = sample.guards() else { panic!("{sample:?}") };
        assert_eq!((one.nickname.as_str(), one.sampled_by.as_str()), ("one", "0.4.9.11"));
        assert_eq!(one.confirmed_on.map(format_time).as_deref(), Some("2026-11-21T11:00:00"));
        assert!(two.is_listed() && two.confirmed_on.is_none());
        assert_eq!(three.unlisted_since.map(format_time).as_deref(), Some("2026-11-27T09:00:00"));
    }

    #[test]
    fn a_sample_is_written_as_tor_writes_it() {
        let text = GuardSample::parse(STATE).unwrap().to_string();
        let first = "Guard in=default rsa_id=0101010101010101010101010101010101010101 nickname=one \
            sampled_on=2026-11-20T10:00:00 sampled_idx=0 sampled_by=0.4.9.11 listed=1 \
            confirmed_on=2026-11-21T11:00:00 confirmed_idx=0";
        assert_eq!(text.lines().next(), Some(first));
        assert!(text.lines().nth(2).unwrap().ends_with("unlisted_since=2026-11-27T09:00:00 listed=0"), "{text}");
    }

    #[test]
    fn lines_of_a_tor_that_does_not_number_its_guards_keep_their_order() {
        let text = STATE.replace(" sampled_idx=0", "").replace(" sampled_idx=1", "").replace(" sampled_idx=2", "");
        let sample = GuardSample::parse(&text).unwrap();
        let numbers: Vec<_> = sample.guards().iter().map(|guard| guard.identity[0]).collect();
        assert_eq!(numbers, [1, 3, 2]);
    }

    #[test]
    fn the_answer_to_getinfo_gives_the_same_order() {
        let text = format!(
            "${} never-connected\n${}~two up\n${}=three down 2026-11-28 10:00:00\n",
            "01".repeat(20),
            "02".repeat(20),
            "03".repeat(20)
        );
        let sample = GuardSample::parse_entry_guards(&text, 77).unwrap();
        let found: Vec<_> = sample.guards().iter().map(|guard| (guard.identity[0], &*guard.nickname)).collect();
        assert_eq!(found, [(1, ""), (2, "two"), (3, "three")]);
        assert!(sample.guards().iter().all(|guard| guard.sampled_on == 77 && guard.is_listed()));
        assert_eq!(GuardSample::parse_entry_guards("", 77), Ok(GuardSample::default()));
        for bad in ["$0101~one up", "$xx up", &text.repeat(2), &format!("${}~a_b up", "01".repeat(20))] {
            assert!(GuardSample::parse_entry_guards(bad, 77).is_err(), "{bad}");
        }
    }

    #[test]
    fn damaged_lines_are_an_error() {
        for (good, bad) in [
            ("rsa_id=0101", "rsa_id=01"),
            ("rsa_id=0101", "rsa_id=xx01"),
            ("rsa_id=0202020202020202020202020202020202020202", "rsa_id=0101010101010101010101010101010101010101"),
            ("nickname=one", "nickname=one\u{1f}"),
            ("nickname=one", "nickname=a_name_with_underscores"),
            ("nickname=one", "nickname"),
            ("nickname=one", "nickname=one nickname=one"),
            ("sampled_on=2026-11-20T10:00:00", "sampled_on=2026-11-20"),
            ("sampled_on=2026-11-20T10:00:00", "sampled_on=2026-13-20T10:00:00"),
            ("sampled_on=2026-11-20T10:00:00 ", ""),
            ("sampled_idx=0", "sampled_idx=-1"),
            ("sampled_idx=0", "sampled_idx=+1"),
            ("sampled_idx=0", "sampled_idx=99999999999"),
            ("sampled_by=0.4.9.11", "sampled_by=\""),
            ("listed=1", "listed=2"),
            ("confirmed_on=2026-11-21T11:00:00", "confirmed_on=never"),
        ] {
            let text = STATE.replacen(good, bad, 1);
            assert_ne!(text, STATE, "{good}");
            assert!(GuardSample::parse(&text).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_text_without_guards_gives_an_empty_sample() {
        for text in ["", "TorVersion Tor 0.4.9.11\n", "Guardian in=default\n", "Guard in=restricted x=y\n"] {
            assert_eq!(GuardSample::parse(text), Ok(GuardSample::default()), "{text:?}");
        }
    }

    #[test]
    fn too_long_a_text_is_an_error() {
        assert_eq!(GuardSample::parse(&"\n".repeat(MAX_BYTES + 1)), Err(GuardError::TooLong));
        let guards: Vec<_> = (0..=60).map(|number| guard(number, 0)).collect();
        assert_eq!(GuardSample::new(guards.clone()), Err(GuardError::TooMany));
        let text: String = guards.chunks(30).map(|part| GuardSample::new(part.to_vec()).unwrap().to_string()).collect();
        assert_eq!(GuardSample::parse(&text), Err(GuardError::TooMany));
    }

    proptest! {
        #[test]
        fn a_sample_is_read_as_it_was_written(sample in any_sample(LATEST)) {
            prop_assert_eq!(GuardSample::parse(&sample.to_string()), Ok(sample));
        }

        #[test]
        fn reading_never_panics(text in "(\\PC|\n|Guard in=default |rsa_id=[0-9A-F]{40} |[a-z_]{2,9}=|[0-9T:-]{1,19}){0,80}") {
            let _ = GuardSample::parse(&text);
            let _ = GuardSample::parse_entry_guards(&text, 0);
        }
    }
}
