//! A parser for the microdescriptor consensus (dir-spec, sections 3.4.1 and 3.9.2), limited to the
//! parts that onion services need.

use std::str::SplitAsciiWhitespace;
use std::time::SystemTime;

use data_encoding::BASE64;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::middles::{Middle, MiddleWeights, Traits};
use super::{ConsensusError, Fingerprint, MAX_DOCUMENT_BYTES, base64_array};

/// The parts of a consensus that onion services need.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) valid_after: SystemTime,
    pub(super) fresh_until: SystemTime,
    pub(super) valid_until: SystemTime,
    pub(super) shared_random_previous: Option<[u8; 32]>,
    pub(super) shared_random_current: Option<[u8; 32]>,
    pub(super) params: Params,
    /// The v3 HSDirs in ascending order of their fingerprints.
    pub(super) hsdirs: Vec<HsDirEntry>,
    /// The relays that can be vanguards.
    pub(super) middles: Vec<Middle>,
}

/// The consensus entry of a relay that stores v3 descriptors.
#[derive(Debug)]
pub(super) struct HsDirEntry {
    pub(super) fingerprint: Fingerprint,
    /// The SHA-256 digest of the relay's microdescriptor.
    pub(super) microdescriptor: [u8; 32],
}

/// Consensus parameters (param-spec), clamped to their limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Params {
    /// `hsdir_interval`, the length of a time period in minutes.
    pub(super) interval: u64,
    /// `hsdir_n_replicas`, the number of replicas of a descriptor.
    pub(super) replicas: u8,
    /// `hsdir_spread_store`, the number of HSDirs per replica that store a descriptor.
    pub(super) spread_store: u8,
    /// `hsdir_spread_fetch`, the number of HSDirs per replica from which clients fetch.
    pub(super) spread_fetch: u8,
}

impl Default for Params {
    fn default() -> Self {
        Self { interval: 1440, replicas: 2, spread_store: 4, spread_fetch: 3 }
    }
}

impl Document {
    pub(super) fn parse(text: &str) -> Result<Self, ConsensusError> {
        if text.len() > MAX_DOCUMENT_BYTES {
            return Err(ConsensusError::TooLong);
        }
        let mut lines = text.lines();
        if lines.next() != Some("network-status-version 3 microdesc") {
            return Err(ConsensusError::NotMicrodescConsensus);
        }

        let mut header = Header::default();
        let mut routers = Routers::default();
        while let Some(line) = lines.next() {
            let mut words = line.split_ascii_whitespace();
            match words.next().unwrap_or_default() {
                // Only the weights and the signatures follow this line.
                "directory-footer" => return header.finish(routers.finish()?, MiddleWeights::of_footer(lines)),
                "r" => routers.begin(words)?,
                keyword if routers.current.is_some() => routers.item(keyword, words)?,
                keyword => header.item(keyword, words)?,
            }
        }
        Err(ConsensusError::Missing("directory-footer"))
    }
}

/// The lines before the first router entry.
#[derive(Default)]
struct Header {
    consensus: Option<()>,
    valid_after: Option<SystemTime>,
    fresh_until: Option<SystemTime>,
    valid_until: Option<SystemTime>,
    shared_random_previous: Option<[u8; 32]>,
    shared_random_current: Option<[u8; 32]>,
    params: Option<Params>,
}

impl Header {
    fn item(&mut self, keyword: &str, words: SplitAsciiWhitespace<'_>) -> Result<(), ConsensusError> {
        match keyword {
            "vote-status" => {
                let consensus = words.eq(["consensus"]).then_some(());
                once("vote-status", &mut self.consensus, consensus)
            }
            "valid-after" => once("valid-after", &mut self.valid_after, time(words)),
            "fresh-until" => once("fresh-until", &mut self.fresh_until, time(words)),
            "valid-until" => once("valid-until", &mut self.valid_until, time(words)),
            "shared-rand-previous-value" => {
                once("shared-rand-previous-value", &mut self.shared_random_previous, shared_random(words))
            }
            "shared-rand-current-value" => {
                once("shared-rand-current-value", &mut self.shared_random_current, shared_random(words))
            }
            "params" => once("params", &mut self.params, params(words)),
            _ => Ok(()),
        }
    }

