//! Asynchronous events (control-spec, section 4.1).

use data_encoding::HEXUPPER_PERMISSIVE;

use super::codec::Message;
use super::text::keywords;
use crate::onion::OnionAddress;

/// A longer descriptor than this is not kept, in bytes: HSDirs take 50,000.
const MAX_DESCRIPTOR: usize = 64 << 10;

/// An asynchronous event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `HS_DESC`.
    HsDesc(HsDescEvent),
    /// `HS_DESC_CONTENT`.
    HsDescContent(HsDescContent),
    /// NEWCONSENSUS: a new consensus came (its body is left out: ask with GETINFO).
    NewConsensus,
    /// NEWDESC: descriptors came.
    NewDescriptors,
    /// `STATUS_CLIENT` BOOTSTRAP: percent.
    Bootstrap(u8),
    /// Any other, also one of the above in an unknown form: its name and the rest of its first line.
    Other(String, String),
}

/// What a `HS_DESC` event tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HsDescEvent {
    /// What happened.
    pub action: HsDescAction,
    /// The onion address; None for UNKNOWN.
    pub address: Option<OnionAddress>,
    /// The HSDir's fingerprint, 20 bytes, where the event names one.
    pub hsdir: Option<[u8; 20]>,
    /// The descriptor id (blinded key, base64), where told.
    pub descriptor_id: Option<String>,
    /// REASON=.
    pub reason: Option<String>,
}

/// What a fetch brought (`HS_DESC_CONTENT`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HsDescContent {
    /// Whose descriptor.
    pub address: OnionAddress,
    /// From which HSDir: its fingerprint, 20 bytes.
    pub hsdir: [u8; 20],
    /// Its text, unchecked, with `\n` line ends. Empty after a failure.
    pub descriptor: String,
}

/// `HS_DESC`'s actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HsDescAction {
    /// REQUESTED: a fetch begins.
    Requested,
    /// UPLOAD: an upload of tor's own service begins. HSPOST gives none.
    Upload,
    /// RECEIVED: a fetch succeeded.
    Received,
    /// UPLOADED: the HSDir took the descriptor.
    Uploaded,
    /// IGNORE: fetched, but a newer one is known.
    Ignore,
    /// FAILED: a fetch or an upload, see `reason`.
    Failed,
    /// CREATED: tor made a descriptor of its own service.
    Created,
}

/// The percentage in what follows a bootstrap's severity, or in the whole value of `GETINFO status/bootstrap-phase`:
/// `NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY="Done"`.
pub fn bootstrap_percent(phase: &str) -> Option<u8> {
    let words = keywords(phase)?;
    if !words.iter().any(|(word, value)| *word == "BOOTSTRAP" && value.is_none()) {
        return None;
    }
    let (_, progress) = words.into_iter().find(|(word, _)| *word == "PROGRESS")?;
    String::from_utf8(progress?).ok()?.parse().ok().filter(|percent| *percent <= 100)
}

impl Event {
    /// Reads an event's message.
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
    /// Reads what follows `HS_DESC`: `Action HSAddress AuthType HsDir [DescriptorID] [KEYWORD=value…]`.
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
        // A blinded key comes without base64 padding, so only a keyword has an equals sign.
        let descriptor_id = words.next_if(|word| !word.contains('=')).map(str::to_owned);
        let reason = words.find_map(|word| word.strip_prefix("REASON=")).map(str::to_owned);
        Some(Self { action, address, hsdir, descriptor_id, reason })
    }
}

impl HsDescContent {
    /// Reads what follows `HS_DESC_CONTENT`: `HSAddress DescId HsDir`, and the data of that line.
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

/// Reads a relay's long name, `$FP`, `$FP~nickname` or `$FP=nickname`.
fn fingerprint(name: &str) -> Option<[u8; 20]> {
    let (digits, rest) = name.strip_prefix('$')?.split_at_checked(40)?;
    if !(rest.is_empty() || rest.starts_with(['~', '='])) {
        return None;
    }
    HEXUPPER_PERMISSIVE.decode(digits.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests;
