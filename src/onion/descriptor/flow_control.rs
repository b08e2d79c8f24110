//! `flow-control` (rend-spec-v3, section 2.5.2.1; proposal 324): which congestion control a service speaks.

use std::fmt;
use std::str::FromStr;

use super::DescriptorError;

pub(super) const FLOW_CONTROL: &str = "flow-control";

/// The greatest version of a protocol (dir-spec, "Subprotocol versions").
const MAX_VERSION: u8 = 63;

/// Versions of the `FlowCtrl` protocol, and after how many cells a SENDME is sent: "1-2 31".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowControl {
    /// Bit n: version n.
    versions: u64,
    sendme_increment: u8,
}

impl FlowControl {
    /// What is true of both. A client takes the increment from the descriptor, a service its own: with another one the two
    /// would count differently, so there is no flow control that both would keep to.
    pub fn agreed(self, other: Self) -> Option<Self> {
        let versions = self.versions & other.versions;
        (versions != 0 && self.sendme_increment == other.sendme_increment).then_some(Self { versions, ..self })
    }

    /// Whether a version of the protocol is spoken.
    fn speaks(self, version: u8) -> bool {
        self.versions & (1 << version) != 0
    }
}

impl FromStr for FlowControl {
    type Err = DescriptorError;

    /// More arguments may come one day and are left out. An increment of 0 makes clients refuse the whole descriptor.
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

/// Digits only (`u8::from_str` takes a leading plus sign).
fn number(text: &str) -> Option<u8> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// As tor writes it: ranges in order, as long as they can be.
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
    fn reads_and_writes_ranges() {
        for text in ["1-2 31", "2 31", "1,3-5,63 255", "0-63 1"] {
            assert_eq!(parse(text).to_string(), text);
        }
        assert_eq!(parse("2,1 31 more").to_string(), "1-2 31");
        for bad in ["", "1-2", "x 31", "1- 31", "2-1 31", "64 31", "1--2 31", "1, 31", "1-2 256", "1-2 +1", "1-2 0"] {
            assert_eq!(bad.parse::<FlowControl>(), Err(DescriptorError::Malformed("flow-control")), "{bad}");
        }
    }

    #[test]
    fn agrees_on_common_versions_of_one_increment() {
        assert_eq!(parse("1-2 31").agreed(parse("2 31")), Some(parse("2 31")));
        assert_eq!(parse("1-2 31").agreed(parse("2-3 31")), Some(parse("2 31")));
        assert_eq!(parse("1 31").agreed(parse("2 31")), None);
        assert_eq!(parse("1-2 31").agreed(parse("1-2 32")), None);
    }

    proptest! {
        #[test]
        fn round_trips(versions in 1_u64.., sendme_increment in 1_u8..) {
            let flow_control = FlowControl { versions, sendme_increment };
            prop_assert_eq!(parse(&flow_control.to_string()), flow_control);
            prop_assert_eq!(flow_control.agreed(flow_control), Some(flow_control));
        }
    }
}