    fn finish(self, routers: Routers, weights: MiddleWeights) -> Result<Document, ConsensusError> {
        self.consensus.ok_or(ConsensusError::Missing("vote-status"))?;
        Ok(Document {
            valid_after: self.valid_after.ok_or(ConsensusError::Missing("valid-after"))?,
            fresh_until: self.fresh_until.ok_or(ConsensusError::Missing("fresh-until"))?,
            valid_until: self.valid_until.ok_or(ConsensusError::Missing("valid-until"))?,
            shared_random_previous: self.shared_random_previous,
            shared_random_current: self.shared_random_current,
            params: self.params.unwrap_or_default(),
            hsdirs: routers.hsdirs,
            middles: routers.middles.into_iter().map(|(relay, traits)| weights.middle(relay, traits)).collect(),
        })
    }
}

/// The router entries that have been read so far.
#[derive(Default)]
struct Routers {
    hsdirs: Vec<HsDirEntry>,
    middles: Vec<(Fingerprint, Traits)>,
    current: Option<Router>,
}

/// The router entry that is being read.
struct Router {
    fingerprint: Fingerprint,
    microdescriptor: Option<[u8; 32]>,
    flags: Option<Flags>,
    hsdir_v3: Option<bool>,
    bandwidth: u64,
}

/// The flags of a relay that matter here.
#[derive(Default)]
struct Flags {
    hsdir: bool,
    /// The flags Guard and Exit of a relay that can be a vanguard. None for any other relay.
    vanguard: Option<(bool, bool)>,
}

impl Flags {
    /// Parses the flags of an `s` line. A vanguard needs the flags Fast and Stable
    /// (vanguards-spec, "Selecting relays"). Like C tor, this method does not count a bad exit as
    /// an exit.
    fn parse(words: SplitAsciiWhitespace<'_>) -> Self {
        let flags: Vec<_> = words.collect();
        let has = |flag| flags.contains(&flag);
        let can_be_vanguard = has("Fast") && has("Stable") && has("Valid");
        let kind = (has("Guard"), has("Exit") && !has("BadExit"));
        Self { hsdir: has("HSDir"), vanguard: can_be_vanguard.then_some(kind) }
    }
}

impl Routers {
    /// Parses `"r" SP nickname SP identity SP date SP time SP IP SP ORPort SP DirPort` and starts a
    /// new router entry. The identity is 27 characters of base64.
    fn begin(&mut self, mut words: SplitAsciiWhitespace<'_>) -> Result<(), ConsensusError> {
        let identity = words.nth(1).and_then(base64_array);
        let fingerprint = Fingerprint(identity.ok_or(ConsensusError::Malformed("r"))?);
        if self.current.as_ref().is_some_and(|previous| previous.fingerprint >= fingerprint) {
            return Err(ConsensusError::RouterOrder);
        }
        self.end_current()?;
        self.current = Some(Router { fingerprint, microdescriptor: None, flags: None, hsdir_v3: None, bandwidth: 0 });
        Ok(())
    }

