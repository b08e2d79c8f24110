//! The two layers of vanguards, and the text in which they are stored and sent.

use std::collections::BTreeSet;
use std::fmt;

use data_encoding::{HEXUPPER, HEXUPPER_PERMISSIVE};
use sha2::{Digest as _, Sha256};

/// The first line of the text. A later format has another version.
const HEADER: &str = "onionbalance-vanguards 1";
/// The maximum length of a text in bytes.
const MAX_BYTES: usize = 8 * 1024;
/// The maximum number of relays in a layer. Tor chooses a relay of a larger set by its bandwidth.
const MAX_RELAYS: usize = 20;
/// The latest date that can be written, in the year 9999.
const LATEST: u64 = 253_402_300_799;

/// A layer of vanguards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// The relays at the second hop.
    Second,
    /// The relays at the third hop.
    Third,
}

impl Layer {
    /// Both layers.
    pub const ALL: [Self; 2] = [Self::Second, Self::Third];

    /// Returns the number of the hop.
    pub fn number(self) -> u8 {
        match self {
            Self::Second => 2,
            Self::Third => 3,
        }
    }

    fn keyword(self) -> &'static str {
        match self {
            Self::Second => "layer2",
            Self::Third => "layer3",
        }
    }
}

/// A relay in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vanguard {
    /// The relay's RSA identity digest.
    pub identity: [u8; 20],
    /// The time at which the relay is replaced, in seconds since the Unix epoch.
    pub expires: u64,
}

/// The layers of vanguards of a service. No relay occurs twice in a layer, but a relay may be in
/// both. The relays of a layer are in ascending order of their identities.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vanguards {
    second: Vec<Vanguard>,
    third: Vec<Vanguard>,
}

/// An error that explains why a text has no usable vanguards. No message quotes the text, because a
/// log must not name a service's vanguards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VanguardsError {
    /// The text is too long.
    #[error("the text with the vanguards has more than {} bytes", MAX_BYTES)]
    TooLong,
    /// The text begins with another line, perhaps of a later version.
    #[error("the text with the vanguards does not begin with \"{}\"", HEADER)]
    Header,
    /// A line is not of the form that [`Vanguards`] writes.
    #[error("line {0} of the vanguards is malformed")]
    Line(usize),
    /// There are too many relays in a layer.
    #[error("a layer of vanguards has more than {} relays", MAX_RELAYS)]
    TooMany,
    /// Two lines name the same relay.
    #[error("a relay is listed twice in a layer of vanguards")]
    Duplicate,
}

impl Vanguards {
    /// Creates vanguards from the relays of each layer. Returns an error if a relay occurs twice in
    /// a layer or a layer has too many relays.
    pub fn new(second: Vec<Vanguard>, third: Vec<Vanguard>) -> Result<Self, VanguardsError> {
        let mut vanguards = Self { second, third };
        for layer in Layer::ALL {
            let relays = vanguards.of_mut(layer);
            if relays.len() > MAX_RELAYS {
                return Err(VanguardsError::TooMany);
            }
            let distinct: BTreeSet<_> = relays.iter().map(|relay| relay.identity).collect();
            if distinct.len() < relays.len() {
                return Err(VanguardsError::Duplicate);
            }
            relays.sort_unstable();
        }
        Ok(vanguards)
    }

    /// Reads the text that [`Vanguards`] displays.
    pub fn parse(text: &str) -> Result<Self, VanguardsError> {
        if text.len() > MAX_BYTES {
            return Err(VanguardsError::TooLong);
        }
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return Err(VanguardsError::Header);
        }
        let (mut second, mut third) = (Vec::new(), Vec::new());
        for (index, line) in lines.enumerate() {
            let (layer, relay) = parse_line(line).ok_or(VanguardsError::Line(index + 2))?;
            match layer {
                Layer::Second => second.push(relay),
                Layer::Third => third.push(relay),
            }
        }
        Self::new(second, third)
    }

    /// Returns the relays of a layer.
    pub fn of(&self, layer: Layer) -> &[Vanguard] {
        match layer {
            Layer::Second => &self.second,
            Layer::Third => &self.third,
        }
    }

    pub(super) fn of_mut(&mut self, layer: Layer) -> &mut Vec<Vanguard> {
        match layer {
            Layer::Second => &mut self.second,
            Layer::Third => &mut self.third,
        }
    }

    /// Returns the identities of the relays of a layer.
    pub fn identities(&self, layer: Layer) -> Vec<[u8; 20]> {
        self.of(layer).iter().map(|relay| relay.identity).collect()
    }

    /// Returns true if there are no vanguards.
    pub fn is_empty(&self) -> bool {
        self.second.is_empty() && self.third.is_empty()
    }

    /// Returns a number that changes with the relays of the layers, but not with their dates. The
    /// number is never 0.
    pub fn id(&self) -> u64 {
        let mut hash = Sha256::new();
        for layer in Layer::ALL {
            hash.update([layer.number()]);
            self.of(layer).iter().for_each(|relay| hash.update(relay.identity));
        }
        let digest = hash.finalize();
        digest.iter().take(8).fold(0, |number: u64, byte| (number << 8) | u64::from(*byte)).max(1)
    }
}

impl fmt::Display for Vanguards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        for layer in Layer::ALL {
            for Vanguard { identity, expires } in self.of(layer) {
                writeln!(f, "{} {} {}", layer.keyword(), HEXUPPER.encode(identity), (*expires).min(LATEST))?;
            }
        }
        Ok(())
    }
}

