//! The fingerprints that identify relays.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXUPPER_PERMISSIVE;

use super::ConsensusError;

/// A relay's RSA identity digest of 20 bytes. It is displayed as 40 hexadecimal digits, the form
/// that HSPOST's SERVER argument requires.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 20]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02X}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = ConsensusError;

    /// Parses forty hexadecimal digits with or without a leading `$`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix('$').unwrap_or(text).as_bytes();
        let mut bytes = [0; 20];
        if digits.len() != 40 {
            return Err(ConsensusError::Fingerprint);
        }
        HEXUPPER_PERMISSIVE.decode_mut(digits, &mut bytes).map_err(|_| ConsensusError::Fingerprint)?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn accepts_either_case_and_a_dollar_sign() {
        let expected = Fingerprint([0xAB; 20]);
        assert_eq!("ab".repeat(20).parse(), Ok(expected));
        assert_eq!(format!("${}", "AB".repeat(20)).parse(), Ok(expected));
    }

    #[test]
    fn rejects_any_other_form() {
        for text in ["", "$", &"A".repeat(39), &"A".repeat(41), &"G".repeat(40), &format!("$${}", "A".repeat(39))] {
            assert_eq!(text.parse::<Fingerprint>(), Err(ConsensusError::Fingerprint), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parses_every_fingerprint_that_it_formats(bytes: [u8; 20]) {
            let fingerprint = Fingerprint(bytes);
            prop_assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        }
    }
}