    fn item(&mut self, keyword: &str, mut words: SplitAsciiWhitespace<'_>) -> Result<(), ConsensusError> {
        let Some(router) = &mut self.current else { return Ok(()) };
        match keyword {
            "m" => once("m", &mut router.microdescriptor, words.next().and_then(base64_array)),
            "s" => once("s", &mut router.flags, Some(Flags::parse(words))),
            "pr" => once("pr", &mut router.hsdir_v3, Some(words.any(supports_hsdir_v3))),
            "w" => {
                let bandwidth = words.find_map(|word| word.strip_prefix("Bandwidth="));
                // A relay of unknown bandwidth can still be an HSDir.
                router.bandwidth = bandwidth.and_then(|digits| digits.parse::<u32>().ok()).unwrap_or_default().into();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Adds the finished entry to the HSDirs if it belongs on the ring, and to the middles if it
    /// can be a vanguard. Like C tor, this method requires the HSDir flag and the protocol version
    /// HSDir=2 of an HSDir, but no other flag, because a consensus lists only running and valid
    /// relays (dir-spec, section 3.8).
    fn end_current(&mut self) -> Result<(), ConsensusError> {
        let Some(router) = self.current.take() else { return Ok(()) };
        let microdescriptor = router.microdescriptor.ok_or(ConsensusError::Missing("m"))?;
        let flags = router.flags.ok_or(ConsensusError::Missing("s"))?;
        if let Some((guard, exit)) = flags.vanguard {
            let traits = Traits { bandwidth: router.bandwidth, guard, exit };
            self.middles.push((router.fingerprint, traits));
        }
        if flags.hsdir && router.hsdir_v3 == Some(true) {
            self.hsdirs.push(HsDirEntry { fingerprint: router.fingerprint, microdescriptor });
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Self, ConsensusError> {
        self.end_current()?;
        Ok(self)
    }
}

/// Stores the value of an item that must not appear more than once. `value` is `None` if the line
/// is malformed.
fn once<T>(keyword: &'static str, slot: &mut Option<T>, value: Option<T>) -> Result<(), ConsensusError> {
    let value = value.ok_or(ConsensusError::Malformed(keyword))?;
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(ConsensusError::Repeated(keyword)),
    }
}

/// Parses `YYYY-MM-DD SP HH:MM:SS` in UTC.
pub(super) fn time(mut words: SplitAsciiWhitespace<'_>) -> Option<SystemTime> {
    let (date, clock) = (words.next()?, words.next()?);
    let has_form = |text: &str, separator: u8, separators: [usize; 2], length: usize| {
        text.len() == length
            && text
                .bytes()
                .enumerate()
                .all(|(i, byte)| if separators.contains(&i) { byte == separator } else { byte.is_ascii_digit() })
    };
    if !has_form(date, b'-', [4, 7], 10) || !has_form(clock, b':', [2, 5], 8) {
        return None;
    }
    let civil = DateTime::from_parts(date.parse().ok()?, clock.parse().ok()?);
    Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp().into())
}

/// Parses `NumReveals SP Value`, where the value is 32 bytes in 44 characters of base64. Additional
/// words are ignored, because later versions may add them.
fn shared_random(mut words: SplitAsciiWhitespace<'_>) -> Option<[u8; 32]> {
    words.next()?.parse::<u64>().ok()?;
    BASE64.decode(words.next()?.as_bytes()).ok()?.try_into().ok()
}

/// Parses `Keyword=Int32 …`. A value outside the limits of its parameter is clamped to the
/// nearest limit, as in C tor.
fn params(words: SplitAsciiWhitespace<'_>) -> Option<Params> {
    let mut params = Params::default();
    for word in words {
        let (name, value) = word.split_once('=')?;
        let value: i32 = value.parse().ok()?;
        let octet = |limit: u8| u8::try_from(value.clamp(1, limit.into())).ok();
        match name {
            "hsdir_interval" => params.interval = u64::try_from(value.clamp(30, 14400)).ok()?,
            "hsdir_n_replicas" => params.replicas = octet(16)?,
            "hsdir_spread_store" => params.spread_store = octet(128)?,
            "hsdir_spread_fetch" => params.spread_fetch = octet(128)?,
            _ => {}
        }
    }
    Some(params)
}

/// Returns true if an entry of a `pr` line, such as `HSDir=1-2`, includes version 2 of the HSDir
/// protocol, which serves v3 descriptors.
fn supports_hsdir_v3(entry: &str) -> bool {
    let Some(versions) = entry.strip_prefix("HSDir=") else { return false };
    versions.split(',').any(|range| {
        let (low, high) = range.split_once('-').unwrap_or((range, range));
        let (Ok(low), Ok(high)) = (low.parse::<u32>(), high.parse::<u32>()) else { return false };
        (low..=high).contains(&2)
    })
}

#[cfg(test)]
mod tests;