/// Parses `LAYER SP IDENTITY SP EXPIRES`.
fn parse_line(line: &str) -> Option<(Layer, Vanguard)> {
    let words: Vec<_> = line.split(' ').collect();
    let [keyword, digits, expires] = words[..] else { return None };
    let layer = Layer::ALL.into_iter().find(|layer| layer.keyword() == keyword)?;
    let mut identity = [0; 20];
    if digits.len() != 2 * identity.len() || !expires.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    HEXUPPER_PERMISSIVE.decode_mut(digits.as_bytes(), &mut identity).ok()?;
    let expires = expires.parse().ok().filter(|expires| *expires <= LATEST)?;
    Some((layer, Vanguard { identity, expires }))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::collection::btree_map;
    use proptest::prelude::*;

    use super::*;

    pub(in crate::link::vanguards) fn relay(number: u8, expires: u64) -> Vanguard {
        Vanguard { identity: [number; 20], expires }
    }

    /// Generates layers of the relays with the numbers 0 to 29.
    pub(in crate::link::vanguards) fn any_vanguards(latest: u64) -> impl Strategy<Value = Vanguards> {
        let layer = move || {
            btree_map(0..30_u8, 0..=latest, 0..8)
                .prop_map(|relays| relays.into_iter().map(|(number, expires)| relay(number, expires)).collect())
        };
        (layer(), layer()).prop_map(|(second, third)| Vanguards::new(second, third).unwrap())
    }

    fn sample() -> Vanguards {
        Vanguards::new(vec![relay(2, 20), relay(1, 10)], vec![relay(2, 30)]).unwrap()
    }

    #[test]
    fn the_text_names_each_relay_with_its_layer_and_its_date() {
        let text = format!(
            "onionbalance-vanguards 1\nlayer2 {} 10\nlayer2 {} 20\nlayer3 {} 30\n",
            "01".repeat(20),
            "02".repeat(20),
            "02".repeat(20)
        );
        assert_eq!(sample().to_string(), text);
        assert_eq!(Vanguards::parse(&text), Ok(sample()));
        assert_eq!(Vanguards::parse("onionbalance-vanguards 1\n"), Ok(Vanguards::default()));
    }

    #[test]
    fn damaged_text_is_an_error() {
        let text = sample().to_string();
        for (good, bad, expected) in [
            ("vanguards 1", "vanguards 2", VanguardsError::Header),
            ("layer2 0101", "layer1 0101", VanguardsError::Line(2)),
            ("layer2 0101", "layer2 01", VanguardsError::Line(2)),
            ("layer2 0101", "layer2 xx01", VanguardsError::Line(2)),
            ("layer2 0101", "layer2  0101", VanguardsError::Line(2)),
            (" 20\n", " -20\n", VanguardsError::Line(3)),
            (" 20\n", " +20\n", VanguardsError::Line(3)),
            (" 20\n", " 253402300800\n", VanguardsError::Line(3)),
            (" 20\n", " \n", VanguardsError::Line(3)),
            (" 20\n", "\n", VanguardsError::Line(3)),
            (" 20\n", " 20 x\n", VanguardsError::Line(3)),
            (" 30\n", " 30\n\n", VanguardsError::Line(5)),
        ] {
            let damaged = text.replacen(good, bad, 1);
            assert_ne!(damaged, text);
            assert_eq!(Vanguards::parse(&damaged), Err(expected), "{bad}");
        }
        let twice = format!("{text}layer3 {} 31\n", "02".repeat(20));
        assert_eq!(Vanguards::parse(&twice), Err(VanguardsError::Duplicate));
        assert_eq!(Vanguards::parse(""), Err(VanguardsError::Header));
        assert_eq!(Vanguards::parse(&format!("{HEADER}{}", "\n".repeat(MAX_BYTES))), Err(VanguardsError::TooLong));
        let many = (0..=20).map(|number| relay(number, 0)).collect();
        assert_eq!(Vanguards::new(many, Vec::new()), Err(VanguardsError::TooMany));
    }

    #[test]
    fn the_number_changes_with_the_relays_only() {
        let later = Vanguards::new(vec![relay(1, 11), relay(2, 21)], vec![relay(2, 31)]).unwrap();
        assert_eq!(sample().id(), later.id());
        for other in [
            Vanguards::new(vec![relay(1, 10)], vec![relay(2, 20), relay(2, 30)].split_off(1)).unwrap(),
            Vanguards::new(vec![relay(2, 30)], vec![relay(1, 10), relay(2, 20)]).unwrap(),
            Vanguards::new(vec![relay(1, 10), relay(3, 20)], vec![relay(2, 30)]).unwrap(),
            Vanguards::default(),
        ] {
            assert_ne!(sample().id(), other.id(), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn vanguards_are_read_as_they_were_written(vanguards in any_vanguards(LATEST)) {
            prop_assert_eq!(Vanguards::parse(&vanguards.to_string()), Ok(vanguards));
        }

        #[test]
        fn reading_never_panics(lines in "((layer[23] )?([0-9A-F]{40}|\\PC{0,9}) [0-9]{0,20}(\n|é){0,2}){0,12}") {
            let _ = Vanguards::parse(&lines);
            let _ = Vanguards::parse(&format!("{HEADER}\n{lines}"));
        }
    }
}
