//! The `flow-control` item (rend-spec-v3, section 2.5.2.1; proposal 324), which describes the
//! congestion control that a service supports.

use std::fmt;
use std::str::FromStr;

use super::DescriptorError;

pub(super) const FLOW_CONTROL: &str = "flow-control";

/// The version of the `FlowCtrl` protocol that is congestion control (proposal 324). Without it,
/// clients use fixed windows.
const CONGESTION_CONTROL: u8 = 2;
/// The highest version number that a subprotocol can have (dir-spec, "Subprotocol versions").
const MAX_VERSION: u8 = 63;

/// The supported versions of the `FlowCtrl` protocol, and the SENDME increment, for example
/// `1-2 31`. The increment is the number of cells after which a SENDME is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowControl {
    /// The supported versions as a bit set, in which bit n is set for version n.
    versions: u64,
    sendme_increment: u8,
}

impl FlowControl {
    /// Returns the flow control that both services support, if any. Both services must have the
    /// same SENDME increment: a client uses the increment from the descriptor and a service uses
    /// its own, so with different increments the two would disagree about when a SENDME is due.
    pub fn agreed(self, other: Self) -> Option<Self> {
        let versions = self.versions & other.versions;
        (versions != 0 && self.sendme_increment == other.sendme_increment).then_some(Self { versions, ..self })
    }

    /// Returns the SENDME increment of congestion control, or None if congestion control is not
    /// supported.
    pub fn congestion_control(self) -> Option<u8> {
        self.speaks(CONGESTION_CONTROL).then_some(self.sendme_increment)
    }

    /// Returns true if this version of the `FlowCtrl` protocol is supported.
    fn speaks(self, version: u8) -> bool {
        self.versions & (1 << version) != 0
    }
}

impl FromStr for FlowControl {
    type Err = DescriptorError;

    /// Parses the arguments of a `flow-control` item. Additional arguments, which a later version
    /// may define, are ignored. An increment of 0 is an error, because clients would reject the
    /// whole descriptor.
    fn from_str(text: &str) -> Result<Self, DescriptorError> {
        let malformed = DescriptorError::Malformed(FLOW_CONTROL);
        let mut arguments = text.split_ascii_whitespace();
        let (ranges, increment) = arguments.next().zip(arguments.next()).ok_or(malformed)?;
        let mut versions = 0;
        for range in ranges.split(',') {
            let (low, high) = range.split_once('-').unwrap_or((range, range));
            let (low, high) = (version(low).ok_or(malformed)?, version(high).ok_or(malformed)?);
            if low > high {
                return Err(malformed);
            }
            (low..=high).for_each(|version| versions |= 1 << version);
        }
        let sendme_increment = number(increment).filter(|increment| *increment > 0).ok_or(malformed)?;
        Ok(Self { versions, sendme_increment })
    }
}

fn version(text: &str) -> Option<u8> {
    number(text).filter(|version| *version <= MAX_VERSION)
}

/// Parses a number that consists only of decimal digits. `u8::from_str` would also accept a leading
/// plus sign.
fn number(text: &str) -> Option<u8> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Formats the versions as tor does, in ascending order and with consecutive versions merged into
/// ranges.
impl fmt::Display for FlowControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let mut next = 0;
        while next <= MAX_VERSION {
            let low = next;
            while next <= MAX_VERSION && self.speaks(next) {
                next += 1;
            }
            match next - low {
                0 => next += 1,
                1 => write!(f, "{separator}{low}")?,
                _ => write!(f, "{separator}{low}-{}", next - 1)?,
            }
            if self.speaks(low) {
                separator = ",";
            }
        }
        write!(f, " {}", self.sendme_increment)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> FlowControl {
        text.parse().unwrap()
    }

    #[test]
    fn parses_and_formats_version_ranges() {
        for text in ["1-2 31", "2 31", "1,3-5,63 255", "0-63 1"] {
            assert_eq!(parse(text).to_string(), text);
        }
        assert_eq!(parse("2,1 31 more").to_string(), "1-2 31");
        for bad in ["", "1-2", "x 31", "1- 31", "2-1 31", "64 31", "1--2 31", "1, 31", "1-2 256", "1-2 +1", "1-2 0"] {
            assert_eq!(bad.parse::<FlowControl>(), Err(DescriptorError::Malformed("flow-control")), "{bad}");
        }
    }

    #[test]
    fn the_common_flow_control_needs_a_shared_version_and_an_equal_increment() {
        assert_eq!(parse("1-2 31").agreed(parse("2 31")), Some(parse("2 31")));
        assert_eq!(parse("1-2 31").agreed(parse("2-3 31")), Some(parse("2 31")));
        assert_eq!(parse("1 31").agreed(parse("2 31")), None);
        assert_eq!(parse("1-2 31").agreed(parse("1-2 32")), None);
    }

    #[test]
    fn only_version_2_is_congestion_control() {
        for (text, increment) in [("1-2 31", Some(31)), ("2 7", Some(7)), ("1 31", None), ("3-5 31", None)] {
            assert_eq!(parse(text).congestion_control(), increment, "{text}");
        }
    }

    proptest! {
        #[test]
        fn parses_every_flow_control_that_it_formats(versions in 1_u64.., sendme_increment in 1_u8..) {
            let flow_control = FlowControl { versions, sendme_increment };
            prop_assert_eq!(parse(&flow_control.to_string()), flow_control);
            prop_assert_eq!(flow_control.agreed(flow_control), Some(flow_control));
        }
    }
}
