//! Asynchronous events of the control protocol (control-spec, section 4.1).

use data_encoding::HEXUPPER_PERMISSIVE;

use super::codec::Message;
use super::text::keywords;
use crate::onion::OnionAddress;

/// The maximum length, in bytes, of a descriptor in an `HS_DESC_CONTENT` event. An event with a
/// longer descriptor is parsed as [`Event::Other`]. HSDirs accept less than 50,000 bytes.
const MAX_DESCRIPTOR: usize = 64 << 10;

/// An asynchronous event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An `HS_DESC` event, which reports the progress of a descriptor's upload or fetch.
    HsDesc(HsDescEvent),
    /// An `HS_DESC_CONTENT` event, which contains a fetched descriptor.
    HsDescContent(HsDescContent),
    /// A NEWCONSENSUS event, which reports a new consensus. Its data is discarded, because the
    /// consensus can be read with GETINFO.
    NewConsensus,
    /// A NEWDESC event, which reports new descriptors of relays.
    NewDescriptors,
    /// A `STATUS_CLIENT` BOOTSTRAP event with the progress in percent.
    Bootstrap(u8),
    /// Any other event, or an event in an unknown form. The values are the event's name and the
    /// rest of its first line.
    Other(String, String),
}

/// The content of an `HS_DESC` event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HsDescEvent {
    /// The action that the event reports.
    pub action: HsDescAction,
    /// The onion address, or None if tor reports UNKNOWN.
    pub address: Option<OnionAddress>,
    /// The 20-byte fingerprint of the HSDir, if the event names one.
    pub hsdir: Option<[u8; 20]>,
    /// The descriptor id (the blinded key in base64), if the event has one.
    pub descriptor_id: Option<String>,
    /// The value of `REASON=`, if the event has one.
    pub reason: Option<String>,
}

/// The content of an `HS_DESC_CONTENT` event, which reports the result of a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HsDescContent {
    /// The onion address of the service.
    pub address: OnionAddress,
    /// The 20-byte fingerprint of the HSDir.
    pub hsdir: [u8; 20],
    /// The unchecked text of the descriptor with `\n` line endings. It is empty after a failure.
    pub descriptor: String,
}

/// The actions of `HS_DESC` events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HsDescAction {
    /// REQUESTED: a fetch has started.
    Requested,
    /// UPLOAD: an upload for one of tor's own services has started. HSPOST does not cause this
    /// event.
    Upload,
    /// RECEIVED: a fetch succeeded.
    Received,
    /// UPLOADED: an HSDir accepted the descriptor.
    Uploaded,
    /// IGNORE: a fetched descriptor is older than the one that tor already has.
    Ignore,
    /// FAILED: a fetch or an upload failed, for the reason in [`HsDescEvent::reason`].
    Failed,
    /// CREATED: tor created a descriptor for one of its own services.
    Created,
}

/// Returns the progress of a bootstrap phase in percent. `phase` is either a BOOTSTRAP event
/// without the words before its severity, or the whole value of `GETINFO status/bootstrap-phase`,
/// for example `NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY="Done"`.
pub fn bootstrap_percent(phase: &str) -> Option<u8> {
    let words = keywords(phase)?;
    if !words.iter().any(|(word, value)| *word == "BOOTSTRAP" && value.is_none()) {
        return None;
    }
    let (_, progress) = words.into_iter().find(|(word, _)| *word == "PROGRESS")?;
    String::from_utf8(progress?).ok()?.parse().ok().filter(|percent| *percent <= 100)
}

impl Event {
    /// Parses an event from its message.
    pub fn from_message(message: &Message) -> Self {
        let first = message.lines.first().map_or("", |line| line.text.as_str());
        let (name, rest) = first.split_once(' ').unwrap_or((first, ""));
        let known = match name {
            "HS_DESC" => HsDescEvent::parse(rest).map(Self::HsDesc),
            "HS_DESC_CONTENT" => HsDescContent::parse(rest, message).map(Self::HsDescContent),
            "NEWCONSENSUS" => Some(Self::NewConsensus),
            "NEWDESC" => Some(Self::NewDescriptors),
            "STATUS_CLIENT" => bootstrap_percent(rest).map(Self::Bootstrap),
            _ => None,
        };
        known.unwrap_or_else(|| Self::Other(name.to_owned(), rest.to_owned()))
    }
}

impl HsDescEvent {
    /// Parses the text after `HS_DESC`, which has the form
    /// `Action HSAddress AuthType HsDir [DescriptorID] [KEYWORD=value…]`.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace().peekable();
        let action = HsDescAction::parse(words.next()?)?;
        let address = match words.next()? {
            "UNKNOWN" => None,
            address => Some(address.parse().ok()?),
        };
        let _auth_type = words.next()?;
        let hsdir = match words.next()? {
            "UNKNOWN" => None,
            name => Some(fingerprint(name)?),
        };
        // A blinded key has no base64 padding, so only a keyword contains an equals sign.
        let descriptor_id = words.next_if(|word| !word.contains('=')).map(str::to_owned);
        let reason = words.find_map(|word| word.strip_prefix("REASON=")).map(str::to_owned);
        Some(Self { action, address, hsdir, descriptor_id, reason })
    }
}

impl HsDescContent {
    /// Parses the text after `HS_DESC_CONTENT`, which has the form `HSAddress DescId HsDir`. The
    /// descriptor is the data that follows the first line of `message`.
    fn parse(text: &str, message: &Message) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let (address, _descriptor_id, hsdir) = (words.next()?, words.next()?, words.next()?);
        let descriptor = message.lines.first()?.data.as_deref()?.trim_start_matches('\n');
        (descriptor.len() <= MAX_DESCRIPTOR).then_some(())?;
        let (address, hsdir) = (address.parse().ok()?, fingerprint(hsdir)?);
        Some(Self { address, hsdir, descriptor: descriptor.to_owned() })
    }
}

impl HsDescAction {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "REQUESTED" => Self::Requested,
            "UPLOAD" => Self::Upload,
            "RECEIVED" => Self::Received,
            "UPLOADED" => Self::Uploaded,
            "IGNORE" => Self::Ignore,
            "FAILED" => Self::Failed,
            "CREATED" => Self::Created,
            _ => return None,
        })
    }
}

/// Parses the long name of a relay: `$FP`, `$FP~nickname` or `$FP=nickname`.
fn fingerprint(name: &str) -> Option<[u8; 20]> {
    let (digits, rest) = name.strip_prefix('$')?.split_at_checked(40)?;
    if !(rest.is_empty() || rest.starts_with(['~', '='])) {
        return None;
    }
    HEXUPPER_PERMISSIVE.decode(digits.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests;
